"""Table 6 computed from the rasters of an archive against a naive transcription of the authors' rule."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import rasterio
import xarray as xr
from scipy import ndimage

import cloudsen12_cube as c12
from cloudsen12_cube.evaluation.benchmark import evaluate, per_patch
from cloudsen12_cube.evaluation.metrics import ALGORITHMS, COLUMNS
from cloudsen12_cube.testing import ArchiveOptions, make_archive

SIZE = 24
CODES = {
    "manual_hq": [0, 1, 2, 3, 99],
    "sen2cor": range(12),
    "fmask": [0, 1, 2, 3, 4, 255],
    "kappamask_L1C": range(6),
    "kappamask_L2A": range(6),
    "qa60": [0, 0, 0, 1024, 2048, 16384, 700],
    "s2cloudless": range(30, 51),
    "CD-FCNN-RGBI": range(0, 10001, 500),
    "CD-FCNN-RGBISWIR": range(0, 10001, 500),
}
CLOUD = {"sen2cor": [8, 9, 10], "fmask": [4], "kappamask_L1C": [3, 4], "kappamask_L2A": [3, 4]}
SHADOW = {"sen2cor": [3], "fmask": [2], "kappamask_L1C": [2], "kappamask_L2A": [2]}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels with every code in patches of all kinds: mixed, few codes, one code alone; one patch that fails."""
    folder = tmp_path_factory.mktemp("table") / "archive"
    make_archive(folder, rois=6, seed=4, options=ArchiveOptions(size=SIZE, label_types=("high",) * 6))
    random = np.random.default_rng(5)
    for path in sorted(folder.glob("high/*/*/labels/*.tif")):
        if path.stem not in CODES:
            continue
        codes = random.permutation([*CODES[path.stem]])
        count = random.choice([1, 2, 3, len(codes)], p=[0.15, 0.2, 0.15, 0.5])  # one code alone, few, all
        plane = random.choice(codes[:count], (SIZE, SIZE))
        with rasterio.open(path) as file:
            profile = {"crs": file.crs, "transform": file.transform, "descriptions": file.descriptions}
        size = {"driver": "GTiff", "width": SIZE, "height": SIZE, "count": 1, "dtype": "uint16"}
        with rasterio.open(path, "w", **size, crs=profile["crs"], transform=profile["transform"]) as file:
            file.write(plane.astype(np.uint16), 1)
            file.descriptions = profile["descriptions"]
    path.write_bytes(b"not a tif")
    return folder


@pytest.fixture(scope="module")
def tree(archive: Path) -> xr.DataTree:
    report = c12.convert(archive, archive.with_name("cube.zarr"), products=["labels"])
    assert (report.exit_code, report.failed) == (1, 1)
    return c12.open_cube(archive.with_name("cube.zarr"))


def read(archive: Path, roi: str, image: str, layer: str) -> npt.NDArray[Any]:
    with rasterio.open(archive / "high" / roi / image / "labels" / f"{layer}.tif") as file:
        return np.asarray(file.read(1))


def positive(values: npt.NDArray[Any], layer: str, scheme: str) -> npt.NDArray[np.bool_]:
    """Read a layer as the authors do: positive if the code is in the positive set, negative otherwise."""
    plus = ndimage.generate_binary_structure(2, 1)
    if layer == "qa60":
        return np.asarray(values > 0)
    if layer == "s2cloudless":
        return ndimage.binary_dilation(ndimage.convolve(values / 100, plus / 5) > 0.4, plus)
    if layer.startswith("CD-FCNN"):
        return np.asarray(values > 5000)
    codes = {"cloud": CLOUD[layer], "shadow": SHADOW[layer], "valid": CLOUD[layer] + SHADOW[layer]}[scheme]
    return np.isin(values, codes)


def naive(archive: Path, patches: list[tuple[str, str]], layer: str, scheme: str) -> list[float]:
    """Give a row of table 6: the rule in ten lines of numpy."""
    pa, ua, boa = [], [], []
    for reference, predicted in ((read(archive, *p, "manual_hq"), read(archive, *p, layer)) for p in patches):
        labelled = reference <= 3
        truth = np.isin(reference, {"cloud": [1, 2], "shadow": [3], "valid": [1, 2, 3]}[scheme])[labelled]
        said = positive(predicted, layer, scheme)[labelled]
        tp, fn, fp, tn = (truth & said).sum(), (truth & ~said).sum(), (~truth & said).sum(), (~truth & ~said).sum()
        cloudy = np.isin(reference, [1, 2]).any()
        pa.append(tp / (tp + fn) if cloudy and tp + fn else np.nan)
        ua.append(tp / (tp + fp) if cloudy and tp + fp else np.nan)
        boa.append((tp / (tp + fn) + tn / (tn + fp)) / 2 if tp + fn and tn + fp else np.nan)
    row = [np.nanmedian(boa)]
    for values in (np.array(v)[~np.isnan(v)] for v in (pa, ua)):
        row += [100 * m.mean() for m in (values < 0.1, (values >= 0.1) & (values <= 0.9), values > 0.9)]
    return row


