"""Counts of a cube against a naive loop, table 6 of it, and predictions of one's own."""

from __future__ import annotations

import functools
import io
import json
import operator
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import rasterio
import xarray as xr
from conftest import SHARED, needs_shared
from rasterio.errors import NotGeoreferencedWarning
from sklearn import metrics as oracle

import cloudsen12_cube as c12
from cloudsen12_cube.cli.commands import main
from cloudsen12_cube.dataset import class_views as class_view
from cloudsen12_cube.dataset.lazy import Reduction, reduce_per_roi
from cloudsen12_cube.errors import CubeError, PatchError, SelectionError
from cloudsen12_cube.evaluation import benchmark as accuracy
from cloudsen12_cube.evaluation.benchmark import differences, evaluate, per_patch
from cloudsen12_cube.evaluation.counts import ConfusionCounter, accuracies, confusion, confusion_counts
from cloudsen12_cube.evaluation.metrics import ALGORITHMS, BINARY, CLASS_NAMES, MEMBERS, summarise
from cloudsen12_cube.evaluation.tif_predictions import from_folder
from cloudsen12_cube.schema.classes import UNLABELLED, layer
from cloudsen12_cube.testing import ArchiveOptions, make_archive

Codes = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five ROIs with expert labels, and one with scribbles, in small patches."""
    folder = tmp_path_factory.mktemp("evaluation")
    options = ArchiveOptions(size=32, label_types=("high", "high", "high", "high", "high", "scribble"))
    make_archive(folder / "archive", rois=6, seed=3, options=options)
    assert c12.convert(folder / "archive", folder / "cube.zarr", products=["labels"]).exit_code == 0
    return folder / "cube.zarr"


@pytest.fixture(scope="module")
def tree(place: Path) -> xr.DataTree:
    return c12.open_cube(place)


def codes(tree: xr.DataTree, name: str) -> Codes:
    return class_view.classes(tree["labels"]["labels"], name).values


def naive(
    reference: Codes, predicted: Codes, scheme: Any = "four", unclassified: str = "negative"
) -> npt.NDArray[np.int64]:
    """Count with scikit-learn, patch by patch."""
    into, labels = np.array([*MEMBERS[scheme], 4 if scheme == "four" else 0]), [*range(len(CLASS_NAMES[scheme]))]
    counts = []
    for patch in np.ndindex(*reference.shape[:2]):
        chosen = reference[patch] != UNLABELLED
        if unclassified == "exclude":
            chosen &= predicted[patch] != UNLABELLED
        truth, said = (into[np.minimum(codes[patch][chosen], 4)] for codes in (reference, predicted))
        every = np.zeros((5, 5), np.int64)
        np.add.at(every, (truth, said), 1)
        counts.append(every[: len(labels), : len(labels) + (scheme == "four" and unclassified == "negative")])
    return np.reshape(counts, (*reference.shape[:2], *counts[0].shape))


@pytest.mark.parametrize("unclassified", ["negative", "exclude"])
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("scheme", ["four", *BINARY])
def test_counts_are_naive_counts(tree: xr.DataTree, name: str, scheme: Any, unclassified: Any) -> None:
    if scheme not in layer(name).resolves:
        with pytest.raises(ValueError, match=f"{name} does not distinguish cloud shadow: .* one of manual_hq"):
            confusion(tree, name, "manual_hq", scheme)
        return
    made = confusion(tree, name, "manual_hq", scheme, unclassified)
    assert made["counts"].dims == ("roi", "time", "reference", "predicted")
    assert list(made["reference"].values) == list(CLASS_NAMES[scheme])
    expected = naive(codes(tree, "manual_hq"), codes(tree, name), scheme, unclassified)
    np.testing.assert_array_equal(made["counts"], expected)
    assert made["predicted_code"].values.tolist()[: len(made["reference"])] == made["reference_code"].values.tolist()
    assert made["counts"].sum() > 0
    assert made.attrs["unclassified"] == unclassified


def test_the_fifth_column_is_unlabelled(tree: xr.DataTree) -> None:
    made = confusion(tree, "sen2cor")
    assert list(made["predicted"].values) == [*CLASS_NAMES["four"], "unlabelled"]
    assert made["predicted_code"].values.tolist() == [0, 1, 2, 3, UNLABELLED]
    with pytest.raises(ValueError, match="unclassified is 'drop': give one of negative, exclude"):
        confusion(tree, "sen2cor", unclassified="drop")  # type: ignore[arg-type]


def test_counts_are_lazy_and_made_once(tree: xr.DataTree, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    counting = ConfusionCounter
    real = counting.__call__
    monkeypatch.setattr(counting, "__call__", lambda self, *arrays: calls.append(len(arrays[0])) or real(self, *arrays))
    made = confusion(tree, "fmask", "manual_hq", "cloud")
    assert not calls
    part = made["counts"].isel(roi=[1, 3], time=slice(0, 2)).values
    assert calls == [1, 1]  # of six ROIs, the two that were asked for
    whole = made["counts"].values
    np.testing.assert_array_equal(whole[[1, 3]][:, :2], part)
    assert len(calls) == 8
    assert int(made["counts"].sum()) == whole.sum()
    assert len(calls) == 8


@pytest.mark.parametrize("chunks", ["roi", {"roi": 4}, {}])
def test_dask_gives_the_same(place: Path, tree: xr.DataTree, chunks: Any) -> None:
    lazy = confusion_counts(c12.open_cube(place, chunks=chunks), {n: n for n in ALGORITHMS}, "manual_hq")
    assert lazy.chunks is not None
    xr.testing.assert_identical(lazy.compute(), confusion_counts(tree, {n: n for n in ALGORITHMS}, "manual_hq").load())
    eager, graph = (confusion(t, "fmask", scheme="valid") for t in (tree, c12.open_cube(place, chunks=chunks)))
    xr.testing.assert_equal(eager.load(), graph.load())


def test_what_runs_on_a_cluster_can_be_sent_there(tree: xr.DataTree) -> None:
    lazy = confusion(tree, "fmask")["counts"].variable
    reduction = lazy._data.array.array.reduction
    assert pickle.loads(pickle.dumps(reduction)).sizes == reduction.sizes  # noqa: S301  # made in the line itself


def test_counts_add(tree: xr.DataTree) -> None:
    made = confusion(tree, "sen2cor", "manual_hq", "valid").load()
    whole = made["counts"].sum(["roi", "time"])
    for name in ("split", "land_cover", "cloud_coverage", "annotator_name", "hexagon", "label_type"):
        groups = made.groupby(name).sum()["counts"]
        xr.testing.assert_equal(groups.sum(name).astype(int), whole)
        assert groups.sizes[name] >= 1
    table = made["difficulty"].values
    labelled = made.groupby("difficulty").sum()["counts"]
    chosen = made["counts"].values[table == labelled["difficulty"].values[0]].sum(axis=0)
    np.testing.assert_array_equal(labelled.values[0], chosen)


def test_accuracies_of_summed_counts(tree: xr.DataTree) -> None:
    made = accuracies(confusion(tree, "sen2cor").groupby("cloud_coverage").sum())
    assert made["f1"].dims == ("cloud_coverage", "class")
    chosen = tree["cloud_coverage"].values == "low-cloudy"
    truth, said = (codes(tree, name)[chosen] for name in ("manual_hq", "sen2cor"))
    both = truth != UNLABELLED
    row = made.sel(cloud_coverage="low-cloudy")
    assert float(row["overall_agreement"]) == oracle.accuracy_score(truth[both], said[both])
    recall = oracle.recall_score(truth[both], said[both], labels=[2], average=None)[0]  # 255 is a miss
    assert float(row["producers_accuracy"].sel({"class": "thin_cloud"})) == recall
    whole = confusion(tree, "sen2cor").sum(["roi", "time"])
    without = accuracies(whole.drop_sel(reference="thin_cloud", predicted="thin_cloud"))
    assert without["iou"].sizes == {"class": 3}


def test_coarse_schemes_are_sums_of_four(tree: xr.DataTree) -> None:
    four = confusion(tree, "kappamask_L1C")["counts"].values
    cloud = confusion(tree, "kappamask_L1C", scheme="cloud")["counts"].values
    assert (cloud[..., 1, 1] == four[..., 1:3, 1:3].sum(axis=(-2, -1))).all()
    assert (cloud.sum(axis=(-2, -1)) == four.sum(axis=(-2, -1))).all()


def test_columns_of_the_table_behind_table_six(tree: xr.DataTree) -> None:
    table = per_patch(tree, split=None, predicted=["fmask", "s2cloudless", "kappamask_L1C"])
    reference = codes(tree, "manual_hq")
    rois = [str(roi) for roi in tree["roi"].values]
    labelled = (reference != UNLABELLED).any(axis=(-2, -1))
    assert len(table) == labelled.sum() * (3 + 2 + 2)
    for row in table.itertuples():
        patch = rois.index(row.roi_id), row.time
        counts = naive(*(c[patch][None, None] for c in (reference, codes_of(tree, row.layer))), row.scheme)[0, 0]
        assert counts.tolist() == [[row.tn, row.fp], [row.fn, row.tp]]
        assert row.cloudy == np.isin(reference[patch], [1, 2]).any()
        truth = row.tp + row.fn
        pa = row.tp / truth if truth and row.cloudy else np.nan
        np.testing.assert_equal(row.pa, pa)
        assert row.s2_id_gee == str(tree["s2_id_gee"].values[patch])


_CACHE: dict[tuple[int, str], Codes] = {}


def codes_of(tree: xr.DataTree, name: str) -> Codes:
    return _CACHE.setdefault((id(tree), name), codes(tree, name))


def test_table_six_is_the_summary_of_the_patches(tree: xr.DataTree) -> None:
    table, patches = evaluate(tree, split="train"), per_patch(tree, split="train")
    assert set(patches["split"]) == {"train"}
    for scheme, name in table.index:
        rows = patches[(patches["scheme"] == scheme) & (patches["layer"] == name)]
        pd.testing.assert_series_equal(table.loc[(scheme, name)], summarise(rows), check_names=False)
    assert [name for scheme, name in table.index if scheme == "cloud"] == list(ALGORITHMS)
    assert {name for scheme, name in table.index if scheme == "shadow"} == {
        name for name in ALGORITHMS if "shadow" in layer(name).resolves
    }
    assert "PA and UA over the" in str(table)


def test_groups(tree: xr.DataTree) -> None:
    patches = per_patch(tree, split=None, columns=["s2_view_sun_elevation"])
    table = evaluate(tree, split=None, by=["cloud_coverage", "land_cover"])
    rows = patches[patches["cloud_coverage"] == "cloudy"]
    code = int(rows["land_cover"].iloc[0])
    chosen = rows[(rows["land_cover"] == code) & (rows["scheme"] == "valid") & (rows["layer"] == "fmask")]
    pd.testing.assert_series_equal(table.loc[("cloudy", code, "valid", "fmask")], summarise(chosen), check_names=False)
    assert evaluate(tree, split=None, by="hexagon").index.names[0] == "hexagon"
    with pytest.raises(KeyError, match="no column 'contient'; there are hexagon, "):
        evaluate(tree, split=None, by="contient")


def test_only_patches_of_the_split_are_read(tree: xr.DataTree) -> None:
    wanted = xr.DataArray(
        np.zeros((6, 5), bool), dims=("roi", "time"), coords={"roi": tree["roi"].values, "time": range(5)}
    )
    wanted[2, 1:3] = True
    made = confusion_counts(tree, {"fmask": "fmask"}, "manual_hq", wanted)
    assert made.sizes["roi"] == 1
    per_time = made.sum(["roi", "layer", "reference", "predicted"]).values
    assert (per_time > 0).tolist() == [False, True, True, False, False]


def test_a_patch_that_is_not_in_the_cube_is_no_row(tree: xr.DataTree) -> None:
    whole = per_patch(tree, split=None)
    chosen = tree.cloudsen12.query(cloud_coverage=["cloudy", "mid-cloudy"])
    part = per_patch(chosen, split=None)
    assert 0 < len(part) < len(whole)
    expected = whole[whole["cloud_coverage"].isin(["cloudy", "mid-cloudy"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        part.sort_values(["scheme", "layer", "roi_id", "time"], ignore_index=True),
        expected.sort_values(["scheme", "layer", "roi_id", "time"], ignore_index=True),
    )
    own = class_view.classes(tree["labels"]["labels"], "fmask").load()
    gone = confusion(chosen, own, own)["counts"].values[tree["cloud_coverage"].values[:, :0].shape[0] :]
    assert gone.sum() == 0
    absent = chosen["labels"]["status"].values != 1
    assert absent.any()
    assert (confusion(chosen, own, own)["counts"].values[absent] == 0).all()


def test_split_all_is_no_selection(tree: xr.DataTree) -> None:
    pd.testing.assert_frame_equal(evaluate(tree, split="all"), evaluate(tree, split=None))


def test_nothing_to_evaluate(tree: xr.DataTree, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="no ROI is in split 'exam': the cube's ROIs are in "):
        evaluate(tree, split="exam")
    scribble = tree.cloudsen12.query(label_type="scribble")
    with pytest.raises(SelectionError, match="has a label of manual_hq"):
        evaluate(scribble, split=None)
    with pytest.raises(SelectionError, match="there is nothing to evaluate"):
        evaluate(tree, split=None, predicted=[])
    with pytest.raises(KeyError, match="no label layer 'f' in the cube; it has manual_hq"):
        evaluate(tree, split=None, predicted="f")
    make_archive(tmp_path / "a", rois=1, options=ArchiveOptions(size=16))
    c12.convert(tmp_path / "a", tmp_path / "c.zarr", products=["extra"])
    with pytest.raises(KeyError, match="needs the group labels; the cube has extra"):
        evaluate(c12.open_cube(tmp_path / "c.zarr"))


def test_scribbles_as_reference(tree: xr.DataTree) -> None:
    counts = confusion(tree, "manual_hq", "manual_sc")["counts"].values
    expected = naive(codes(tree, "manual_sc"), codes(tree, "manual_hq"))
    expected[(codes(tree, "manual_hq") == UNLABELLED).all(axis=(-2, -1))] = 0  # these patches have no such layer
    np.testing.assert_array_equal(counts, expected)
    assert 0 < counts.sum() < (codes(tree, "manual_hq") != UNLABELLED).sum()


def test_own_predictions_in_every_form(tree: xr.DataTree, tmp_path: Path) -> None:
    view = class_view.classes(tree["labels"]["labels"], "sen2cor")
    expected = evaluate(tree, split=None, predicted="sen2cor")
    write_folder(tree, view.values, tmp_path / "sen2cor")
    forms: dict[str, Any] = {
        "lazy": view,
        "memory": view.load().copy(),
        "bare": xr.DataArray(view.values, dims=("roi", "time", "y", "x")),
        "text": view.assign_coords(roi=[str(roi) for roi in view["roi"].values]),
        "objects": view.assign_coords(roi=view["roi"].values.astype(object)).load(),
        "turned": view.transpose("y", "x", "time", "roi").isel(roi=[3, 1, 0, 2, 5, 4]),
        "dask": view.chunk({"roi": 2}),
        "folder": tmp_path / "sen2cor",
    }
    for name, form in forms.items():
        made = evaluate(tree, split=None, predicted={name: form})
        np.testing.assert_array_equal(made.to_numpy(), expected.to_numpy(), err_msg=name)
        assert set(made.index.get_level_values("layer")) == {name}
    counts = confusion(tree, tmp_path / "sen2cor", "manual_hq", "valid")
    assert counts.attrs["predicted"] == "sen2cor"
    np.testing.assert_array_equal(counts["counts"], confusion(tree, "sen2cor", scheme="valid")["counts"])
    both = evaluate(tree, split=None, predicted={"mine": view, "fmask": "fmask"})
    assert both.loc[("cloud", "mine")].equals(expected.loc[("cloud", "sen2cor")])
    assert list(evaluate(tree, split=None, predicted=["qa60"]).index) == [("cloud", "qa60")]


def test_a_layer_that_a_model_added_is_evaluated_too(tree: xr.DataTree) -> None:
    view = class_view.classes(tree["labels"]["labels"], "fmask").drop_vars(["s2_id_gee"])
    nodes = {name: node.to_dataset(inherit=False) for name, node in tree.children.items()}
    added = xr.Dataset({"unet": view.variable})
    cube = xr.DataTree.from_dict({"/": tree.to_dataset(), **nodes, "predictions": added})
    table = evaluate(cube, split=None)
    assert list(table.index[:2]) == [("cloud", "unet"), ("cloud", "kappamask_L2A")]
    for scheme in BINARY:
        assert table.loc[(scheme, "unet")].equals(table.loc[(scheme, "fmask")])
    assert evaluate(cube, split=None, predicted="unet").shape == (3, 7)
    by_model = evaluate(cube, reference="unet", split=None)
    assert "unet" not in by_model.index.get_level_values("layer")
    assert by_model.loc[("cloud", "fmask"), "boa"] == 1
    np.testing.assert_array_equal(confusion(cube, "unet")["counts"], confusion(tree, "fmask")["counts"])


def write_folder(tree: xr.DataTree, values: Codes, folder: Path, form: str = "{roi}/{image}.tif") -> None:
    for (i, j), image in np.ndenumerate(tree["s2_id_gee"].values):
        path = folder / form.format(roi=tree["roi"].values[i], image=image)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tif(path, values[i, j], grid_of(tree, i, j))


def grid_of(tree: xr.DataTree, roi: int, time: int) -> dict[str, Any]:
    six = tree["proj_transform"].values[roi, time]
    return {"crs": f"EPSG:{tree['proj_epsg'].values[roi, time]}", "transform": rasterio.Affine(*six)}


def write_tif(path: Path, plane: npt.NDArray[Any], grid: dict[str, Any]) -> None:
    height, width = plane.shape
    profile = {"driver": "GTiff", "count": 1, "height": height, "width": width, "dtype": plane.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile, **grid) as file:
            file.write(plane, 1)


@pytest.mark.parametrize("form", ["{roi}/{image}.tif", "high/{roi}/{image}/labels/m.tif", "{roi}/{image}/m.tif"])
def test_layouts_of_a_folder(tree: xr.DataTree, tmp_path: Path, form: str) -> None:
    values = codes(tree, "fmask")
    write_folder(tree, values, tmp_path / "run", form)
    array = from_folder(tree["labels"].to_dataset(), tmp_path / "run")
    assert array.attrs["missing"] == 0
    np.testing.assert_array_equal(array, values)
    np.testing.assert_array_equal(array[2, :, 3:9, ::-1], values[2, :, 3:9, ::-1])
    np.testing.assert_array_equal(array.isel(roi=[4, 0], time=3), values[[4, 0], 3])


def test_the_authors_flat_folders(tree: xr.DataTree, tmp_path: Path) -> None:
    """Labels after and before quality control: the row "Human level" of table 6."""
    after, before = codes(tree, "manual_hq"), codes(tree, "manual_hq").copy()
    before[:, :, :4] = 0
    write_folder(tree, np.where(after == UNLABELLED, 0, after), tmp_path / "after", "{roi}__{image}.tif")
    write_folder(tree, before, tmp_path / "before", "{roi}__{image}__manual.tif")
    labels = tree["labels"].to_dataset()
    np.testing.assert_array_equal(from_folder(labels, tmp_path / "before"), before)
    np.testing.assert_array_equal(from_folder(labels, tmp_path / "before", "manual"), before)
    assert from_folder(labels, tmp_path / "after").attrs["missing"] == 0
    table = evaluate(tree, split=None, predicted={"Human level": tmp_path / "before"})
    assert list(table.index.get_level_values("layer")) == ["Human level"] * 3
    counts = confusion(tree, tmp_path / "before")["counts"].sum(["roi", "time"]).values
    assert 0 < np.trace(counts[:, :4]) < counts.sum()
    for path in (tmp_path / "before").iterdir():
        shutil.move(path, tmp_path / "after" / path.name)
    with pytest.raises(SelectionError, match="two predictions of one patch"):
        from_folder(labels, tmp_path / "after")
    np.testing.assert_array_equal(from_folder(labels, tmp_path / "after", "manual"), before)


def test_missing_files_are_unlabelled_and_told(tree: xr.DataTree, tmp_path: Path) -> None:
    write_folder(tree, codes(tree, "fmask"), tmp_path)
    labelled = np.argwhere((codes(tree, "manual_hq") != UNLABELLED).any(axis=(-2, -1)))
    roi, time = labelled[0]
    (tmp_path / str(tree["roi"].values[roi]) / f"{tree['s2_id_gee'].values[roi, time]}.tif").unlink()
    array = from_folder(tree["labels"].to_dataset(), tmp_path)
    assert array.attrs["missing"] == 1
    assert (array[roi, time] == UNLABELLED).all()
    table = evaluate(tree, split=None, predicted={"mine": tmp_path})
    assert f"mine: no prediction for 1 of {len(labelled)} patches" in str(table)
    with pytest.raises(SelectionError, match="has no prediction: name the tifs"):
        from_folder(tree["labels"].to_dataset(), tmp_path / "nothing")


def test_wrong_files_are_errors(tree: xr.DataTree, tmp_path: Path) -> None:
    write_folder(tree, codes(tree, "fmask"), tmp_path)
    victim = sorted(tmp_path.glob("*/*.tif"))[0]
    for plane, text in (
        (np.zeros((8, 32), np.uint8), r"found an image of \(1, 8, 32\), expected one band of \(32, 32\)"),
        (np.full((32, 32), 0.5, np.float32), "float32 with 0.5"),
        (np.full((32, 32), 256, np.int16), "int16 with 256"),
    ):
        write_tif(victim, plane, {})
        with pytest.raises(PatchError, match=text):
            from_folder(tree["labels"].to_dataset(), tmp_path).load()
    write_tif(victim, np.full((32, 32), 99, np.uint8), {})
    with pytest.raises(ValueError, match="hold 99: give 0 clear"):
        evaluate(tree, split=None, predicted=tmp_path)
    other = tmp_path / victim.parent.name / victim.stem / "b.tif"
    other.parent.mkdir()
    shutil.copy(victim, other)
    with pytest.raises(SelectionError, match="two predictions of one patch"):
        from_folder(tree["labels"].to_dataset(), tmp_path)


def placed(*changes: rasterio.Affine) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda grid: grid | {"transform": functools.reduce(operator.mul, changes, grid["transform"])}


AFFINE = rasterio.Affine
WRONG_GRIDS = {
    "one pixel east": (placed(AFFINE.translation(1, 0)), "transform"),
    "half a pixel south": (placed(AFFINE.translation(0, 0.5)), "transform"),
    "south up": (placed(AFFINE.translation(0, 32), AFFINE.scale(1, -1)), "transform"),
    "20 m": (placed(AFFINE.scale(2)), "transform"),
    "turned": (placed(AFFINE.rotation(90)), "transform"),
    "other zone": (lambda grid: grid | {"crs": "EPSG:32601"}, "EPSG:32601"),
    "degrees": (lambda grid: grid | {"crs": "EPSG:4326"}, "EPSG:4326"),
}


@pytest.mark.parametrize("name", WRONG_GRIDS)
def test_the_grid_of_a_file_is_that_of_its_patch(tree: xr.DataTree, tmp_path: Path, name: str) -> None:
    change, text = WRONG_GRIDS[name]
    values = codes(tree, "fmask")
    write_folder(tree, values, tmp_path)
    path = tmp_path / str(tree["roi"].values[2]) / f"{tree['s2_id_gee'].values[2, 1]}.tif"
    write_tif(path, values[2, 1], change(grid_of(tree, 2, 1)))
    array = from_folder(tree["labels"].to_dataset(), tmp_path)
    with pytest.raises(PatchError, match=f"{path.name}: found {text}.*, expected") as caught:
        array.load()
    assert str(path) in str(caught.value)
    np.testing.assert_array_equal(array[3], values[3])  # files of other patches are right
    with pytest.raises(PatchError):
        evaluate(tree, split=None, predicted=tmp_path)
    picked = tree["labels"].to_dataset().isel(roi=[4, 2], time=[1])  # grids follow a selection
    write_tif(path, values[2, 1], grid_of(tree, 2, 1))
    np.testing.assert_array_equal(from_folder(picked, tmp_path), values[[4, 2]][:, [1]])


def test_a_file_without_a_grid_and_a_patch_without_one(tree: xr.DataTree, tmp_path: Path) -> None:
    values = codes(tree, "fmask")
    write_folder(tree, values, tmp_path)
    path = tmp_path / str(tree["roi"].values[2]) / f"{tree['s2_id_gee'].values[2, 1]}.tif"
    write_tif(path, values[2, 1], {})
    labels = tree["labels"].to_dataset().load()
    np.testing.assert_array_equal(from_folder(labels, tmp_path), values)
    labels["proj_transform"].values[3, 0] = np.nan
    labels["proj_epsg"].values[3, 0] = 0
    path = tmp_path / str(tree["roi"].values[3]) / f"{tree['s2_id_gee'].values[3, 0]}.tif"
    write_tif(path, values[3, 0], grid_of(tree, 2, 1))
    np.testing.assert_array_equal(from_folder(labels, tmp_path), values)


def test_arrays_that_do_not_fit(tree: xr.DataTree) -> None:
    view = class_view.classes(tree["labels"]["labels"], "fmask").load()
    bare = xr.DataArray(view.values, dims=view.dims, name="mine")
    for wrong, text in (
        (bare.isel(x=slice(9)), "mine has 9 along x, the cube has 32"),
        (bare.isel(roi=[0]), "mine has 1 along roi, the cube has 6"),
        (bare.isel(y=0), r"mine is uint8 .* dims roi, time, y, x"),
        (bare.astype(float), "give class codes as integers"),
    ):
        with pytest.raises(ValueError, match=text):
            confusion(tree, wrong)


def test_patches_that_an_array_lacks_are_told(tree: xr.DataTree) -> None:
    view = class_view.classes(tree["labels"]["labels"], "fmask")
    for part in (view.isel(roi=[0, 1]), view.isel(roi=[0, 1]).load()):
        made = evaluate(tree, split=None, predicted={"mine": part})
        there = (tree["label_type"].values[:2] == "high").sum() * 5
        assert f"mine: no prediction for {25 - there} of 25 patches; they do not count" in str(made)


def test_a_model_without_shadow_takes_part_in_cloud_alone(tree: xr.DataTree) -> None:
    view = class_view.classes(tree["labels"]["labels"], "fmask")
    view.attrs["flag_meanings"] = "clear thick_cloud unlabelled"
    assert list(evaluate(tree, split=None, predicted={"mine": view}).index) == [("cloud", "mine")]
    with pytest.raises(ValueError, match="does not distinguish cloud shadow"):
        confusion(tree, view, scheme="shadow")


def test_two_runs_differ_most_where_they_should(tree: xr.DataTree) -> None:
    first = class_view.classes(tree["labels"]["labels"], "manual_hq").load()
    second = first.copy()
    roi, time = np.argwhere(tree["cloud_coverage"].values[:5] == "cloudy")[0]
    second[roi, time] = 0
    one, other = (per_patch(tree, split=None, predicted={"run": run}) for run in (first, second))
    found = differences(one, other, "pa")
    worst = found[found["scheme"] == "cloud"].iloc[0]
    assert (worst["roi_id"], worst["time"]) == (tree["roi"].values[roi], time)
    assert (worst["one"], worst["other"], worst["difference"]) == (1, 0, -1)
    assert found["difference"].abs().dropna().is_monotonic_decreasing
    assert len(found) == len(one)
    many = differences(per_patch(tree, split=None), per_patch(tree, split=None))
    assert (many["difference"].dropna() == 0).all()
    assert "layer" in many
    with pytest.raises(SelectionError, match="no patch in common"):
        differences(one, other.assign(roi_id="X" + other["roi_id"]))
    with pytest.raises(KeyError, match="no metric 'oa'"):
        differences(one, other, "oa")  # type: ignore[arg-type]


def test_an_unknown_scale_leaves_a_layer_out_and_says_so(place: Path) -> None:
    cube = c12.open_cube(place)
    nodes = {name: cube[name].to_dataset() for name in cube.children}
    layers = json.loads(nodes["labels"]["labels"].attrs["layers"])
    del layers["CD-FCNN-RGBI"]["valid_max"]
    nodes["labels"]["labels"].attrs["layers"] = layers
    cube = xr.DataTree.from_dict({"/": cube.to_dataset(), **nodes})
    table = evaluate(cube, split=None)
    assert ("cloud", "CD-FCNN-RGBI") not in table.index
    assert "CD-FCNN-RGBI is left out: the full scale" in str(table)
    with pytest.raises(ValueError, match="the full scale of CD-FCNN-RGBI is unknown"):
        evaluate(cube, split=None, predicted="CD-FCNN-RGBI")


def test_saving_the_patches(tree: xr.DataTree, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    table = per_patch(tree, split=None)
    accuracy.save(table, tmp_path / "p.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "p.parquet"), table, check_dtype=False)
    with pytest.raises(CubeError, match=r"name the file .parquet or .csv"):
        accuracy.save(table, tmp_path / "p.xls")


def test_command_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cube, train = c12.open_cube(place), ["--split", "train"]
    assert main(["evaluate", str(place), *train]) == 0
    assert capsys.readouterr().out == f"{evaluate(cube, split='train')}\n"
    assert main(["evaluate", str(place), *train, "--format", "csv", "--by", "land_cover"]) == 0
    made = pd.read_csv(io.StringIO(capsys.readouterr().out), index_col=["land_cover", "scheme", "layer"])
    expected = pd.DataFrame(evaluate(cube, split="train", by="land_cover"))
    pd.testing.assert_frame_equal(made, expected, check_index_type=False)
    assert main(["evaluate", str(place), "--split", "all", "--format", "latex", "--reference", "sen2cor"]) == 0
    assert r"\begin{tabular}" in capsys.readouterr().out
    csv = tmp_path / "patches.csv"
    assert main(["evaluate", str(place), *train, "--format", "markdown", "--per-patch", str(csv)]) == 0
    assert capsys.readouterr().out.startswith("|  |  | BOA |")
    assert len(pd.read_csv(csv)) == len(per_patch(cube, split="train"))
    write_folder(cube, codes(cube, "fmask"), tmp_path / "mine")
    assert main(["evaluate", str(place), *train, "--predictions", str(tmp_path / "mine")]) == 0
    assert "mine" in capsys.readouterr().out
    for wrong in (["--split", "x"], ["--reference", "x"], ["--by", "x"], ["--predictions", str(tmp_path / "no")]):
        assert main(["evaluate", str(place), "--split", "train", *wrong]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_pass_reads_the_rows_that_are_asked_for() -> None:
    source = xr.DataArray(np.arange(24).reshape(4, 3, 2), dims=("roi", "y", "x"))
    seen: list[int] = []

    def double(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        seen.extend(rows[:, 0, 0].tolist())
        return rows.sum(axis=(1, 2))[:, None] * np.array([1, 2, 3])

    made = reduce_per_roi(Reduction(double, np.dtype(np.int64), {"n": 3}), source)
    whole = source.sum(["y", "x"]).values[:, None] * np.array([1, 2, 3])
    for key in ((2,), (slice(None, None, -1),), ([3, 0], 1), (slice(1, 3), [2, 0]), (0, 2), (slice(0, 0),)):
        np.testing.assert_array_equal(made[key], whole[np.ix_(*rows_and_columns(key))].reshape(made[key].shape))
    seen.clear()
    assert made[2].shape == (3,)
    assert made[2].values.tolist() == whole[2].tolist()
    assert set(seen) == {12}


def rows_and_columns(key: tuple[Any, ...]) -> tuple[Any, Any]:
    rows, columns = (*key, slice(None))[:2]
    return np.atleast_1d(np.arange(4)[rows]), np.atleast_1d(np.arange(3)[columns])


@needs_shared
def test_the_shared_archive(tmp_path: Path) -> None:
    assert c12.convert(SHARED / "archive_a", tmp_path / "c.zarr", products=["labels"]).exit_code == 0
    tree = c12.open_cube(tmp_path / "c.zarr")
    reference = codes(tree, "manual_hq")
    for name in ALGORITHMS:
        made = confusion(tree, name, scheme="cloud")["counts"]
        np.testing.assert_array_equal(made, naive(reference, codes(tree, name), "cloud"))
    table = evaluate(tree, split="validation")
    assert table.attrs["notes"][0].startswith("5 patches of split 'validation'")
    assert table.notna().all().all()
