"""What a tif states of its bands is honoured as GDAL does, or refused; foreign files are passed over and named."""

from __future__ import annotations

import io
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from other_forms import Padding, rows_of, write_taco
from rasterio.io import MemoryFile

import cloudsen12_cube as c12
from cloudsen12_cube.archive.tiff import gdal_number, read
from cloudsen12_cube.cli.commands import main
from cloudsen12_cube.errors import ArchiveError, CubeError, PatchError
from cloudsen12_cube.schema import bands_of
from cloudsen12_cube.testing import ArchiveOptions, make_archive

SIZE = 16
BANDS = list(bands_of("s2l1c"))
ONE = c12.Options(workers=0)
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("source"), rois=1, seed=3, options=ArchiveOptions(size=SIZE))


@pytest.fixture
def archive(source: Path, tmp_path: Path) -> Path:
    return shutil.copytree(source, tmp_path / "archive")


def tif(pixels: np.ndarray, **profile: Any) -> bytes:
    count, height, width = pixels.shape
    size = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", crs="EPSG:32630", transform=Affine.scale(10, -10), **size, **profile) as file:
            file.write(pixels)
        return bytes(memory.getbuffer())


def first(archive: Path) -> Path:
    return sorted(archive.glob("*/ROI_*/*"))[0]


def rewrite(path: Path, pixels: np.ndarray | None = None, **changes: Any) -> np.ndarray:
    """Write a tif again, and return its pixels."""
    with rasterio.open(path) as file:
        old, profile, names = file.read(), file.profile, file.descriptions
    pixels = old if pixels is None else pixels
    with rasterio.open(path, "w", **(profile | {"dtype": pixels.dtype} | changes)) as file:
        file.write(pixels)
        file.descriptions = names
    return pixels


def convert(archive: Path, *products: str) -> Any:
    report = c12.convert(archive, archive.parent / "c.zarr", products or ["s2l1c"], options=ONE)
    if not report.faults:
        result = c12.verify(archive.parent / "c.zarr", source=archive)
        assert result.exit_code == 0, result.differences
    return report


def stored(archive: Path, product: str, band: str) -> np.ndarray:
    tree = c12.open_cube(archive.parent / "c.zarr")
    return tree[product][product].sel(band=band).isel(roi=0, time=0).values


# ---- names of bands

ITEM = '<Item name="DESCRIPTION" sample="{}" role="description"{}>{}</Item>'
ORDER = BANDS[::-1]
PLAIN = "".join(ITEM.format(i, "", band) for i, band in enumerate(ORDER))
METADATA = {
    "plain": PLAIN,
    "comment": f"<!-- by x -->{PLAIN}",
    "CDATA": "".join(ITEM.format(i, "", f"<![CDATA[{band}]]>") for i, band in enumerate(ORDER)),
    "a > in an attribute": "".join(ITEM.format(i, ' note="a > b"', band) for i, band in enumerate(ORDER)),
    "single quotes": PLAIN.replace('"', "'"),
    "zeros": "".join(
        ITEM.format(i, "", f"B0{b[1:]}" if b[1:].isdigit() and len(b) == 2 else b) for i, b in enumerate(ORDER)
    ),
}


@pytest.mark.parametrize("form", [*METADATA, "aux.xml", "both"])
def test_bands_go_by_their_names_wherever_these_stand(archive: Path, form: str) -> None:
    path = first(archive) / "S2L1C.tif"
    with rasterio.open(path) as file:
        pixels, profile = file.read(), file.profile
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels[::-1])
        if form not in ("aux.xml",):
            file.descriptions = BANDS if form == "both" else ORDER
    if form in METADATA:
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages[0].tags[42112].overwrite(f"<GDALMetadata>{METADATA[form]}</GDALMetadata>", dtype="s")
    else:
        rows = "".join(
            f'<PAMRasterBand band="{i}"><Description>{b}</Description></PAMRasterBand>' for i, b in enumerate(ORDER, 1)
        )
        Path(f"{path}.aux.xml").write_text(f"<PAMDataset>{rows}</PAMDataset>")
    with rasterio.open(path) as file:
        position = [text.replace("B0", "B") for text in file.descriptions].index("B1")
    report = convert(archive)
    assert not report.faults
    np.testing.assert_array_equal(stored(archive, "s2l1c", "B1"), pixels[::-1][position])


@pytest.mark.parametrize("names", [["Layer_1", *[""] * 12], [f"Band {i}" for i in range(13)], [*BANDS[:12], "B1"]])
def test_other_names_are_refused(archive: Path, names: list[str]) -> None:
    with rasterio.open(first(archive) / "S2L1C.tif", "r+") as file:
        file.descriptions = names
    (fault,) = convert(archive).faults
    assert fault.found.startswith("bands ")


