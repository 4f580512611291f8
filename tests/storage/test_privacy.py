"""What is given away or shown holds no secret and no path of the machine that made it; equal builds are equal bytes."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
import xarray as xr
from buckets import private
from s3server import KEYS

import cloudsen12_cube as c12
from cloudsen12_cube.errors import CubeError, without_secrets
from cloudsen12_cube.exporters import stac
from cloudsen12_cube.storage import open_store
from cloudsen12_cube.storage.open import UrlStore

HIDDEN = ("pa/ss", "p@ss", "p%ss", "SIGNATURE")
URLS = [f"https://user:{word}@example.invalid/cube.zarr?sig=SIGNATURE" for word in HIDDEN[:3]]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("url", URLS)
def test_no_word_of_a_url_is_secret(url: str) -> None:
    place = c12.Url(url, {"key": "SIGNATURE"})
    store = open_store(place)
    assert isinstance(store, UrlStore)
    shown = [repr(place), repr(store), store.root, str({"store": store}), without_secrets(f"found {url}, expected")]
    with pytest.raises(CubeError, match="obstore cannot serve") as refused:
        open_store(c12.Url(url, client="obstore")).get("zarr.json")
    assert not [text for text in [*shown, str(refused.value)] for word in HIDDEN if word in text]
    assert pickle.loads(pickle.dumps(store)) == store == UrlStore(url, store.config)  # noqa: S301 (our own)


def test_urls_without_secrets_stay() -> None:
    for url in ("http://host:8080/a@b/c.zarr", "s3://bucket/a@b", "https://host/a:b@c/d"):
        assert without_secrets(url) == url


def test_an_opened_cube_shows_no_options(cube: Path, s3: str, caplog: pytest.LogCaptureFixture) -> None:
    """Trees, selections, streams, errors and logs; what a worker is sent holds the options, and opens the cube."""
    caplog.set_level("DEBUG", logger="cloudsen12_cube")
    place = private("shown.zarr", s3)
    assert c12.subset(cube, place, products=["s1", "labels"]).exit_code == 0
    tree = c12.open_cube(place)
    query = tree.cloudsen12.query(label_type="high")
    stream = tree.cloudsen12.stream(inputs={"s1": None}, target="manual_hq", split=None, batch_size=1)
    shown = [caplog.text, repr(stream), repr(c12.plan(place)), repr(copy.deepcopy(tree).encoding)]
    for one in (tree, query, xr.open_datatree(cube, engine="cloudsen12")):
        assert "storage_options" not in one.encoding
        shown += [repr(one), one._repr_html_(), repr(one.encoding), str(one.attrs)]
        shown += [repr((node.encoding, node.to_dataset().encoding)) for node in one.subtree]
    wrong = c12.Url(place.url, {**KEYS, "key": "unknown-key", "endpoint_url": s3})
    with pytest.raises(CubeError) as refused:
        c12.open_cube(wrong)
    assert not [text for text in [*shown, str(refused.value)] if KEYS["secret"] in text]
    there = pickle.loads(pickle.dumps(tree))  # noqa: S301 (our own)
    assert len(list(there.cloudsen12.stream(inputs={"s1": None}, target="manual_hq", split=None, batch_size=1)))


def test_what_is_made_does_not_tell_where_it_was_made(archive: Path, tmp_path: Path) -> None:
    source, cube = tmp_path / "builder" / "archive", tmp_path / "builder" / "cube.zarr"
    shutil.copytree(archive, source)
    tif = min(source.rglob("*.tif"))
    tif.write_bytes(tif.read_bytes()[:100])
    c12.convert(source, cube)
    c12.convert(
        cube,
        tmp_path / "builder" / "other.zarr",
        options=c12.Options(layout=c12.Layout(chunk="bands", rois_per_shard=1)),
    )
    c12.subset(tmp_path / "builder" / "other.zarr", tmp_path / "builder" / "part.zarr", products=["s1"])
    c12.stats(cube)
    stac.write(c12.open_cube(cube), str(cube), tmp_path / "builder" / "stac")
    c12.export(cube, tmp_path / "builder" / "tifs")
    found = files_of(tmp_path / "builder")
    assert not [key for key, data in found.items() if str(tmp_path).encode() in data]
    table = (source / "cloudsen12_metadata.csv").read_bytes()
    settings = json.loads((cube / "zarr.json").read_bytes())["attributes"]["cloudsen12"]
    assert settings["source"] == f"cloudsen12_metadata.csv sha256:{hashlib.sha256(table).hexdigest()}"


def test_two_builds_of_one_moment_are_equal(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made = []
    for number, moved in enumerate((archive, tmp_path / "moved" / "archive")):
        if number:
            shutil.copytree(archive, moved)
        place = tmp_path / str(number)
        c12.convert(moved, place / "cube.zarr", options=c12.Options(workers=number))
        c12.subset(place / "cube.zarr", place / "part.zarr", products=["labels"])
        c12.stats(place / "cube.zarr")
        stac.write(c12.open_cube(place / "cube.zarr"), str(place / "cube.zarr"), place / "stac")
        made.append(files_of(place))
    assert made[0] == made[1]
    assert b"2023-11-14T22:13:20Z" in made[0]["cube.zarr/zarr.json"]


@pytest.mark.parametrize("epoch", ["soon", "", "9" * 30])
def test_a_moment_that_is_none_is_named(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(CubeError, match=f"SOURCE_DATE_EPOCH is '{epoch}', expected whole seconds since 1970"):
        c12.convert(archive, tmp_path / "cube.zarr")
    assert not (tmp_path / "cube.zarr").exists()
