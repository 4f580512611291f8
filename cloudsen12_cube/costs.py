"""What reading a cube costs where each request is paid or waited for: requests and bytes, from the layout alone.

A shard's index is one request, which an open cube makes once; the inner chunks of a patch are neighbours and come in
one more; a whole shard is one. A test counts the requests that are really made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_INDEX_ENTRY, _CHECKSUM = 16, 4


@dataclass(frozen=True)
class Cost:
    """What one kind of read costs."""

    what: str
    requests: int
    bytes: int
    """On average over the cube, compressed as stored."""


@dataclass(frozen=True)
class Stored:
    """What of a product lies in the store."""

    times: int
    bands: int
    shards: int
    """Shards that are there."""
    patches: int
    """Patches that are done."""
    bytes: int

    @property
    def index(self) -> int:
        """Bytes of the index of one shard."""
        return _INDEX_ENTRY * self.times * self.bands + _CHECKSUM

    @property
    def patch(self) -> float:
        """Mean bytes of the chunks of one patch."""
        return max(self.bytes - self.shards * self.index, 0) / max(self.patches, 1)


def costs(products: Mapping[str, Stored]) -> tuple[Cost, ...]:
    """Write the sheet.

    Parameters
    ----------
    products : mapping
        Product -> what is stored of it.
    """
    made: list[Cost] = []
    image, label = products.get("s2l1c"), products.get("labels")
    if image and image.shards:
        made += [
            Cost("patch", 2, round(image.index + image.patch)),
            Cost("second patch of an ROI", 1, round(image.patch)),
            Cost("RGB patch", 2, round(image.index + image.patch * 3 / image.bands)),
            Cost("ROI", 1, round(image.bytes / image.shards)),
        ]
    if label and label.shards:
        made.append(Cost("label", 2, round(label.index + label.patch / label.bands)))
    if image and image.shards and label and label.shards:
        requests = image.shards + image.patches + label.shards + label.patches
        size = image.bytes + label.shards * label.index + label.patches * label.patch / label.bands
        made.append(Cost("epoch of patches and one label layer", requests, round(size)))
    return tuple(made)
