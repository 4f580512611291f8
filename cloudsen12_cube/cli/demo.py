"""The demo: a small archive made, converted, verified, described and drawn."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cloudsen12_cube import testing
from cloudsen12_cube.cli.render import progress_bar, show_info, show_report, show_verification
from cloudsen12_cube.conversion import convert
from cloudsen12_cube.dataset import open_cube
from cloudsen12_cube.errors import DestinationError
from cloudsen12_cube.inspection import info, verify


def demo(folder: Path, console: Console, quiet: bool = False) -> int:
    """Run the demo in a folder.

    Returns
    -------
    int
        Exit code of the verification.

    Raises
    ------
    DestinationError
        If the folder holds something that no demo made.
    """
    from cloudsen12_cube.plotting import save_overview  # matplotlib, which no other command needs

    archive, cube = folder / "archive", folder / "cube.zarr"
    if folder.exists() and any(folder.iterdir()) and not archive.is_dir():
        raise DestinationError(f"{folder} holds something else: give the demo a folder of its own")
    if not archive.is_dir():
        console.print(f"making a small archive in {archive}", markup=False)
        testing.make_archive(archive, rois=3, seed=0)
    with progress_bar(console, quiet) as progress:
        report = convert(archive, cube, progress=progress)
    show_report(console, report)
    result = verify(cube, source=archive)
    show_verification(console, result)
    show_info(console, info(cube))
    tree = open_cube(cube, products=["s2l1c", "labels"])
    root = tree.to_dataset()
    high = [str(r) for r, t in zip(root["roi"].values, root["label_type"].values, strict=True) if t == "high"]
    picture = folder / "overview.png"
    save_overview(tree, high[0], picture, of=("manual_hq", "fmask"))
    console.print(f"picture: {picture}", markup=False)
    return max(report.exit_code, result.exit_code)