# ---- scale, offset, masks


@pytest.mark.parametrize(
    ("scale", "offset", "legal"),
    [
        (1e-4, 0, True),
        (1, 0, True),
        (1e-4, -0.1, False),
        (1e-3, 0, False),
        (1, -1000, False),
        (np.float32(1e-4), 0, True),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_scale_and_offset(archive: Path, scale: float, offset: float, legal: bool, beside: bool) -> None:
    path = first(archive) / "S2L1C.tif"
    if beside:
        rows = "".join(
            f'<PAMRasterBand band="{i}"><Offset>{offset}</Offset><Scale>{float(scale)!r}</Scale></PAMRasterBand>'
            for i in range(1, 14)
        )
        Path(f"{path}.aux.xml").write_text(f"<PAMDataset>{rows}</PAMDataset>")
    else:
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = [float(scale)] * 13, [offset] * 13
    faults = convert(archive).faults
    assert [f"scale {scale:g} and offset {offset:g} of B1"] * (not legal) == [fault.found for fault in faults]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("hidden", [0, 5])
def test_masks(archive: Path, beside: bool, hidden: int) -> None:
    path = first(archive) / "S2L1C.tif"
    rewrite(path)
    mask = np.full((SIZE, SIZE), 255, np.uint8)
    mask.flat[:hidden] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=not beside), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    assert Path(f"{path}.msk").exists() == beside
    faults = convert(archive).faults
    assert [f"a mask that hides {13 * hidden:,} values"] * (hidden > 0) == [fault.found for fault in faults]


# ---- no data


@pytest.mark.parametrize(("factor", "legal"), [(1e-4, False), (1, True)])
def test_reflectance_in_the_place_of_digital_numbers(archive: Path, factor: float, legal: bool) -> None:
    for path in archive.glob("*/ROI_*/*/S2L1C.tif"):
        with rasterio.open(path) as file:
            pixels = (file.read() * factor).astype(np.float32)
        rewrite(path, pixels, predictor=1)
    faults = convert(archive).faults
    assert bool(faults) != legal
    assert all("digital numbers" in fault.expected for fault in faults)


@pytest.mark.parametrize("declared", [None, 0, -9999, 7])
def test_zero_of_a_band_is_no_data(archive: Path, declared: int | None) -> None:
    for path in archive.glob("*/ROI_*/*/S2L*.tif"):
        with rasterio.open(path) as file:
            pixels = np.maximum(file.read(), 8)
        if path.parent == first(archive):
            pixels[:, :4] = declared or 0
            pixels[3, 4:8] = 0  # B4 alone
        rewrite(path, pixels, nodata=declared)
    assert not convert(archive, "s2l1c", "s2l2a", "labels").faults
    place = archive.parent / "c.zarr"
    cs = c12.open_cube(place).cloudsen12
    for product, bands in (("s2l1c", 13), ("s2l2a", 12)):
        found = cs.reflectance(product=product).isel(roi=0, time=0)
        assert np.isnan(found.sel(band="B4").values[:8]).all()
        assert np.isnan(found.sel(band="B8").values[:4]).all()
        assert np.isfinite(found.sel(band="B8").values[4:]).all()
        single = cs.reflectance("B4", product=product).isel(roi=0, time=0)
        np.testing.assert_array_equal(single, found.sel(band="B4"))
        np.testing.assert_array_equal((found.sel(band=list(found["band"].values[:bands])) == 0).sum(), 0)
    others = cs.reflectance(["AOT", "WVP", "TCI_R"], product="s2l2a").isel(roi=0, time=0).values[:, :4]
    assert (others == 0).all() if declared in (None, 0) else np.isnan(others).all()
    result = c12.verify(place, source=archive)
    assert result.nodata == (13 + 12) * 4 * SIZE + 2 * 4 * SIZE
    train = c12.stats(place, split=None)
    count = 5 * SIZE**2
    assert {row.band: row.pixels for row in train.bands["s2l1c"]}["B4"] == count - 8 * SIZE
    for normalise in ("raw", "physical", "standard"):
        options = c12.StreamOptions(normalise=normalise, shuffle=False)
        batch = next(iter(cs.stream({"s2l1c": ["B4", "B8"]}, "manual_hq", None, 1, options=options)))
        assert not np.isnan(batch["pixels"]).any()
        assert (batch["pixels"][0, 0, :8] == 0).all()
        assert (batch["pixels"][0, 1, :4] == 0).all()
    assert (cs.classes("manual_hq").isel(roi=0, time=0) != 255).all(), "a class view depends on its layer alone"


@pytest.mark.parametrize("normalise", ["raw", "physical", "standard"])
def test_nan_of_a_float_image_is_0_in_streams(archive: Path, normalise: Any) -> None:
    for path in archive.glob("*/ROI_*/*/S2L1C.tif"):
        with rasterio.open(path) as file:
            pixels = np.maximum(file.read(), 8).astype(np.float32)
        pixels[:, 0], pixels[:, 1] = np.nan, 0
        rewrite(path, pixels, predictor=1)
    assert not convert(archive, "s2l1c", "labels").faults
    c12.stats(archive.parent / "c.zarr", split=None)
    cs = c12.open_cube(archive.parent / "c.zarr").cloudsen12
    assert np.isnan(cs.reflectance("B4").values[..., :2, :]).all()
    options = c12.StreamOptions(normalise=normalise, shuffle=False)
    (batch,) = cs.stream({"s2l1c": None}, "manual_hq", None, 5, options=options)
    assert (batch["pixels"][:, :, :2] == 0).all()
    assert not np.isnan(batch["pixels"]).any()


def test_files_beside_a_tif_in_a_bucket(archive: Path) -> None:
    path = first(archive) / "S2L1C.tif"
    with rasterio.open(path) as file:
        pixels, profile = file.read(), file.profile
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels[::-1])
    rows = "".join(
        f'<PAMRasterBand band="{i}"><Description>{band}</Description></PAMRasterBand>'
        for i, band in enumerate(ORDER, 1)
    )
    Path(f"{path}.aux.xml").write_text(f"<PAMDataset>{rows}</PAMDataset>")
    files = fsspec.filesystem("memory")
    files.put(f"{archive}/", "/statements", recursive=True)
    place = archive.parent / "c.zarr"
    assert not c12.convert("memory://statements", place, ["s2l1c"], options=ONE).faults
    np.testing.assert_array_equal(stored(archive, "s2l1c", "B1"), pixels[0])
    assert not c12.verify(place, source="memory://statements").differences


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize(
    ("layer", "nodata", "kept"),
    [
        ("fmask", 0, True),
        ("fmask", 255, True),
        ("fmask", 77, False),
        ("sen2cor", 11, True),
        ("sen2cor", 12, False),
        ("kappamask_L1C", 5, True),
        ("kappamask_L1C", 99, False),
        ("s2cloudless", 100, True),
        ("s2cloudless", 101, False),
    ],
)
def test_declared_nodata_of_labels(archive: Path, layer: str, nodata: int, kept: bool, dtype: str) -> None:
    path = first(archive) / "labels" / f"{layer}.tif"
    with rasterio.open(path) as file:
        pixels = file.read().astype(dtype)
    pixels[0, :2] = nodata
    rewrite(path, pixels, nodata=nodata, predictor=1)
    assert not convert(archive, "labels").faults
    found = stored(archive, "labels", layer)[:2]
    assert (found.astype(np.uint16) == (nodata if kept else 65535)).all()


