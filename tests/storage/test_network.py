"""What a network and a busy store do to requests: the right bytes come in the end, or one line says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from buckets import files_of
from crashes import ONE, SMALL
from s3server import KEYS, PRIVATE, Faults, proxy

import cloudsen12_cube as c12
from cloudsen12_cube.errors import CubeError, RemoteError
from cloudsen12_cube.storage import retry as patient
from cloudsen12_cube.storage.config import ClientName
from cloudsen12_cube.testing import make_archive

PASSING = [(kind, "obstore") for kind in ("503", "500", "429", "reset", "truncate", "lost", "flip", "slow", "403")]
PASSING += [(kind, "fsspec") for kind in ("503", "truncate", "lost", "flip", "403")]
STAYING = [("503", "obstore"), ("truncate", "obstore"), ("flip", "obstore"), ("403", "obstore"), ("flip", "fsspec")]
PRODUCTS = ["s1"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"), rois=1, seed=3, options=SMALL)


@pytest.fixture(scope="module")
def remote(s3: str, source: Path) -> str:
    files_of(s3).put(f"{source}/", f"{PRIVATE}/faulty", recursive=True)
    return f"s3://{PRIVATE}/faulty"


@pytest.fixture(scope="module")
def truth(source: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    place = tmp_path_factory.mktemp("truth") / "c.zarr"
    c12.convert(source, place, PRODUCTS, options=ONE)
    return c12.open_cube(place)["s1"]["s1"].values


@pytest.fixture
def faulty(s3: str) -> Iterator[tuple[str, Faults]]:
    with proxy(s3) as both:
        yield both


def at(url: str, endpoint: str, client: ClientName) -> c12.Url:
    return c12.Url(url, {**KEYS, "endpoint_url": endpoint}, client)


@pytest.mark.parametrize(("kind", "client"), PASSING)
def test_what_passes_harms_nothing(
    faulty: tuple[str, Faults], remote: str, truth: np.ndarray, kind: str, client: ClientName
) -> None:
    endpoint, faults = faulty
    faults.kind, faults.every = kind, 20 if kind == "slow" else 7
    faults.methods = ("PUT",) if kind == "lost" else ("GET", "PUT", "DELETE")
    cube = at(f"s3://{PRIVATE}/{kind}-{client}.zarr", endpoint, client)
    assert c12.convert(at(remote, endpoint, client), cube, PRODUCTS, options=ONE).exit_code == 0
    for band in range(3):  # ranges, then a whole shard
        pixels = c12.open_cube(cube)["s1"]["s1"].isel(band=band).values
        np.testing.assert_array_equal(pixels, truth[:, :, band])
    np.testing.assert_array_equal(c12.open_cube(cube)["s1"]["s1"].values, truth)
    assert faults.hit > faults.every
    faults.kind = ""
    assert c12.verify(cube, at(remote, endpoint, client)).exit_code == 0


@pytest.mark.parametrize(("kind", "client"), STAYING)
def test_what_stays_is_told_in_one_line(
    faulty: tuple[str, Faults],
    remote: str,
    truth: np.ndarray,
    kind: str,
    client: ClientName,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patient, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(patient, "_ATTEMPTS", 2)
    endpoint, faults = faulty
    name = f"s3://{PRIVATE}/stays-{kind}-{client}.zarr"
    faults.kind, faults.every = kind, 1
    faults.only = lambda path: path.partition("?")[0].endswith(".tif")
    with pytest.raises(RemoteError, match=r"(again: it continues|check the keys|KMS)"):
        c12.convert(at(remote, endpoint, client), at(name, endpoint, client), PRODUCTS, options=ONE)
    faults.kind = ""
    report = c12.convert(at(remote, endpoint, client), at(name, endpoint, client), PRODUCTS, options=ONE)
    assert report.exit_code == 0
    tree = c12.open_cube(at(name, endpoint, client))
    faults.kind, faults.only = kind, lambda path: "/s1/s1/c/" in path
    for part in (tree["s1"]["s1"].isel(band=0), tree["s1"]["s1"]):
        with pytest.raises(CubeError) as caught:
            part.load()
        assert re.search("it continues|check the keys|KMS|read again", str(caught.value)), caught.value
    faults.kind = ""
    np.testing.assert_array_equal(c12.open_cube(at(name, endpoint, client))["s1"]["s1"].values, truth)
