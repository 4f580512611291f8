"""Archives as a stranger could send them: each is one named fault or one line, and takes little memory and time."""

from __future__ import annotations

import io
import logging
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rasterio.io import MemoryFile

import cloudsen12_cube as c12
from cloudsen12_cube.archive import tiff
from cloudsen12_cube.archive.parquet import TableLimits, read_rows
from cloudsen12_cube.archive.taco import samples
from cloudsen12_cube.conversion.options import Options
from cloudsen12_cube.errors import ArchiveError, PatchError, ReadError
from cloudsen12_cube.inspection.verification import verify
from cloudsen12_cube.storage import LocalStore

ONE = Options(workers=0)
LIMITS = TableLimits(rows=2**16, nbytes=2**26)
SAMPLE: dict[str, Any] = {
    "tortilla:id": "ROI_00001__20190101T000000_20190101T000000_T30UXC",
    "tortilla:offset": 200,
    "tortilla:length": 30,
    "tortilla:file_format": "GTiff",
    "roi_id": "ROI_00001",
    "label_type": "high",
    "real_proj_shape": 509,
    "tortilla:data_split": "train",
    "stac:crs": "EPSG:32630",
    "stac:geotransform": [4e5, 10.0, 0.0, 4e6, 0.0, -10.0],
    "stac:raster_shape": [509, 509],
    "stac:centroid": "POINT (1 2)",
    "stac:time_start": 1546300800,
}


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def taco_file(folder: Path, table: bytes, body: int = 30) -> LocalStore:
    folder.mkdir(exist_ok=True)
    head = struct.pack("<2sQQ", b"WX", 200 + body, len(table)).ljust(200, b"\0")
    (folder / "x.taco").write_bytes(head + bytes(body) + table)
    return LocalStore(str(folder))


def sizes(store: LocalStore) -> int:
    return store.size("x.taco") or 0


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            (name, value)
            for name in ("tortilla:offset", "tortilla:length")
            for value in (None, NAN, INF, -1, 1e300, "x")
        ],
        *[
            (name, value)
            for name in ("real_proj_shape", "stac:time_start")
            for value in (NAN, INF, -1, 1e30, "509", [])
        ],
        *[("stac:geotransform", value) for value in ([], [1.0], [NAN] * 6, [1.0] * 7, [None] * 6, 1.0, "1,2", None)],
        *[("stac:raster_shape", value) for value in ([], [509], [0, 0], [NAN, 1.0], [2**40] * 2, 509)],
        *[(name, value) for name in ("roi_id", "label_type", "stac:crs", "stac:centroid") for value in (1, [], None)],
        ("clear_percentage", INF),
        ("clear_percentage", "much"),
        ("old_roi_id", 1),
        ("real_proj_shape", 509.5),
    ],
)
def test_an_odd_value_of_a_table_is_named(tmp_path: Path, name: str, value: object) -> None:
    store = taco_file(tmp_path / "a", parquet_bytes(pa.Table.from_pylist([SAMPLE | {name: value}])))
    with pytest.raises(ArchiveError, match=rf"x\.taco.*{name}") as caught:
        samples(store, "x.taco", sizes(store))
    assert "\n" not in str(caught.value)


def test_what_a_table_may_leave_open(tmp_path: Path) -> None:
    row = SAMPLE | {"clear_percentage": NAN, "thin_percentage": None, "old_roi_id": None, "real_proj_shape": 509.0}
    store = taco_file(tmp_path / "a", parquet_bytes(pa.Table.from_pylist([row])))
    assert len(samples(store, "x.taco", sizes(store))) == 1
    assert len(c12.plan(tmp_path / "a").catalogue.table) == 1


def test_samples_do_not_overlap(tmp_path: Path) -> None:
    """Thousands of rows that share a sample would each read its table."""
    rows = [SAMPLE | {"tortilla:id": f"ROI_00001__{i}", "tortilla:offset": 200 + 29 * i} for i in range(2)]
    store = taco_file(tmp_path / "a", parquet_bytes(pa.Table.from_pylist(rows)), body=60)
    with pytest.raises(ArchiveError, match=r"ROI_00001__1 begins at byte 229, inside another"):
        samples(store, "x.taco", sizes(store))


def _column(name: str, values: Any, **options: Any) -> bytes:
    return parquet_bytes(pa.table({name: values}), compression="zstd", **options)


