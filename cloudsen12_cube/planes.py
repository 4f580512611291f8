"""The bands of one file of a patch as a cube would hold them: read, checked and cast, or refused as a conversion would.

For those who look at an archive in place: nothing is compressed again, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudsen12_cube.archive import PatchFiles
from cloudsen12_cube.assets import band_name, files_of
from cloudsen12_cube.errors import PatchError
from cloudsen12_cube.fetch import most_bytes, read_file
from cloudsen12_cube.header import Header
from cloudsen12_cube.patch import Planes, cast, check, check_label
from cloudsen12_cube.plan import PatchTask, ShardTask
from cloudsen12_cube.raster import read
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
    path = f"{files.folder}/{files.names[name]}"
    header, pixels = read(read_file(task, patch, name) if data is None else data, path, most_bytes(layout, name))
    check(header, pixels, layout, patch, path)
    wanted = files_of(layout.product)[name]
    found: dict[str, Planes] = {}
    for band, position in zip(wanted, positions(header, wanted, path), strict=True):
        found[band] = cast(pixels[position], layout, header.nodata, path)
        if layout.product == "labels":
            check_label(found[band], band, path)
    return found


def positions(header: Header, wanted: Sequence[str], path: str) -> Sequence[int]:
    """Find the planes of the wanted bands, by the file's descriptions where it has any.

    Raises
    ------
    PatchError
        If the file has other bands.
    """
    if header.count != len(wanted):
        raise PatchError(path, f"{header.count} bands", f"{len(wanted)} ({', '.join(wanted)})")
    described = [band_name(text) for text in header.descriptions]
    if len(wanted) == 1 or not set(described) & set(wanted):
        return range(len(wanted))
    if sorted(described) != sorted(wanted):
        raise PatchError(path, f"bands {', '.join(header.descriptions)}", ", ".join(wanted))
    return [described.index(band) for band in wanted]


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
