"""Every layout of a tif, against rasterio; and damaged files, which must never give a wrong pixel."""

from __future__ import annotations

import io
import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from cloudsen12_cube.archive import tiff as raster
from cloudsen12_cube.archive.tiff import Header, read, read_header
from cloudsen12_cube.errors import PatchError

ARCHIVE = Path(__file__).resolve().parents[3] / "shared" / "data" / "archive_a"
HEIGHT, WIDTH = 61, 47
TRANSFORM = Affine(10.0, 0.0, 465_180.0, 0.0, -10.0, 4_100_230.0)
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
COMPRESSIONS = ("none", "lzw", "deflate", "zstd")
BLOCKS: dict[str, dict[str, Any]] = {
    "tiles of 16": {"tiled": True, "blockxsize": 16, "blockysize": 16},
    "tiles of 32 x 48": {"tiled": True, "blockxsize": 48, "blockysize": 32},
    "tile beyond the image": {"tiled": True, "blockxsize": 64, "blockysize": 64},
    "strips of 1": {"tiled": False, "blockysize": 1},
    "strips of 7": {"tiled": False, "blockysize": 7},
    "one strip": {"tiled": False, "blockysize": HEIGHT},
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The parser logs what it finds wrong in a file; here that is the point."""
    logger = logging.getLogger("tifffile")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


def image(dtype: str, count: int = 1, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth across, so that predictors matter, and over the whole range, so that differences wrap."""
    rng = np.random.default_rng(count)
    steps = rng.integers(-300, 300, (count, height, width)).cumsum(axis=2) + np.arange(count)[:, None, None] * 1000
    steps[:, ::5] *= 2**24 if np.dtype(dtype).itemsize >= 4 else 1
    pixels = steps.astype(dtype)
    if pixels.dtype.kind == "f":
        pixels = pixels / np.array(7, dtype)
        pixels[0, 3, 5] = np.nan
        pixels[0, 4, 6] = -np.inf
    return pixels


@contextmanager
def opened(data: bytes) -> Iterator[rasterio.DatasetReader]:
    with warnings.catch_warnings(), MemoryFile(data) as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open() as dataset:
            yield dataset


def tif(pixels: np.ndarray, descriptions: tuple[str, ...] = (), **profile: Any) -> bytes:
    count, height, width = pixels.shape
    size = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **{"crs": "EPSG:32630", "transform": TRANSFORM} | size | profile) as dataset:
            dataset.write(pixels)
            if descriptions:
                dataset.descriptions = descriptions
        return bytes(memory.read())


def check_against_rasterio(data: bytes) -> tuple[Header, np.ndarray]:
    header, pixels = read(data, "a.tif")
    with opened(data) as dataset:
        expected = dataset.read()
        assert pixels.dtype == expected.dtype == header.dtype
        assert pixels.dtype.isnative
        assert pixels.flags.c_contiguous
        assert pixels.shape == (header.count, header.height, header.width)
        np.testing.assert_array_equal(pixels, expected)
        assert header.nbytes == expected.nbytes
        assert header.descriptions == tuple(text or "" for text in dataset.descriptions)
        assert header.epsg == (dataset.crs.to_epsg() if dataset.crs else None)
        assert (header.transform or (1, 0, 0, 0, 1, 0)) == tuple(dataset.transform)[:6]
        assert (header.nodata is None) == (dataset.nodata is None)
        if header.nodata is not None:
            np.testing.assert_equal(header.nodata, dataset.nodata)
    assert repr(read_header(data, "a.tif")) == repr(header)  # nodata may be NaN
    return header, pixels


