"""What an archive has become since it was converted: files that changed, went or came."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cloudsen12_cube.assets import ProductName, files_of
from cloudsen12_cube.form import Decoder, PatchFiles
from cloudsen12_cube.record import DONE, PatchRecord, ShardRecord, Source


@dataclass(frozen=True)
class Change:
    """One file that is no longer as it was."""

    path: str
    found: str
    expected: str
    """What the record of the shard says."""

    def __str__(self) -> str:
        return f"{self.path}: {self.found}, converted was {self.expected}"


def here(product: ProductName, files: PatchFiles | None, decoder: Decoder) -> dict[str, int]:
    """Path -> bytes of the files that a patch has now for one product."""
    if files is None:
        return {}
    return {decoder.path(files, f): files.sizes[f] for f in files_of(product) if f in files.names}


def changes(product: ProductName, patch: PatchRecord, files: PatchFiles | None, decoder: Decoder) -> Iterator[Change]:
    """Compare the files that went into a finished patch with those of the archive, by name and size.

    The time of a file is not compared: a copy of an archive has others, and the record of a shard would not be the
    same for the same pixels. Who does not trust the size asks for the sha256.
    """
    was: dict[str, Source] = {source.path: source for source in patch.sources}
    now = here(product, files, decoder)
    for path, source in was.items():
        if path not in now:
            yield Change(path, "gone", f"{source.size} bytes")
        elif now[path] not in (source.size, -1):  # a web server may not tell
            yield Change(path, f"{now[path]} bytes", f"{source.size} bytes")
    for path, size in now.items():
        if path not in was:
            yield Change(path, f"a new file of {size} bytes", "none")


def outdated(product: ProductName, record: ShardRecord, files: dict[int, PatchFiles | None], decoder: Decoder) -> bool:
    """Tell whether a finished patch of a shard has other files now. Files that went are no reason to lose its pixels.

    Parameters
    ----------
    product : str
    record : ShardRecord
    files : dict
        By ``time``.
    decoder : Decoder
        Of the archive.
    """
    done = (patch for patch in record.patches if patch.status == DONE)
    found = (c for patch in done for c in changes(product, patch, files.get(patch.time), decoder))
    return any(change.found != "gone" for change in found)
