"""Facts that the paper states of the dataset, computed from a cube against plain loops over its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import cloudsen12_cube as c12
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.evaluation import claims, sen2cor_versions, table_one
from cloudsen12_cube.plotting.figures import versions_figure


@pytest.fixture(scope="module")
def tree(cube: Path) -> xr.DataTree:
    return c12.open_cube(cube)


def test_table_one_counts_each_annotated_pixel_once(tree: xr.DataTree) -> None:
    every = []
    for roi in tree["roi"].values:
        for time in tree["time"].values:
            planes = [tree.cloudsen12.classes(n).sel(roi=roi, time=time).values for n in ("manual_hq", "manual_sc")]
            every.append(next((plane for plane in planes if (plane != 255).any()), planes[0]))
    codes = np.stack(every)
    row = table_one(tree)
    assert row["scenes"] == (codes != 255).any(axis=(1, 2)).sum()
    assert row["pixels"] == (codes != 255).sum()
    for code, name in enumerate(("clear", "thick_cloud", "thin_cloud", "cloud_shadow")):
        assert row[name] == pytest.approx(100 * (codes == code).sum() / (codes != 255).sum())


def test_versions_of_sen2cor(tree: xr.DataTree) -> None:
    known = tree["s2_id_gee"].values != ""
    expected = pd.Series([str(v) or "unknown" for v in tree["s2_sen2cor_version"].values[known]]).value_counts()
    assert sen2cor_versions(tree, None).to_dict() == expected.to_dict()
    test = sen2cor_versions(tree)
    assert test.sum() == known[(tree["split"] == "test").values].sum()
    with pytest.raises(SelectionError, match="no patch is in split 'exam'"):
        sen2cor_versions(tree, "exam")
    axes = versions_figure(tree, None).axes[0]
    assert sum(bar.get_width() for bar in axes.patches) == known.sum()
    assert axes.get_title() == "Sen2Cor versions, all patches"


def test_claims_are_numbers(tree: xr.DataTree) -> None:
    found = claims(tree)
    days = np.abs((tree["s1_datetime"] - tree["datetime"]).values / np.timedelta64(1, "D")).ravel()
    days = days[~np.isnan(days)]
    radar = found.loc["Sentinel-1 within 2.5 days"]
    assert (radar["patches"], radar["within"]) == (days.size, (days <= 2.5).sum())
    assert radar["highest"] == pytest.approx(days.max())
    high = np.repeat((tree["label_type"] == "high").values[:, None], tree.sizes["time"], axis=1)
    clear = found.loc["cloud-free: 0 % cloud"]
    chosen = tree.cloudsen12.classes("manual_hq").values[high & (tree["cloud_coverage"].values == "cloud-free")]
    cloud = [100 * np.isin(plane, [1, 2]).sum() / (plane != 255).sum() for plane in chosen]
    assert clear["patches"] == len(cloud)
    assert clear["within"] == sum(share == 0 for share in cloud)
    assert clear["highest"] == pytest.approx(max(cloud))
    assert found["within"].le(found["patches"]).all()
    assert len(found) == 6
