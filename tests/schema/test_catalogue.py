"""Metadata from three sources, its order, the two meanings of `test`, and conditions that are never code."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st

import cloudsen12_cube as c12
from cloudsen12_cube.archive import metadata
from cloudsen12_cube.archive.catalogue import build
from cloudsen12_cube.archive.open import open_archive
from cloudsen12_cube.errors import ArchiveError, SelectionError
from cloudsen12_cube.format.cube import open_stored_cube
from cloudsen12_cube.format.metadata import read_table
from cloudsen12_cube.schema.catalogue import Catalogue, Condition, Selection, fulfilled, parse, select
from cloudsen12_cube.schema.properties import UNKNOWN
from cloudsen12_cube.testing import ArchiveOptions, make_archive


def catalogue_of(root: Path) -> Catalogue:
    return build(open_archive(root).table()[1])


def rows(*given: tuple[str, str, str]) -> Catalogue:
    """Build from (roi_id, s2_id_gee, test)."""
    return build(pd.DataFrame(given, columns=["roi_id", "s2_id_gee", "test"], dtype=object))


def test_csv_and_stac_give_the_same_catalogue(tmp_path: Path) -> None:
    tables = {}
    for kind in ("csv", "stac"):
        root = make_archive(tmp_path / kind, rois=3, options=ArchiveOptions(size=16, metadata=kind))  # type: ignore[arg-type]
        source, texts = open_archive(root).table()
        assert source == kind
        tables[kind] = build(texts).table
    only_in_csv = ["annotator_name", "s2_water_vapour_retrieval_accuracy", "test_sr"]
    only_in_csv += ["s1_grd_post_processing_software_version"]
    pd.testing.assert_frame_equal(tables["csv"].drop(columns=only_in_csv), tables["stac"].drop(columns=only_in_csv))
    assert (tables["stac"]["test_sr"] == -1).all()


def test_folders_alone_are_enough(tmp_path: Path) -> None:
    root = make_archive(tmp_path, rois=2, options=ArchiveOptions(size=16, metadata="none"))
    source, texts = open_archive(root).table()
    table = build(texts).table
    assert source == "folders"
    assert len(table) == 10
    assert set(table["label_type"]) == {"high", "scribble"}
    assert table["datetime"].notna().all()


@needs_shared
def test_true_stac_items_slightly_invalid_as_published() -> None:
    source, texts = open_archive(SHARED / "stac_true").table()
    catalogue = build(texts)
    first = catalogue.table.iloc[0]
    assert source == "stac"
    assert catalogue.rois == ["ROI_0001", "ROI_0002", "ROI_0004"]
    assert catalogue.test_meaning == "v1.1"
    assert (first["split"], first["proj_shape"], first["proj_epsg"]) == ("test", 509, 32719)
    assert first["proj_transform"] == "10, 0, 440030, 0, -10, 4573910"
    assert (first["longitude"], first["latitude"]) == (-69.78524, -49.00794)
    assert str(first["datetime"]) == "2019-02-12 14:36:26"


def test_rois_in_numeric_order_and_times_by_acquisition() -> None:
    catalogue = rows(
        ("ROI_10133", "20200101T000000_a", "0"),
        ("ROI_0827", "20200301T000000_b", "0"),
        ("ROI_0827", "20200101T000000_c", "0"),
        ("ROI_0827", "20200301T000000_a", "0"),
    )
    assert catalogue.rois == ["ROI_0827", "ROI_10133"]
    assert list(catalogue.table["s2_id_gee"])[:3] == ["20200101T000000_c", "20200301T000000_a", "20200301T000000_b"]
    assert list(catalogue.table["time"]) == [0, 1, 2, 0]


@settings(max_examples=30)
@given(st.permutations([(f"ROI_{n:04d}", f"2020010{t}T000000_x", "0") for n in (3, 10000, 999) for t in (1, 2, 3)]))
def test_order_of_the_source_does_not_matter(shuffled: list[tuple[str, str, str]]) -> None:
    pd.testing.assert_frame_equal(rows(*shuffled).table, rows(*sorted(shuffled)).table)


@pytest.mark.parametrize(
    ("codes", "meaning", "splits"),
    [
        ("01", "v1.0", ["train", "test"]),
        ("012", "v1.1", ["train", "validation", "test"]),
        ("00", "v1.0", ["train", "train"]),
        ("12", "v1.1", ["validation", "test"]),
    ],
)
def test_two_meanings_of_test(codes: str, meaning: str, splits: list[str]) -> None:
    catalogue = rows(*((f"ROI_{i:04d}", "20200101T000000_x", code) for i, code in enumerate(codes)))
    assert catalogue.test_meaning == meaning
    assert list(catalogue.table["split"]) == splits


def test_the_meaning_of_test_can_be_told() -> None:
    texts = pd.DataFrame([("ROI_0001", "x", "1")], columns=["roi_id", "s2_id_gee", "test"], dtype=object)
    assert build(texts, "v1.1").table["split"].item() == "validation"
    with pytest.raises(ArchiveError, match="holds 7"):
        build(texts.assign(test="7"))


def test_a_split_never_shares_an_roi() -> None:
    with pytest.raises(ArchiveError, match="ROI_0001 disagree on split"):
        rows(("ROI_0001", "20200101T000000_a", "0"), ("ROI_0001", "20200102T000000_a", "1"))


def test_illegal_and_repeated_keys_are_named_and_left_out() -> None:
    catalogue = rows(
        ("../../evil", "x", "0"), ("ROI_0001", "../x", "0"), ("ROI_0001", "a", "0"), ("ROI_0001", "a", "0")
    )
    assert len(catalogue.table) == 1
    assert [f.found for f in catalogue.faults] == ["an illegal id", "an illegal id", "a second row of this patch"]


def test_unreadable_metadata_say_what_and_where(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no column 's2_id_gee'"):
        metadata.from_csv("roi_id,x\nROI_0001,1\n", "m.csv")
    with pytest.raises(ArchiveError, match="row 3: 1 fields"):
        metadata.from_csv("roi_id,s2_id_gee\na,b\nc\n", "m.csv")
    with pytest.raises(ArchiveError, match=r"x\.json is no JSON"):
        metadata.parse_json(b'{"s2_id_gee"', "x.json")
    with pytest.raises(ArchiveError, match="difficulty of the metadata holds no float"):
        build(pd.DataFrame([("ROI_0001", "a", "hard")], columns=["roi_id", "s2_id_gee", "difficulty"], dtype=object))
    with pytest.raises(ArchiveError, match="does not exist"):
        open_archive(tmp_path / "nowhere")
    with pytest.raises(ArchiveError, match="no CloudSEN12 archive"):
        open_archive(tmp_path)
    (tmp_path / "package.json").write_text("{}")
    with pytest.raises(ArchiveError, match="its JSON files are no items of it"):
        open_archive(tmp_path).table()


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("label_type=high", Condition("label_type", "=", ("high",))),
        ("label_type==high", Condition("label_type", "=", ("high",))),
        (" difficulty <= 3 ", Condition("difficulty", "<=", ("3",))),
        ("cloud_coverage=cloudy|mid-cloudy", Condition("cloud_coverage", "=", ("cloudy", "mid-cloudy"))),
        ("proj:epsg!=32632", Condition("proj_epsg", "!=", ("32632",))),
        ("s2_date>=2020-01-01", Condition("datetime", ">=", ("2020-01-01",))),
        ("roi_id=ROI_00*", Condition("roi_id", "=", ("ROI_00*",))),
    ],
)
def test_conditions_are_parsed(text: str, condition: Condition) -> None:
    assert parse(text) == condition


@pytest.mark.parametrize(
    "text",
    [
        "",
        "label_type",
        "label_type=",
        "nonsense=1",
        "label_type<3",
        "difficulty<=hard",
        "difficulty<1|2",
        "datetime>soon",
        "__import__('os').system('x')",
        "difficulty<=__import__('os')",
    ],
)
def test_other_conditions_are_refused(text: str) -> None:
    with pytest.raises(SelectionError):
        parse(text)


ONE_PATCH = rows(("ROI_0001", "a", "0")).table


@given(st.text())
def test_hostile_text_is_text(text: str) -> None:
    try:
        condition = parse(f"annotator_name={text}")
    except SelectionError:
        assert not text.lstrip("= ").strip()
        return
    assert fulfilled(condition, ONE_PATCH).sum() == ("" in condition.values or "*" in condition.values)


def test_conditions_against_plain_loops(archive: Path) -> None:
    table = catalogue_of(archive).table
    expected = [d <= 3 for d in table["difficulty"]]  # NaN <= 3 is False
    assert list(fulfilled(parse("difficulty<=3"), table)) == expected
    expected = [d != 3 for d in table["difficulty"]]
    assert list(fulfilled(parse("difficulty!=3"), table)) == expected
    early = [t < pd.Timestamp("2019-03-01") for t in table["datetime"]]
    assert list(fulfilled(parse("datetime<2019-03-01"), table)) == early


def test_unknown_numbers_fulfil_no_comparison() -> None:
    table = rows(("ROI_0001", "a", ""), ("ROI_0002", "a", "0")).table
    assert list(fulfilled(parse("test<1"), table)) == [False, True]


def _longitude(catalogue: Catalogue, roi: str) -> float:
    return float(catalogue.table.set_index("roi_id").loc[[roi], "longitude"].iloc[0])


def test_selection_by_place_id_and_condition(archive: Path) -> None:
    whole = catalogue_of(archive)
    row = whole.table.iloc[0]
    x, y = row["longitude"], row["latitude"]
    assert select(whole, Selection(bbox=(x - 1, y - 1, x + 1, y + 1))).rois == [row["roi_id"]]
    across = select(whole, Selection(bbox=(x + 1, -90, x - 1, 90)))
    assert across.rois == [r for r in whole.rois if abs(_longitude(whole, r) - x) > 1]
    some = select(whole, Selection(rois=(whole.rois[2], whole.rois[1])))
    assert some.rois == whole.rois[1:3]
    few = select(whole, Selection(where=("cloud_coverage=cloudy",)))
    assert few.times == 1
    assert np.array_equal(few.table["time"], np.zeros(4))


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(where=("difficulty>5",)), "selection is empty: no patch of 20 has difficulty>5"),
        (Selection(rois=("ROI_9999",)), "no ROI 'ROI_9999'"),
        (Selection(bbox=(0, 5, 1, -5)), "is not west, south, east, north"),
    ],
)
def test_selections_of_nothing_say_so(archive: Path, selection: Selection, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        select(catalogue_of(archive), selection)


def test_links_out_of_the_archive_are_known_but_not_followed(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "archive"
    shutil.copytree(archive, root)
    secret = tmp_path / "secret.tif"
    victim = next(root.glob("high/*/*/S1.tif"))
    victim.rename(secret)
    victim.symlink_to(secret)
    files = [f for f in open_archive(root).patches.values() if f.outside]
    assert [f.outside for f in files] == [frozenset({"S1"})]


def test_unknown_numbers_as_r_writes_them() -> None:
    columns = ["roi_id", "s2_id_gee", "difficulty", "land_cover", "s1_date"]
    table = build(pd.DataFrame([("ROI_0001", "a", "NA", "NaN", "NA")], columns=columns, dtype=object)).table
    assert table["difficulty"].isna().all()
    assert table["s1_datetime"].isna().all()
    assert list(table["land_cover"]) == [-1]


def changed_archive(root: Path, kind: str, **values: object) -> Path:
    """Create an archive in whose first row of metadata some values are others."""
    make_archive(root, rois=1, options=ArchiveOptions(size=16, metadata=kind, times=2))  # type: ignore[arg-type]
    if kind == "stac":
        path = sorted(root.rglob("*.json"))[0]
        item = json.loads(path.read_text())
        item["properties"] |= values
        path.write_text(json.dumps(item))
        return root
    path = root / "cloudsen12_metadata.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    rows[0] |= values  # type: ignore[operator]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.mark.parametrize("kind", ["csv", "stac"])
@pytest.mark.parametrize("text", [text for text in UNKNOWN if text] + [" NA "])
def test_texts_that_stand_for_unknown(tmp_path: Path, kind: str, text: str) -> None:
    names = ["cloud_coverage", "s2_fmask_version", "s1_id", "difficulty", "land_cover", "s1_date"]
    centre = f"POINT ({text.strip()} {text.strip()})"
    root = changed_archive(tmp_path / "a", kind, **dict.fromkeys(names, text), proj_centroid=centre)
    row = catalogue_of(root).table.iloc[0]
    assert [row["cloud_coverage"], row["s2_fmask_version"], row["s1_id"], row["land_cover"]] == ["", "", "", -1]
    assert pd.isna([row["difficulty"], row["s1_datetime"], row["longitude"], row["latitude"]]).all()


def test_null_and_nan_in_json(tmp_path: Path) -> None:
    unknown = {"s2_fmask_version": None, "s1_id": math.nan, "difficulty": None, "land_cover": math.nan}
    root = changed_archive(tmp_path / "a", "stac", **unknown, **{"proj:centroid": {"lat": None, "lon": None}})
    row = catalogue_of(root).table.iloc[0]
    assert [row["s2_fmask_version"], row["s1_id"], row["land_cover"]] == ["", "", -1]
    assert pd.isna([row["difficulty"], row["longitude"]]).all()
    c12.convert(root, tmp_path / "c.zarr", ["extra"])
    assert c12.verify(tmp_path / "c.zarr", source=root).differences == ()


@pytest.mark.parametrize("name", ["NA", "None", "nan"])
def test_ids_are_names_and_never_unknown(tmp_path: Path, name: str) -> None:
    root = changed_archive(tmp_path / "a", "csv", s2_id_gee=name, s2_id=name, proj_centroid="POINT (NA NA)")
    last = max(root.glob("*/ROI_*/*"))
    kept = {row["s2_id_gee"] for row in csv.DictReader((root / "cloudsen12_metadata.csv").read_text().splitlines())}
    (moved,) = [folder for folder in last.parent.iterdir() if folder.name not in kept]
    moved.rename(moved.with_name(name))
    report = c12.convert(root, tmp_path / "c.zarr", ["extra"])
    assert (report.done, report.faults) == (2, ())
    cube = c12.open_cube(tmp_path / "c.zarr").to_dataset()
    assert sorted(cube["s2_id_gee"].values.ravel()) == sorted(kept)
    assert name not in cube["s2_id"].values
    assert name in read_table(open_stored_cube(tmp_path / "c.zarr"))[1]["s2_id_gee"].tolist()
    assert c12.verify(tmp_path / "c.zarr", source=root).differences == ()
    assert [fault.found for fault in rows((name, "x", "0"), ("ROI_0001", "x", "0")).faults] == ["an illegal id"]
