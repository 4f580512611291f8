"""The bands of one file of a patch as a cube would hold them: read, checked and cast, or refused as a conversion would.

For those who look at an archive in place: nothing is compressed again, and nothing is written.
"""

from __future__ import annotations

from cloudsen12_cube.assets import files_of
from cloudsen12_cube.fetch import most_bytes, read_file
from cloudsen12_cube.form import PatchFiles
from cloudsen12_cube.patch import Planes, cast, check, check_label, positions
from cloudsen12_cube.plan import PatchTask, ShardTask
from cloudsen12_cube.record import ABSENT, DONE, FAILED


def planes_of(task: ShardTask, patch: PatchTask, name: str, data: bytes | None = None) -> dict[str, Planes]:
    """Read one file of a patch.

    Parameters
    ----------
    task : ShardTask
    patch : PatchTask
    name : str
        An asset file that the patch has, ``labels/fmask``.
    data : bytes, optional
        Its bytes, where they are there already.

    Returns
    -------
    dict of str to numpy.ndarray
        Band -> stored values, shape (y, x), of the layout's data type.

    Raises
    ------
    PatchError
        If the file cannot go into a cube.
    RemoteError
        If a bucket does not give it: that says nothing of the file.
    """
    files, layout = patch.files or PatchFiles("", ""), task.layout
    path = task.decoder.path(files, name)
    data = read_file(task, patch, name) if data is None else data
    header, pixels = task.decoder.decode(data, files, name, most_bytes(layout, name))
    check(header, pixels, layout, patch, path)
    wanted = files_of(layout.product)[name]
    found: dict[str, Planes] = {}
    for band, position in zip(wanted, positions(header, wanted, path), strict=True):
        found[band] = cast(pixels[position], layout, header.nodata, path)
        if layout.product == "labels":
            check_label(found[band], band, path)
    return found


def listed_status(task: ShardTask, patch: PatchTask) -> int:
    """Tell from the listing alone whether a patch is there: absent, failed where a conversion is sure to refuse it.

    A file that is damaged inside is not seen so: reading it raises.
    """
    if patch.files is None:
        return ABSENT
    files, known = patch.files, files_of(task.layout.product)
    lacking = task.required - files.names.keys()
    refused = [n for n in known if n in files.outside or not 0 != files.sizes.get(n, -1) <= most_bytes(task.layout, n)]
    return FAILED if lacking or refused else DONE
