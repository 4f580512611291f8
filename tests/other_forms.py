"""Writers of the dataset's other published forms, from an archive of COGs: independent of the package's readers."""

from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from rasterio.io import MemoryFile

Row = dict[str, str]

S2 = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12"]
STACKS = {
    ("L1C", "S2L1C", "<i2"): S2,
    ("L2A", "S2L2A", "<i2"): [*(b for b in S2 if b != "B10"), "AOT", "WVP", "TCI_R", "TCI_G", "TCI_B"],
    ("S1", "S1", "<f4"): ["VV", "VH", "angle"],
}
SINGLE = {
    **{f"EXTRA_{name}": (f"extra/{name}", "<i2") for name in ("CDI", "Shwdirection", "elevation", "ocurrence")},
    **{f"EXTRA_{name}": (f"extra/{name.upper()}", "u1") for name in ("lc10", "lc100")},
    **{f"LABEL_{n}": (f"labels/{n}", "u1") for n in ("manual_hq", "manual_sc", "sen2cor", "fmask", "s2cloudless")},
    "LABEL_qa60": ("labels/qa60", "<i2"),
    "LABEL_cd_fcnn_rgbi": ("labels/CD-FCNN-RGBI", "u1"),
    "LABEL_cd_fcnn_rgbi_swir": ("labels/CD-FCNN-RGBISWIR", "u1"),
    "LABEL_kappamask_L1C": ("labels/kappamask_L1C", "u1"),
    "LABEL_kappamask_L2A": ("labels/kappamask_L2A", "u1"),
}


def rows_of(archive: Path) -> list[Row]:
    with open(archive / "cloudsen12_metadata.csv", newline="") as file:
        return list(csv.DictReader(file))


def pixels_of(archive: Path, row: Row, name: str) -> npt.NDArray[Any]:
    with rasterio.open(archive / row["label_type"] / row["roi_id"] / row["s2_id_gee"] / f"{name}.tif") as file:
        return file.read()


def write_dats(archive: Path, rows: Sequence[Row], folder: Path) -> Path:
    """Write rows of an archive as memory maps into one folder; a file that no patch has is not written."""
    folder.mkdir(parents=True)
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", *rows[0]])
        writer.writerows([index, *row.values()] for index, row in enumerate(rows))

    def write(name: str, file: str, band: int, dtype: str) -> None:
        stack = np.zeros((len(rows), 512, 512), dtype)
        for index, row in enumerate(rows):
            stack[index, 1:510, 1:510] = pixels_of(archive, row, file)[band]
        stack.tofile(folder / f"{name}.dat")

    for (prefix, file, dtype), bands in STACKS.items():
        for index, band in enumerate(bands):
            write(f"{prefix}_{band}", file, index, dtype)
    for name, (file, dtype) in SINGLE.items():
        first = archive / rows[0]["label_type"] / rows[0]["roi_id"] / rows[0]["s2_id_gee"] / f"{file}.tif"
        if first.exists():
            write(name, file, 0, dtype)
    return folder


@dataclass(frozen=True)
class Padding:
    """How a patch is padded."""

    side: int
    """Rows and columns of the image."""
    corner: tuple[int, int]
    """Row and column at which the patch begins."""


def write_taco(
    archive: Path,
    rows: Sequence[Row],
    path: Path,
    padding: Callable[[int], Padding],
    image: str = "S2L1C",
    change: Callable[[int, npt.NDArray[Any]], npt.NDArray[Any]] = lambda _, pixels: pixels,
) -> Path:
    """Write rows of an archive as one TACO v1 file, ``padding`` and ``change`` by the number of the patch."""
    body, table = b"", []
    for index, row in enumerate(rows):
        pad = padding(index)
        pixels = change(index, pixels_of(archive, row, image).astype(np.uint16))
        layer = {"high": "manual_hq", "scribble": "manual_sc"}.get(row["label_type"])
        target = pixels_of(archive, row, f"labels/{layer}").astype(np.uint8) if layer else np.full_like(pixels[:1], 99)
        nested = []
        inner = b""
        for name, planes in ((image.lower(), pixels), ("target", target)):
            data = _tif(_padded(planes, pad), row, pad)
            nested.append({"tortilla:id": name, "tortilla:offset": 50 + len(inner), "tortilla:length": len(data)})
            inner += data
        sample = _with_table(b"#y", 50, inner, [leaf | {"tortilla:file_format": "GTiff"} for leaf in nested])
        table.append(
            _described(row, pad, target) | {"tortilla:offset": 200 + len(body), "tortilla:length": len(sample)}
        )
        body += sample
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_with_table(b"WX", 200, body, table, json.dumps({"id": path.stem}).encode()))
    return path


def _with_table(magic: bytes, begin: int, body: bytes, rows: list[dict[str, Any]], about: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    table = buffer.getvalue()
    at = begin + len(body)
    head = magic + struct.pack("<QQQQQ", at, len(table), 1, at + len(table), len(about))
    return head.ljust(begin, b"\0") + body + table + about


def _padded(planes: npt.NDArray[Any], pad: Padding) -> npt.NDArray[Any]:
    image = np.zeros((len(planes), pad.side, pad.side), planes.dtype)
    (row, column), size = pad.corner, planes.shape[1]
    image[:, row : row + size, column : column + size] = planes
    return image


def _transform(row: Row, pad: Padding) -> tuple[float, ...]:
    a, b, c, d, e, f = (float(v) for v in row["proj_transform"].split(","))
    down, right = pad.corner
    return a, b, c - right * a, d, e, f - down * e


def _tif(planes: npt.NDArray[Any], row: Row, pad: Padding) -> bytes:
    profile = {
        "driver": "GTiff",
        "count": planes.shape[0],
        "height": pad.side,
        "width": pad.side,
        "dtype": planes.dtype,
    }
    place = {"crs": f"EPSG:{row['proj_epsg']}", "transform": rasterio.Affine(*_transform(row, pad))}
    with MemoryFile() as memory:
        with memory.open(**profile, **place, compress="zstd", interleave="band") as file:
            file.write(planes)
            if planes.shape[0] == 13:
                file.descriptions = [f"B{b[1:].zfill(2)}" for b in S2]
        return bytes(memory.getbuffer())


def _described(row: Row, pad: Padding, target: npt.NDArray[Any]) -> dict[str, Any]:
    a, b, c, d, e, f = _transform(row, pad)
    number = row["roi_id"].removeprefix("ROI_").zfill(5)
    shares = {
        n: float((target == code).mean() * 100) for code, n in enumerate(("clear", "thick", "thin", "cloud_shadow"))
    }
    return {
        "tortilla:id": f"ROI_{number}__{row['s2_id_gee']}",
        "tortilla:file_format": "TORTILLA",
        "tortilla:data_split": {"0": "train", "1": "validation", "2": "test"}[row["test"]],
        "stac:crs": f"EPSG:{row['proj_epsg']}",
        "stac:geotransform": [c, a, b, f, d, e],
        "stac:raster_shape": [pad.side, pad.side],
        "stac:centroid": row["proj_centroid"],
        "stac:time_start": int(datetime.fromisoformat(row["s2_date"]).timestamp()),
        "roi_id": f"ROI_{number}",
        "old_roi_id": row["roi_id"],
        "equi_id": "",
        "equi_zone": "AF",
        "label_type": row["label_type"],
        "real_proj_shape": target.shape[1],
        "s2_id": row["s2_id"],
    } | {f"{name}_percentage": share for name, share in shares.items()}


def keys(rows: Iterable[Row]) -> list[tuple[str, str]]:
    return [(row["roi_id"], row["s2_id_gee"]) for row in rows]