@pytest.mark.parametrize("nodata", [np.nan, -3.4e38])
def test_declared_nodata_of_float_labels(archive: Path, nodata: float) -> None:
    path = first(archive) / "labels" / "sen2cor.tif"
    with rasterio.open(path) as file:
        pixels = file.read().astype(np.float32)
    pixels[0, 0] = nodata
    rewrite(path, pixels, nodata=nodata, predictor=1)
    assert not convert(archive, "labels").faults
    assert (stored(archive, "labels", "sen2cor")[0].astype(np.uint16) == 65535).all()


TEXTS = [
    "nan",
    "NaN",
    "-nan",
    "inf",
    "-inf",
    "-1.#IND",
    "1.#QNAN",
    "-1.#INF",
    "1.#INF",
    "-9999,0",
    "none",
    "0x0",
    " 7",
    "1e3x",
]


@given(st.one_of(st.sampled_from(TEXTS), st.text("0123456789+-.,eE nNaAiIfF#xQD", min_size=1, max_size=12)))
def test_nodata_is_read_as_gdal_reads_it(text: str) -> None:
    stream = io.BytesIO(tif(np.ones((1, 4, 4)), nodata=-9999))
    with tifffile.TiffFile(stream, mode="r+") as file:
        file.pages.first.tags[42113].overwrite(text, dtype="s")
    with MemoryFile(stream.getvalue()) as memory, memory.open() as dataset:
        expected = dataset.nodata
    found = gdal_number(text)
    if expected is None:
        assert np.isnan(found) or text.strip() == ""
    else:
        np.testing.assert_equal(found, expected)


# ---- good files