def patches(tree: xr.DataTree, archive: Path) -> list[tuple[str, str]]:
    """List the patches that are in the cube and have a label of the reference."""
    ids, done = tree["s2_id_gee"].values, tree["labels"]["status"].values == 1
    assert done.sum() == done.size - 1
    found = [(str(tree["roi"].values[i]), str(ids[i, j])) for i, j in np.argwhere(done)]
    return [patch for patch in found if (read(archive, *patch, "manual_hq") <= 3).any()]


def test_every_row_is_the_naive_rule(archive: Path, tree: xr.DataTree) -> None:
    table = evaluate(tree, split=None)
    assert len(table) == 8 + 4 + 4
    for scheme, layer in table.index:
        expected = naive(archive, patches(tree, archive), layer, scheme)
        np.testing.assert_allclose(table.loc[(scheme, layer), list(COLUMNS)], expected, rtol=1e-12)


def test_the_table_says_how_it_was_made(tree: xr.DataTree) -> None:
    table = evaluate(tree, split=None)
    assert table.attrs["unclassified"] == "negative"
    assert table.attrs["thresholds"]["s2cloudless"] == {"probability": 0.4, "average_over": 1, "dilation_size": 1}
    assert set(table.attrs["thresholds"]) == {name for name in ALGORITHMS if "CD-" in name} | {"s2cloudless"}
    assert table.attrs["version"] == version("cloudsen12-cube")
    assert "count as negative" in str(table)
    other = evaluate(tree, split=None, unclassified="exclude")
    assert "are left out" in str(other)
    assert other.attrs["unclassified"] == "exclude"
    changed = (table - other).abs().max(axis=1)
    assert changed["cloud"][["sen2cor", "fmask", "kappamask_L1C", "kappamask_L2A"]].min() > 0
    assert changed["cloud"][["qa60", "s2cloudless", "CD-FCNN-RGBI"]].max() == 0


def test_a_patch_without_the_layer_has_no_row_and_one_that_says_nothing_is_negative(
    archive: Path, tree: xr.DataTree
) -> None:
    nodes = {name: node.to_dataset() for name, node in tree.children.items()}
    labels = nodes["labels"]["labels"].load().copy()
    rois = [str(roi) for roi in tree["roi"].values]
    known = patches(tree, archive)
    (first, second), ids = known[:2], tree["s2_id_gee"].values
    for (roi, image), value in ((first, 65535), (second, 255)):  # not in the archive; outside of Fmask's scene
        where = {"roi": rois.index(roi), "time": list(ids[rois.index(roi)]).index(image)}
        labels[{**where, "band": list(labels["band"].values).index("fmask")}] = value
    nodes["labels"] = nodes["labels"].assign(labels=labels)
    cube = xr.DataTree.from_dict({"/": tree.to_dataset(), **nodes})
    table = per_patch(cube, split=None, predicted=["fmask", "qa60"])
    rows = dict(list(table[table["scheme"] == "cloud"].groupby("layer")))
    assert len(rows["qa60"]) == len(known)
    assert set(zip(rows["fmask"]["roi_id"], rows["fmask"]["s2_id_gee"], strict=True)) == set(known) - {first}
    row = rows["fmask"].set_index(["roi_id", "s2_id_gee"]).loc[second]
    assert (row["tp"], row["fp"]) == (0, 0)
    assert row["fn"] + row["tn"] == row["unlabelled"] == (read(archive, *second, "manual_hq") <= 3).sum()
    assert f"fmask: no prediction for 1 of {len(known)} patches" in str(evaluate(cube, split=None))


def test_own_predictions_follow_the_same_option(tree: xr.DataTree) -> None:
    view = tree.cloudsen12.classes("sen2cor").load()
    view[0, 0] = 255
    for option in ("negative", "exclude"):
        made = per_patch(tree, split=None, predicted={"mine": view}, unclassified=option)
        named = per_patch(tree, split=None, predicted=["sen2cor"], unclassified=option)
        key = ["scheme", "roi_id", "time"]
        both = pd.merge(made, named, on=key, suffixes=("", "_named"))
        both = both[(both["roi_id"] != tree["roi"].values[0]) | (both["time"] != 0)]
        assert len(both)
        for name in ("tp", "fn", "fp", "tn", "unlabelled"):
            assert (both[name] == both[f"{name}_named"]).all()
    first = made[(made["roi_id"] == str(tree["roi"].values[0])) & (made["time"] == 0)]
    assert (first[["tp", "fn", "fp", "tn"]] == 0).all().all()
    negative = per_patch(tree, split=None, predicted={"mine": view}).merge(first[key], on=key)
    assert (negative["fn"] + negative["tn"] == negative["unlabelled"]).all()