def no_gdal(*_: Any) -> None:
    pytest.fail("left to GDAL, so the comparison would be with itself")


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster, "_by_gdal", no_gdal)


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout_equals_rasterio(dtype: str, compression: str, blocks: str) -> None:
    predictors = (1,) if compression == "none" else (1, 2, 3) if dtype.startswith("f") else (1, 2)
    for predictor in predictors:
        for count in (1, 3, 13):
            for interleave in ("pixel", "band"):
                pixels = image(dtype, count)
                profile = {"compress": compression, "interleave": interleave} | BLOCKS[blocks]
                data = tif(pixels, **profile, **({} if compression == "none" else {"predictor": predictor}))
                np.testing.assert_array_equal(check_against_rasterio(data)[1], pixels)


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_the_size_of_the_dataset(interleave: str) -> None:
    data = tif(
        image("int16", 13, 509, 509), compress="lzw", predictor=2, tiled=True, blockxsize=256, blockysize=256,
        interleave=interleave,
    )  # fmt: skip
    check_against_rasterio(data)


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_bigtiff(dtype: str) -> None:
    check_against_rasterio(tif(image(dtype, 3), compress="lzw", BIGTIFF="YES", predictor=2, blockysize=7))


@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_big_endian(dtype: str, predictor: int) -> None:
    data = tif(image(dtype, 3), ENDIANNESS="BIG", compress="lzw", predictor=predictor)
    assert data[:2] == b"MM"
    check_against_rasterio(data)


def test_odd_bit_depths_and_jpeg() -> None:
    check_against_rasterio(tif(image("uint8") & 1, NBITS=1))
    check_against_rasterio(tif(image("uint16") & 4095, NBITS=12, compress="deflate"))
    check_against_rasterio(tif(image("uint8", 3), compress="jpeg", photometric="ycbcr", tiled=True))


def test_without_georeference_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        plain, big = (tif(image("int16"), crs=None, transform=None, ENDIANNESS=e) for e in ("LITTLE", "BIG"))
    for data in (plain, big):
        header, _ = check_against_rasterio(data)
        assert (header.transform, header.epsg, header.nodata) == (None, None, None)


@pytest.mark.parametrize("texts", [("B1", "", "B8A"), ("a & b", 'the "third" <band>', "ó 0 µm"), ("&amp;", "'", "x")])
def test_descriptions(texts: tuple[str, ...]) -> None:
    assert check_against_rasterio(tif(image("uint8", 3), texts))[0].descriptions == texts


def test_metadata_with_a_declaration_is_not_read() -> None:
    data = tif(image("uint8"), ("expanded",))
    start = data.index(b"<GDALMetadata>")
    bomb = b"<!ENTITY e 'x'"
    data = data[:start] + bomb + data[start + len(bomb) :]
    assert read_header(data, "a.tif").descriptions == ("",)


@pytest.mark.parametrize("nodata", [None, float("nan"), -3.4e38, -3.4028234663852886e38, -99.0, 0.0])
def test_nodata(nodata: float | None) -> None:
    header, _ = check_against_rasterio(tif(image("float32"), nodata=nodata))
    np.testing.assert_equal(header.nodata, nodata if nodata is None else float(np.float32(nodata)))


@pytest.mark.parametrize("transform", [TRANSFORM, TRANSFORM @ Affine.rotation(30.0), TRANSFORM @ Affine.scale(1, -1)])
@pytest.mark.parametrize("crs", ["EPSG:32630", "EPSG:32756", "EPSG:4326"])
@pytest.mark.parametrize("point", [False, True])
def test_georeference(crs: str, transform: Affine, point: bool) -> None:
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=1, height=5, width=4, dtype="uint8", crs=crs, transform=transform
        ) as dataset:
            dataset.update_tags(AREA_OR_POINT="Point" if point else "Area")
            dataset.write(np.ones((1, 5, 4), np.uint8))
        data = bytes(memory.read())
    header, _ = check_against_rasterio(data)
    assert header.transform == pytest.approx(tuple(transform)[:6], abs=1e-9)
    assert header.epsg == int(crs[5:])


def test_user_defined_reference_system() -> None:
    crs = "+proj=laea +lat_0=12 +lon_0=34 +x_0=5 +y_0=6 +datum=WGS84 +units=m"
    assert read_header(tif(image("uint8"), crs=crs), "a.tif").epsg is None


