"""The demo: write a small archive, convert, verify and summarise it, and save a figure."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cloudsen12_cube import testing
from cloudsen12_cube.cli.render import progress_bar, show_info, show_line, show_report, show_verification
from cloudsen12_cube.conversion import convert
from cloudsen12_cube.dataset import open_cube
from cloudsen12_cube.errors import DestinationError
from cloudsen12_cube.inspection import info, verify
from cloudsen12_cube.plotting import save_overview


def demo(folder: Path, console: Console, no_progress: bool = False) -> int:
    """Run the demo in a folder.

    Parameters
    ----------
    folder : pathlib.Path
        New or empty folder, or that of an earlier demo.
    console : rich.console.Console
        Output of the demo.
    no_progress : bool
        Show no progress bar.

    Returns
    -------
    int
        Exit code of the conversion or the verification.

    Raises
    ------
    DestinationError
        If the folder has other content.
    """
    archive, cube, figure = folder / "archive", folder / "cube.zarr", folder / "overview.png"
    if folder.exists() and any(folder.iterdir()) and not archive.is_dir():
        raise DestinationError(f"{folder} has other content: give the demo a folder of its own")
    if not archive.is_dir():
        show_line(console, f"writing a small archive to {archive}")
        testing.make_archive(archive, rois=3, seed=0)
    with progress_bar(console, no_progress) as progress:
        report = convert(archive, cube, progress=progress)
    show_report(console, report)
    result = verify(cube, source=archive)
    show_verification(console, result)
    show_info(console, info(cube))
    tree = open_cube(cube, products=["s2l1c", "labels"])
    root = tree.to_dataset()
    labelled = root["roi"].values[root["label_type"].values == "high"]
    save_overview(tree, str(labelled[0]), figure, of=("manual_hq", "fmask"))
    show_line(console, f"figure: {figure}")
    return max(report.exit_code, result.exit_code)
