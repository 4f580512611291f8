"""What reading a cube costs where each request is paid or waited for: requests and bytes, from the layout alone.

A shard's index is one request, which an open cube makes once; the inner chunks of a patch are neighbours and come in
one more; a whole shard is one, and an ROI that shares its shard is as a patch. A test counts the requests that
are really made.
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
    rois_per_shard: int = 1
    whole: bool = False
    """Whether all bands of a date are one chunk."""

    @property
    def index(self) -> int:
        """Bytes of the index of one shard."""
        return _INDEX_ENTRY * self.rois_per_shard * self.times * (1 if self.whole else self.bands) + _CHECKSUM

    def part(self, bands: int) -> float:
        """Mean bytes that are read for some bands of a patch."""
        return self.patch if self.whole else self.patch * bands / self.bands

    @property
    def roi(self) -> Cost:
        """Cost of all of an ROI: its object, or its part of one."""
        if self.rois_per_shard == 1:
            return Cost("ROI", 1, round(self.bytes / self.shards))
        return Cost("ROI", 2, round(self.index + self.patch * self.times))

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
            Cost("RGB patch", 2, round(image.index + image.part(3))),
            image.roi,
        ]
    if label and label.shards:
        made.append(Cost("label", 2, round(label.index + label.part(1))))
    if image and image.shards and label and label.shards:
        requests = image.shards + image.patches + label.shards + label.patches
        size = image.bytes + label.shards * label.index + label.patches * label.part(1)
        made.append(Cost("epoch of patches and one label layer", requests, round(size)))
    return tuple(made)