@pytest.mark.parametrize("nodata", [None, -99.0, 7.0])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_sparse_files_are_filled_as_gdal_does(dtype: str, nodata: float | None) -> None:
    if dtype == "uint8" and nodata == -99.0:
        nodata = 255.0
    pixels = np.full((3, HEIGHT, WIDTH), nodata or 0, dtype)
    pixels[1, 20:25, 20:25] = 5
    for interleave in ("pixel", "band"):
        profile = BLOCKS["tiles of 16"] | {"interleave": interleave, "nodata": nodata}
        data = tif(pixels, SPARSE_OK="TRUE", compress="lzw", **profile)
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            assert 0 in file.pages.first.databytecounts
        np.testing.assert_array_equal(check_against_rasterio(data)[1], pixels)


def test_only_the_first_page_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = image("int16", 3)
    path.write_bytes(tif(pixels, compress="lzw", tiled=True, blockxsize=16, blockysize=16))
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.zeros((HEIGHT, WIDTH), np.uint8))
    np.testing.assert_array_equal(read(path.read_bytes(), str(path))[1], pixels)


# Damage


@pytest.mark.parametrize(
    ("data", "found"),
    [(b"", "an empty file"), (b"I", "no TIFF"), (b"\x89PNG\r\n\x1a\n" * 9, "no TIFF"), (b"II*\0", "a damaged header")],
)
def test_what_is_no_tif(data: bytes, found: str) -> None:
    for function in (read, read_header):
        with pytest.raises(PatchError, match=found) as caught:
            function(data, "roi/patch/S1.tif")
        assert caught.value.path == "roi/patch/S1.tif"


LAYOUTS: list[dict[str, Any]] = [
    {"compress": "lzw", "predictor": 2, "interleave": "band", "tiled": True, "blockxsize": 16, "blockysize": 16},
    {"compress": "lzw", "interleave": "pixel", "blockysize": 7},
    {"compress": "deflate", "blockysize": 7},
    {"compress": "zstd", "interleave": "band", "blockysize": 7},
    {"compress": "none", "blockysize": 7},
    {"compress": "lzw", "ENDIANNESS": "BIG", "blockysize": 7},
]


