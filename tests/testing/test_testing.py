"""The synthetic archive keeps the published layout, its codes and its oddities; the oracle is rasterio."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import CSV_COLUMNS

from cloudsen12_cube.archive.catalogue import build
from cloudsen12_cube.archive.metadata import from_csv, from_stac
from cloudsen12_cube.schema.assets import ASSETS, PRODUCTS, bands_of, files_of
from cloudsen12_cube.schema.catalogue import roi_number
from cloudsen12_cube.schema.classes import CLASSES, LAYERS
from cloudsen12_cube.testing import ArchiveOptions, make_archive, make_catalogue
from cloudsen12_cube.testing.scene import COVER

SMALL = ArchiveOptions(size=48)
FILES = {file: bands for product in PRODUCTS for file, bands in files_of(product).items()}
DTYPES = {asset.file: asset.dtype for asset in ASSETS} | {
    f"labels/CD-FCNN-{bands}": "uint8"
    for bands in ("RGBI", "RGBISWIR")  # per cent
}
MANUAL = {"labels/manual_hq", "labels/manual_sc"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("synthetic"), rois=3, options=SMALL)


@pytest.fixture(scope="module")
def rows(root: Path) -> list[dict[str, str]]:
    return read_rows(root)


def read_rows(root: Path) -> list[dict[str, str]]:
    with open(root / "cloudsen12_metadata.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def folder_of(root: Path, row: dict[str, str]) -> Path:
    return root / row["label_type"] / row["roi_id"] / row["s2_id_gee"]


def pixels(path: Path) -> Any:
    with rasterio.open(path) as file:
        return file.read()


def stems(folder: Path) -> set[str]:
    return {str(path.relative_to(folder))[:-4] for path in folder.rglob("*.tif")}


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    options = ArchiveOptions(size=32, metadata="both")
    first, second = (digest(make_archive(tmp_path / name, rois=2, seed=3, options=options)) for name in "ab")
    assert first == second
    other = digest(make_archive(tmp_path / "c", rois=2, seed=4, options=options))
    images = [{h for name, h in files.items() if name.endswith("S2L1C.tif")} for files in (first, other)]
    assert images[0].isdisjoint(images[1])


def test_the_files_of_each_label_type(root: Path, rows: list[dict[str, str]]) -> None:
    assert len(FILES) == 19
    for row in rows:
        expected = {*FILES, "thumbnail"} - MANUAL
        if row["label_type"] == "high":
            expected |= MANUAL
        elif row["label_type"] == "scribble":
            expected |= {"labels/manual_sc"}
        elif row["cloud_coverage"] == "cloud-free":
            expected |= {"labels/manual_hq"}
        assert stems(folder_of(root, row)) == expected
    assert len(rows) == len(list(root.glob("*/ROI_*/*"))) == 15


def test_bands_types_and_grids(root: Path, rows: list[dict[str, str]]) -> None:
    for row in rows:
        folder = folder_of(root, row)
        for stem in stems(folder):
            with rasterio.open(folder / f"{stem}.tif") as file:
                assert file.crs.to_epsg() == int(row["proj_epsg"])
                assert list(file.transform)[:6] == [float(v) for v in row["proj_transform"].split(",")]
                assert (file.height, file.width) == (48, 48)
                assert file.compression.name == "lzw"
                if stem == "thumbnail":
                    assert (file.count, file.dtypes[0]) == (3, "uint8")
                else:
                    assert file.descriptions == FILES[stem]
                    assert set(file.dtypes) == {DTYPES[stem]}


def test_every_label_value_is_legal(root: Path) -> None:
    for layer in LAYERS:
        legal = [0, 1024, 2048, 3072] if layer.bits else list(layer.legal) or range(101)
        files = list(root.rglob(f"{layer.band}.tif"))
        assert files
        for path in files:
            assert np.isin(pixels(path), legal).all(), path


def test_the_label_follows_the_cloud_coverage(root: Path, rows: list[dict[str, str]]) -> None:
    shares = {}
    for row in rows:
        path = folder_of(root, row) / "labels" / "manual_hq.tif"
        if row["label_type"] == "high":
            shares[row["cloud_coverage"]] = float(np.isin(pixels(path), [c.code for c in CLASSES if c.cloud]).mean())
        elif row["label_type"] == "nolabel" and path.exists():
            assert not pixels(path).any()
    assert [shares[name] for name in COVER] == sorted(shares.values())
    assert shares["cloud-free"] == 0
    assert shares["cloudy"] > 0.65


def test_spectra_are_plausible(root: Path, rows: list[dict[str, str]]) -> None:
    row = next(r for r in rows if r["label_type"] == "high" and r["cloud_coverage"] == "mid-cloudy")
    image, label = pixels(folder_of(root, row) / "S2L1C.tif"), pixels(folder_of(root, row) / "labels/manual_hq.tif")[0]
    blue, nir = (image[bands_of("s2l1c").index(band)] for band in ("B2", "B8"))
    clear, thick, _, shadow = (label == c.code for c in CLASSES)
    assert blue[thick].mean() > 2 * blue[clear].mean()
    assert nir[shadow].mean() < 0.7 * nir[clear].mean()
    assert image.min() > 0
    assert image[bands_of("s2l1c").index("B10")][clear].max() < 200
    assert len(np.unique(image.reshape(13, -1), axis=1).T) == 48 * 48  # each pixel tells its own place
    colour = pixels(folder_of(root, row) / "S2L2A.tif")[-3:]
    assert colour.min() >= 0
    assert colour.max() <= 255
    decibels = pixels(folder_of(root, row) / "S1.tif")[:2]
    assert (decibels * 4 % 1 == 0).all()


def test_the_columns_of_the_table(rows: list[dict[str, str]]) -> None:
    assert list(rows[0]) == CSV_COLUMNS
    assert len(CSV_COLUMNS) == 32
    assert {r["proj_shape"] for r in rows} == {"48"}
    for row in rows:
        assert (row["difficulty"] == "") == (row["label_type"] == "nolabel")
    for roi in {r["roi_id"] for r in rows}:
        assert {r["cloud_coverage"] for r in rows if r["roi_id"] == roi} == set(COVER)
        assert len({r["test"] for r in rows if r["roi_id"] == roi}) == 1


def test_the_oddities_of_the_published_set(rows: list[dict[str, str]]) -> None:
    rois = list(dict.fromkeys(r["roi_id"] for r in rows))
    assert {len(roi) for roi in rois} == {8, 9}
    assert rois != sorted(rois, key=roi_number) != sorted(rois)
    by_roi = [[r for r in rows if r["roi_id"] == roi] for roi in rois]
    assert any(len({r["proj_epsg"] for r in of}) == 2 for of in by_roi)
    assert any(len({r["s2_date"] for r in of}) == 4 and len({r["s2_id_gee"] for r in of}) == 5 for of in by_roi)
    assert any([r["s2_date"] for r in of] != sorted(r["s2_date"] for r in of) for of in by_roi)
    shared = [r for r in rows if sum(r["s2_id_gee"] == other["s2_id_gee"] for other in rows) > 1]
    assert len({r["roi_id"] for r in shared}) == 2
    assert len({r["s2_date"] for r in shared}) == len({r["s2_id_gee"] for r in shared}) == 1
    assert len({(r["roi_id"], r["s2_id_gee"]) for r in rows}) == len(rows)


@pytest.mark.parametrize(("meaning", "codes"), [("v1.0", {"0", "1"}), ("v1.1", {"0", "1", "2"})])
def test_both_meanings_of_test(meaning: Any, codes: set[str], tmp_path: Path) -> None:
    options = ArchiveOptions(size=16, times=1, test_meaning=meaning)
    found = read_rows(make_archive(tmp_path, rois=3, options=options))
    assert {r["test"] for r in found} == codes


def test_stac_items_say_what_the_table_says(tmp_path: Path) -> None:
    root = make_archive(tmp_path, rois=3, options=ArchiveOptions(size=16, metadata="both", top="more"))
    items = [json.loads(path.read_text()) for path in sorted((root / "more" / "stac").glob("*.json"))]
    properties = items[0]["properties"]
    assert properties["proj:shape"] == 16
    assert len(properties["proj:transform"]) == 6
    assert items[0]["bbox"][0] < properties["proj:centroid"]["lon"] < items[0]["bbox"][2]
    assert {f"{p['properties']['roi_id']}__{p['properties']['s2_id']}" for p in items} == {p["id"] for p in items}
    path = root / "more" / "cloudsen12_metadata.csv"
    table, stac = build(from_csv(path.read_text(), path.name)).table, build(from_stac(("", i) for i in items)).table
    for name in ("roi_id", "s2_id_gee", "datetime", "proj_epsg", "difficulty", "split", "longitude", "s1_datetime"):
        assert table[name].equals(stac[name]), name


def test_the_other_spellings(tmp_path: Path) -> None:
    options = ArchiveOptions(
        16, 1, "uint16", "none", nolabel_folder="no-label", striped_labels=True, occurrence=True, descriptions=False
    )
    root = make_archive(tmp_path, rois=3, options=options)
    assert {path.name for path in root.iterdir()} == {"high", "scribble", "no-label"}
    assert not list(root.rglob("ocurrence.tif"))
    assert len(list(root.rglob("extra/occurrence.tif"))) == 3
    with rasterio.open(next(root.rglob("kappamask_L2A.tif"))) as file:
        assert (file.dtypes, file.profile["tiled"]) == (("float32",), False)
        assert file.nodata == pytest.approx(-3.4e38)
    with rasterio.open(next(root.rglob("S2L1C.tif"))) as file:
        assert set(file.dtypes) == {"uint16"}
        assert set(file.descriptions) == {None}


def test_a_catalogue_without_pixels(tmp_path: Path) -> None:
    root = make_catalogue(tmp_path, rois=200)
    found = read_rows(root)
    assert [path.name for path in root.iterdir()] == ["cloudsen12_metadata.csv"]
    assert len({r["roi_id"] for r in found}) == 200
    assert len({(r["roi_id"], r["s2_id_gee"]) for r in found}) == len(found) == 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 15}, "size is 15"),
        ({"times": 0}, "times is 0"),
        ({"dtype": "int8"}, "dtype is 'int8': give one of int16, uint16"),
        ({"metadata": "xml"}, "metadata is 'xml': give one of csv, stac, both, none"),
        ({"test_meaning": "v2"}, "test_meaning is 'v2'"),
        ({"nolabel_folder": "high"}, "nolabel_folder is 'high'"),
        ({"top": "../up"}, "top is '../up'"),
        ({"label_types": ("low",)}, "label_types is"),
        ({"label_types": ()}, "label_types is"),
    ],
)
def test_options_are_checked_at_the_door(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize("rois", [0, 9881])
def test_no_more_rois_than_were_published(rois: int, tmp_path: Path) -> None:
    for make in (make_archive, make_catalogue):
        with pytest.raises(ValueError, match=f"rois is {rois}: give 1 to 9880"):
            make(tmp_path / "none", rois=rois)
    assert not (tmp_path / "none").exists()
