"""The layouts that the tests of layouts share, and cubes of each that are made once."""

from __future__ import annotations

from pathlib import Path

import cloudsen12_cube as c12

LAYOUTS = {
    "default": c12.Layout(),
    "zstd:3": c12.Layout(level=3),
    "lz4": c12.Layout("lz4"),
    "none": c12.Layout("none"),
    "bands": c12.Layout(chunk="bands"),
    "none, bands": c12.Layout("none", chunk="bands"),
    "3 ROIs": c12.Layout(rois_per_shard=3),
    "lz4, bands, 3 ROIs": c12.Layout("lz4", chunk="bands", rois_per_shard=3),
}
OTHERS = [name for name in LAYOUTS if name != "default"]


def resharded(source: Path, place: Path, name: str, **more: object) -> c12.Report:
    """Re-shard a cube."""
    return c12.convert(source, place, options=c12.Options(layout=LAYOUTS[name], **more))  # type: ignore[arg-type]