@pytest.mark.parametrize("profile", LAYOUTS, ids=str)
def test_truncated_files(profile: dict[str, Any]) -> None:
    pixels = image("int16", 3)
    data = tif(pixels, ("B1", "B2", "B3"), **profile)
    cuts = {*range(0, len(data), max(1, len(data) // 250)), *range(len(data) - 30, len(data))}
    assert len(cuts) >= 200
    for cut in sorted(cuts):
        try:
            found = read(data[:cut], "a.tif")[1]
        except PatchError:
            continue
        np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("profile", LAYOUTS, ids=str)
def test_flipped_bytes_raise_nothing_else(profile: dict[str, Any], every: bool) -> None:
    """At each place of the header and at some of the pixels: one of three values, or all of them."""
    data = tif(image("int16", 3), ("B1", "B2", "B3"), nodata=-99, **profile)
    head = min(struct.unpack("<I" if data[:2] == b"II" else ">I", data[4:8])[0] + 600, len(data))
    rng = np.random.default_rng(0)
    places = [*range(min(head, 700)), *rng.integers(0, len(data), 200)]
    for number, place in enumerate(places):
        values = (0, 255, data[place] ^ (1 << int(rng.integers(8))))
        for value in values if every else values[number % 3 : number % 3 + 1]:
            broken = bytearray(data)
            broken[place] = value
            try:
                header, pixels = read(bytes(broken), "a.tif", limit=10**7)
            except PatchError:
                continue
            assert pixels.shape == (header.count, header.height, header.width)


SMALL = tif(image("int16", 3, 20, 9), ("B1", "B2", "B3"), compress="lzw", predictor=2, nodata=-99)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6))
def test_any_damage_raises_nothing_else(damage: list[tuple[int, bytes]]) -> None:
    broken = bytearray(SMALL)
    for place, garbage in damage:
        broken[place : place + len(garbage)] = garbage
    try:
        read(bytes(broken), "a.tif", limit=10**7)
    except PatchError as error:
        assert error.path == "a.tif"  # noqa: PT017


def edited(data: bytes, code: int, value: Any, dtype: Any = None) -> bytes:
    """Rewrite one tag of a file."""
    stream = io.BytesIO(data)
    with tifffile.TiffFile(stream, mode="r+") as file:
        file.pages.first.tags[code].overwrite(value, dtype=dtype)
        return bytes(stream.getvalue())


def segments(data: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return file.pages.first.dataoffsets, file.pages.first.databytecounts


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_segment_with_too_few_or_too_many_bytes(compression: str) -> None:
    long = tif(image("uint16"), compress=compression, blockysize=HEIGHT)
    for height in (HEIGHT - 1, HEIGHT + 1):
        data = edited(edited(long, 257, height), 278, height)
        with pytest.raises(PatchError, match="segment 0"):
            read(data, "a.tif")


@pytest.mark.parametrize("compression", ["lzw", "deflate", "zstd"])
def test_a_segment_cut_short_inside_the_file(compression: str) -> None:
    data = tif(image("uint16"), compress=compression, blockysize=7)
    offsets, counts = segments(data)
    for lost in (8, counts[3] // 2, counts[3] - 1):
        shorter = (*counts[:3], counts[3] - lost, *counts[4:])
        with pytest.raises(PatchError, match="segment 3"):
            read(edited(data, 279, shorter), "a.tif")
    garbage = bytearray(data)
    garbage[offsets[3] : offsets[3] + counts[3]] = bytes(counts[3])
    with pytest.raises(PatchError, match="segment 3"):
        read(bytes(garbage), "a.tif")


def test_segments_that_overlap_or_lie_outside() -> None:
    data = tif(image("uint16"), blockysize=7)
    offsets, counts = segments(data)
    for place in (offsets[2] + 6, 2, len(data) - 5):
        with pytest.raises(PatchError):
            read_header(edited(data, 273, (*offsets[:3], place, *offsets[4:])), "a.tif")
    with pytest.raises(PatchError, match="a segment of 0 bytes"):
        read(edited(data, 279, (*counts[:3], 0, *counts[4:])), "a.tif")


def test_a_tag_that_cannot_be_read_does_not_fall_back_to_its_default() -> None:
    data = tif(image("uint16"), compress="lzw", predictor=2)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages.first.tags[317].offset
    broken = data[: place + 2] + struct.pack("<H", 99) + data[place + 4 :]
    with pytest.raises(PatchError, match="tags can be read"):
        read_header(broken, "a.tif")


def test_a_bomb_is_refused_by_its_header() -> None:
    data = tif(image("uint8"), compress="deflate", blockysize=HEIGHT)
    huge = edited(edited(data, 257, 2**31, dtype=4), 278, 2**31, dtype=4)
    with pytest.raises(PatchError, match=r"at most 1073741824 bytes"):
        read(huge, "a.tif")
    size = HEIGHT * WIDTH
    assert read(data, "a.tif", limit=size)[0].nbytes == size
    with pytest.raises(PatchError, match=rf"{size} bytes, expected at most {size - 1}"):
        read(data, "a.tif", limit=size - 1)


def test_a_tile_far_larger_than_its_image_is_refused() -> None:
    data = tif(image("uint8"), tiled=True, blockxsize=64, blockysize=64, compress="lzw")
    with pytest.raises(PatchError, match="an image of"):
        read(edited(edited(data, 322, 32768), 323, 49152), "a.tif")


# The archive


@pytest.mark.skipif(not ARCHIVE.is_dir(), reason="the real archive is not at hand")
def test_the_archive_equals_rasterio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster, "_by_gdal", no_gdal)
    paths = sorted(ARCHIVE.rglob("*.tif"))
    assert len(paths) == 286
    for path in paths:
        check_against_rasterio(path.read_bytes())