@pytest.mark.parametrize("rows", [3, 5, 7, 16, 40])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_a_last_strip_of_zeros_at_full_length(rows: int, interleave: str) -> None:
    for zeros in (1, 4, 9):
        pixels = np.arange(3 * 16 * 11, dtype=np.int16).reshape(3, 16, 11)
        pixels[:, -zeros:] = 0
        data = tif(pixels, blockysize=rows, interleave=interleave)
        np.testing.assert_array_equal(read(data, "a.tif")[1], pixels)


def test_a_repeated_tag_counts_once() -> None:
    data = tif(np.arange(16, dtype=np.int16).reshape(1, 4, 4))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        (number,) = struct.unpack_from("<H", data, page.offset)
        entries = data[page.offset + 2 : page.offset + 2 + 12 * number]
    twice = entries[:12] + struct.pack("<HHII", 256, 3, 1, 9) + entries[12:]
    moved = bytearray(data) + struct.pack("<H", number + 1) + twice + bytes(4)
    struct.pack_into("<I", moved, 4, len(data))
    with MemoryFile(bytes(moved)) as memory, memory.open() as dataset:
        expected = dataset.read()
    np.testing.assert_array_equal(read(bytes(moved), "a.tif")[1], expected)
    assert expected.shape == (1, 4, 4)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text + "  \n\n,,,\n".replace(",,,", "," * 31),
    ],
    ids=["CR", "CRLF", "BOM", "blank lines", "blank last lines"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_as_editors_write_them(archive: Path, change: Callable[[str], str], encoding: str) -> None:
    path = archive / "cloudsen12_metadata.csv"
    path.write_bytes(change(path.read_text().replace("\r\n", "\n")).encode(encoding))
    assert not convert(archive, "labels").faults
    assert c12.open_cube(archive.parent / "c.zarr").sizes["time"] == 5


def test_files_of_others_are_passed_over_and_named(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = first(archive)
    relative = folder.relative_to(archive)
    for path in (
        folder / "._S2L1C.tif",
        archive / "._cloudsen12_metadata.csv",
        archive / "__MACOSX" / relative / "S2L1C.tif",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0\5\x16\7")
    (archive / "empty.taco").write_bytes(b"")
    (archive / "text.taco").write_text("notes", encoding="utf-16")
    assert not convert(archive, "labels").faults
    assert main(["plan", str(archive), str(archive.parent / "d.zarr")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for name in ("._cloudsen12_metadata.csv", "__MACOSX/", "empty.taco", "text.taco"):
        assert name in told


def test_foreign_json_beside_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ArchiveOptions(size=SIZE, metadata="stac")
    archive = make_archive(tmp_path / "archive", rois=1, options=options)
    items = sorted(archive.rglob("*.json"))
    assert items
    (archive / "lines.json").write_text("".join(json.dumps(json.loads(p.read_text())) + "\n" for p in items))
    (archive / "notes.json").write_text("{no json", encoding="utf-16")
    (archive / "empty.json").write_text("")
    (archive / "list.json").write_text('[{"properties": null}, 1]')
    (archive / "null.json").write_text('{"type": "Feature", "properties": null}')
    assert not convert(archive, "labels").faults
    assert main(["plan", str(archive), str(tmp_path / "d.zarr")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert all(name in told for name in ("lines.json", "notes.json", "empty.json"))
    damaged = items[0].read_text()
    items[0].write_text(damaged[: len(damaged) - 40])
    with pytest.raises(ArchiveError, match="is no JSON"):
        c12.plan(archive)


def test_taco_files_beside_files_that_are_none(source: Path, tmp_path: Path) -> None:
    place = tmp_path / "plus"
    write_taco(source, rows_of(source), place / "l1c.taco", lambda _: Padding(SIZE, (0, 0)))
    (place / "empty.taco").write_bytes(b"")
    (place / "text.taco").write_text("notes", encoding="utf-16")
    (place / "._l1c.taco").write_bytes(b"\0\5\x16\7")
    plan = c12.plan(place)
    assert {name.split()[0] for name in plan.ignored} >= {"empty.taco", "text.taco", "._l1c.taco"}
    assert not convert(place).faults


@given(st.text(), st.text(), st.text())
def test_a_patch_error_is_one_line(path: str, found: str, expected: str) -> None:
    error = PatchError(path, found, expected)
    assert isinstance(error, CubeError)
    assert len(str(error).splitlines()) == 1


def test_a_patch_error_of_the_command_line_is_one_line(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not convert(archive, "labels").faults
    patch = first(archive)
    predictions = archive.parent / "predictions" / patch.parent.name
    predictions.mkdir(parents=True)
    (predictions / f"{patch.name}.tif").write_bytes(b"no\ntif")
    command = ["evaluate", str(archive.parent / "c.zarr"), "--split", "all", "--predictions", str(predictions.parent)]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert (len(told.splitlines()), "found no TIFF" in told) == (1, True)