def _repeated(text: str, rows: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "rows": (lambda: _column("roi_id", _repeated("a", 10**6)), "1,000,000 rows"),
    "a text in each row": (lambda: _column("roi_id", _repeated("x" * 10**6, 60_000)), "texts of its table have 60,000"),
    "pages": (lambda: _column("roi_id", ["x" * 30_000] * 3000, use_dictionary=False), "bytes for 3,000 rows"),
    "shared prefixes": (
        lambda: _column(
            "roi_id", ["x" * 30_000] * 1000, use_dictionary=False, column_encoding={"roi_id": "DELTA_BYTE_ARRAY"}
        ),
        "DELTA_BYTE_ARRAY",
    ),
    "a long list": (
        lambda: _column("stac:geotransform", pa.ListArray.from_arrays([0, 10**6], pa.array(np.zeros(10**6)))),
        "1,000,000 values",
    ),
    "lists of texts": (lambda: _column("stac:geotransform", [["a"]]), "of the type 6"),
    "fixed length": (lambda: _column("roi_id", pa.array([b"abcd"], pa.binary(4))), "of the type 7"),
    "a large footer": (lambda: parquet_bytes(pa.table({f"c{i}": [1] for i in range(3000)})), "a footer of"),
    "no table": (lambda: b"PAR1" + b"\0" * 20, "no Parquet file"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_before_it_is_decoded(kind: str) -> None:
    make, text = BOMBS[kind]
    with pytest.raises(ValueError, match=text):
        read_rows(make(), list(SAMPLE), LIMITS)


def test_a_footer_that_lies_about_its_pages() -> None:
    """Counts of the footer are not trusted: here it states one row for pages of a million."""
    data = _column("roi_id", _repeated("a", 10**6), write_statistics=False)
    at = len(data) - int.from_bytes(data[-8:-4], "little") - 8
    stated = b"\x80\x89\x7a"  # 2,000,000, which is 1,000,000 as a zigzag varint
    assert stated in data[at:]
    lying = data[:at] + data[at:].replace(stated, b"\x82\x80\x00")  # 2
    assert pq.read_metadata(io.BytesIO(lying)).num_rows == 1
    with pytest.raises(ValueError, match=r"values in .* bytes for 1 rows"):
        read_rows(lying, ["roi_id"], LIMITS)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_the_rows_are_those_of_pyarrow(version: str, dictionary: bool) -> None:
    rows = [SAMPLE | {"clear_percentage": i / 7, "old_roi_id": None if i % 3 else f"ROI_{i}"} for i in range(100)]
    table = pa.Table.from_pylist(rows).append_column("other", pa.array([{"a": [1]}] * 100))
    for compression in ("none", "snappy", "gzip", "zstd"):
        data = parquet_bytes(
            table, data_page_version=version, use_dictionary=dictionary, compression=compression, row_group_size=30,
            write_page_checksum=True, write_page_index=True,
        )  # fmt: skip
        assert read_rows(data, [*rows[0], "absent"], LIMITS) == rows


_MUTATE = """
import sys
from test_hostile_archives import mutate
mutate(int(sys.argv[1]), 500)
"""


def mutate(seed: int, count: int) -> None:
    """Change bytes of a table: only an `ArchiveError` may leave; pyarrow alone ends the process for some of these."""
    numbers = random.Random(seed)  # noqa: S311 (no secret)
    rows = [SAMPLE | {"tortilla:offset": 200 + 30 * i} for i in range(20)]
    table = parquet_bytes(pa.Table.from_pylist(rows))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(count):
            changed = bytearray(table)
            for _ in range(numbers.choice([1, 1, 2, 5])):
                at = numbers.randrange(len(changed))
                changed[at] = numbers.choice([numbers.randrange(256), changed[at] ^ 1 << numbers.randrange(8), 255, 0])
            store = taco_file(Path(folder), bytes(changed), body=600)
            try:
                samples(store, "x.taco", sizes(store))
            except ArchiveError as error:
                assert "\n" not in str(error)  # noqa: PT017 (most mutations are refused, some are harmless)


def test_500_mutations_of_a_table() -> None:
    """In a process of its own, which a damaged file must not end."""
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", _MUTATE, "1"], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def jpeg(width: int, stated: int) -> bytes:
    """A tif of one strip a band, whose JPEGs are narrower than its header states."""
    pixels = (np.arange(3 * 64 * width).reshape(3, 64, width) % 5 * 9).astype("uint8")
    with MemoryFile() as memory:
        profile = {"driver": "GTiff", "count": 3, "height": 64, "width": width, "dtype": "uint8", "blockysize": 64}
        with memory.open(**profile, compress="JPEG", interleave="band") as file:
            file.write(pixels)
        data = bytearray(memory.getbuffer())
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == 256:  # ImageWidth
            struct.pack_into("<I", data, entry + 8, stated)
    return bytes(data)


@pytest.fixture(params=["as usual", "level", "disabled"])
def logs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Logging as a user may have set it."""
    if request.param == "level":
        logging.getLogger("rasterio").setLevel(100)
    if request.param == "disabled":
        logging.disable(logging.CRITICAL)
    yield
    logging.getLogger("rasterio").setLevel(logging.NOTSET)
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("logs")
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_jpeg_that_is_smaller_than_its_strip_shows_no_memory() -> None:
    tiff.read(jpeg(48, 48), "a.tif")
    with pytest.raises(PatchError, match=r"a\.tif: found pixels that cannot be decoded .*JPEG"):
        tiff.read(jpeg(48, 64), "a.tif")
    for name in ("rasterio._err", "rasterio._env"):
        logger = logging.getLogger(name)
        assert (logger.handlers, logger.level, logger.propagate) == ([], logging.NOTSET, True)


def _ring(path: Path) -> None:
    path.symlink_to("ring")
    (path.parent / "ring").symlink_to(path.name)


def _linked_pipe(path: Path) -> None:
    os.mkfifo(path.parent / "pipe")
    path.symlink_to("pipe")


SPECIAL: dict[str, Callable[[Path], None]] = {
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a ring": _ring,
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a pipe": os.mkfifo,
    "a link to a pipe": _linked_pipe,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to the folder": lambda path: path.symlink_to("."),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_special_file_is_a_fault_of_its_patch(archive: Path, tmp_path: Path, kind: str) -> None:
    copy = Path(shutil.copytree(archive, tmp_path / "a"))
    cube = tmp_path / "c.zarr"
    key, files = next((k, f) for k, f in c12.plan(copy).archive.patches.items() if "labels/fmask" in f.names)
    assert c12.convert(copy, tmp_path / "before.zarr", ["labels"], options=ONE).exit_code == 0
    path = copy / files.folder / files.names["labels/fmask"]
    path.unlink()
    SPECIAL[kind](path)
    report = c12.convert(copy, cube, ["labels"], options=ONE)
    assert [(fault.roi_id, fault.s2_id_gee, fault.asset) for fault in report.faults] == [(*key, "labels/fmask")]
    found = verify(tmp_path / "before.zarr", copy)
    assert found.exit_code == 1
    assert all(files.folder in line or key[1] in line for line in found.differences)


def test_a_file_of_another_format_is_no_tif(archive: Path, tmp_path: Path) -> None:
    """A VRT may name files and servers: not even `verify`, which reads by GDAL, opens one."""
    copy = Path(shutil.copytree(archive, tmp_path / "a"))
    assert c12.convert(copy, tmp_path / "c.zarr", ["labels"], options=ONE).exit_code == 0
    files = next(f for f in c12.plan(copy).archive.patches.values() if "labels/fmask" in f.names)
    path = copy / files.folder / files.names["labels/fmask"]
    other = path.with_name("sen2cor.tif")
    source = f"<SourceFilename>{other}</SourceFilename><SourceBand>1</SourceBand>"
    band = f'<VRTRasterBand dataType="Byte" band="1"><SimpleSource>{source}</SimpleSource></VRTRasterBand>'
    path.write_text(f'<VRTDataset rasterXSize="48" rasterYSize="48">{band}</VRTDataset>')
    found = verify(tmp_path / "c.zarr", copy)
    assert any("fmask" in line and "cannot be read" in line for line in found.differences)


def test_links_do_not_multiply_a_listing(tmp_path: Path) -> None:
    """12 folders that link to each other have 12! paths."""
    folders = [tmp_path / f"d{i:02}" for i in range(12)]
    for folder in folders:
        folder.mkdir()
        (folder / "x.tif").write_bytes(b"1")
    for folder in folders:
        for other in folders:
            (folder / f"to_{other.name}").symlink_to(f"../{other.name}")
    found = [info.key for info in LocalStore(str(tmp_path)).list()]
    assert {f"{folder.name}/x.tif" for folder in folders} <= set(found)
    assert {
        f"{folder.name}/to_{other.name}/x.tif" for folder in folders for other in folders if folder != other
    } <= set(found)
    assert len(found) < 500
    deep = tmp_path.joinpath(*["a"] * 60)
    deep.mkdir(parents=True)
    (deep / "x.tif").write_bytes(b"1")
    assert len(list(LocalStore(str(tmp_path)).list())) == len(found)


def test_the_size_of_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("x")
    store = LocalStore(str(tmp_path))
    for look in (store.size, store.get):
        with pytest.raises(ReadError, match="Too many levels of symbolic links"):
            look("x")
