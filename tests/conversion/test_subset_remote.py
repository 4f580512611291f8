"""A subset from and into buckets of a real S3 server, and on the command line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from buckets import files_of, private
from command_line import failed, run
from crashes import ONE, PRODUCTS, SMALL
from s3server import KEYS, PRIVATE, PUBLIC, Faults, proxy

import cloudsen12_cube as c12
from cloudsen12_cube.errors import DestinationError, RemoteError
from cloudsen12_cube.storage.config import ClientName
from cloudsen12_cube.storage.open import open_store
from cloudsen12_cube.testing import make_archive

WHERE = ["cloud_coverage!=cloud-free"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"), rois=3, seed=3, options=SMALL)


@pytest.fixture(scope="module")
def local(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("local") / "c.zarr"
    assert c12.convert(source, place, PRODUCTS, options=ONE).exit_code == 0
    return place


@pytest.fixture(scope="module")
def oracle(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("oracle") / "c.zarr"
    assert c12.convert(source, place, PRODUCTS, WHERE, options=ONE).exit_code == 0
    return place


@pytest.fixture
def counted(s3: str) -> Iterator[tuple[str, Faults]]:
    with proxy(s3) as both:
        yield both


def uploaded(local: Path, name: str, endpoint: str, bucket: str = PRIVATE) -> str:
    files_of(endpoint).put(f"{local}/", f"{bucket}/{name}", recursive=True)
    return f"s3://{bucket}/{name}"


def objects(place: Path | c12.Url) -> dict[str, bytes]:
    """Every object of a cube but its root, whose arrays are given."""
    sink = open_store(place)
    if isinstance(place, Path):
        keys = [str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()]
    else:
        keys = [info.key for info in sink.list()]
    found = {key: sink.get(key) or b"" for key in keys}
    nodes = json.loads(found["zarr.json"])["consolidated_metadata"]
    return found | {"zarr.json": json.dumps(nodes).encode()}


@pytest.mark.parametrize("client", ["obstore", "fsspec"])
@pytest.mark.parametrize("way", ["bucket to bucket", "disk to bucket", "bucket to disk"])
def test_all_ways_give_the_bytes_of_the_conversion(
    s3: str, local: Path, oracle: Path, client: ClientName, way: str, tmp_path: Path
) -> None:
    name = f"{way.replace(' ', '-')}-{client}"
    start, _, end = way.split()
    cube: Path | c12.Url = local
    if start == "bucket":
        uploaded(local, f"{name}.zarr", s3)
        cube = private(f"{name}.zarr", s3, client)
    out = private(f"{name}-out.zarr", s3, client) if end == "bucket" else tmp_path / "out.zarr"
    report = c12.subset(cube, out, where=WHERE)
    assert (report.exit_code, report.whole + report.cut) == (0, 6)
    assert objects(out) == objects(oracle)
    assert c12.verify(out).exit_code == 0
    again = c12.subset(cube, out, where=WHERE)
    assert (again.skipped, again.size) == (6, 0)
    mine, theirs = c12.open_cube(out), c12.open_cube(oracle)
    for product in PRODUCTS:
        np.testing.assert_array_equal(mine[product][product].values, theirs[product][product].values)


def test_from_a_bucket_that_everybody_may_read_and_nobody_write(s3: str, local: Path, tmp_path: Path) -> None:
    url = uploaded(local, "open.zarr", s3, PUBLIC)
    cube = c12.Url(url, {"anon": True, "endpoint_url": s3})
    assert c12.subset(cube, tmp_path / "out.zarr").exit_code == 0
    with pytest.raises(RemoteError):
        c12.subset(local, c12.Url(f"s3://{PUBLIC}/refused.zarr", {"anon": True, "endpoint_url": s3}))


def test_each_shard_is_fetched_once_and_put_once(counted: tuple[str, Faults], local: Path) -> None:
    endpoint, seen = counted
    uploaded(local, "once.zarr", endpoint)
    seen.clear()
    report = c12.subset(private("once.zarr", endpoint), private("once-out.zarr", endpoint), where=WHERE)
    shards = {path: count for path, count in seen.paths.items() if path.endswith("/0/0/0/0")}
    assert {path.split()[0] for path in shards} == {"GET", "PUT"}
    assert set(shards.values()) == {1}
    assert len(shards) == 2 * report.shards
    assert sum(seen.seen.values()) < 260, seen.seen
    assert not [key for key in objects(private("once-out.zarr", endpoint)) if key.startswith(".writers")]


@pytest.mark.parametrize("kind", ["503", "reset", "truncate", "lost", "flip"])
def test_a_network_with_faults_changes_no_byte(
    counted: tuple[str, Faults], local: Path, oracle: Path, kind: str, tmp_path: Path
) -> None:
    endpoint, seen = counted
    uploaded(local, f"faults-{kind}.zarr", endpoint)
    seen.kind, seen.every = kind, 4
    seen.only = lambda path: "/c/" in path
    out = tmp_path / "out.zarr"
    report = c12.subset(private(f"faults-{kind}.zarr", endpoint), out, where=WHERE)
    assert seen.hit
    assert report.exit_code == 0
    assert objects(out) == objects(oracle)


def test_a_damaged_shard_in_a_bucket_is_named(s3: str, local: Path) -> None:
    uploaded(local, "rot.zarr", s3)
    key = f"{PRIVATE}/rot.zarr/s1/s1/c/1/0/0/0/0"
    data = bytearray(files_of(s3).cat_file(key))
    data[5] ^= 1
    files_of(s3).pipe_file(key, bytes(data))
    out = private("rot-out.zarr", s3)
    report = c12.subset(private("rot.zarr", s3), out)
    (fault,) = report.faults
    assert fault.path == f"s3://{key}"
    assert report.whole == 5
    assert c12.status(out).missing == (("s1", fault.roi_id),)
    assert files_of(s3).exists(f"{PRIVATE}/rot-out.zarr.failures.json")
    files_of(s3).pipe_file(key, (local / "s1/s1/c/1/0/0/0/0").read_bytes())
    assert c12.subset(private("rot.zarr", s3), out).whole == 1
    assert not files_of(s3).exists(f"{PRIVATE}/rot-out.zarr.failures.json")


def test_places_in_a_bucket_that_cannot_be(s3: str, local: Path) -> None:
    uploaded(local, "own.zarr", s3)
    cube = private("own.zarr", s3)
    for name, told in (("own.zarr", "cube itself"), ("own.zarr/", "cube itself"), ("own.zarr/part", "inside the cube")):
        with pytest.raises(DestinationError, match=told):
            c12.subset(cube, private(name, s3))
    with pytest.raises(DestinationError, match="holds the cube"):
        c12.subset(cube, c12.Url(f"s3://{PRIVATE}", cube.storage_options))


def test_the_command_line(s3: str, source: Path, local: Path, oracle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    seen = run("subset", local, out, "--where", WHERE[0], "--dry-run", columns=60)
    assert (seen.returncode, seen.stderr) == (0, "")
    assert "3 ROIs" in seen.stdout
    assert max(map(len, seen.stdout.splitlines())) <= 60
    assert not out.exists()
    done = run("subset", local, out, "--where", WHERE[0], columns=40)
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 of 6 shards copied" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 40
    assert objects(out) == objects(oracle)
    assert run("subset", local, out, "--where", WHERE[0], "--quiet", "--workers", "0").stdout == ""
    assert run("verify", out, "--source", source).returncode == 0
    options = [part for name, value in {**KEYS, "endpoint_url": s3}.items() for part in ("-o", f"{name}={value}")]
    rois = ",".join(c12.plan(source).order[:2])
    bucket = f"s3://{PRIVATE}/subset-cli.zarr"
    there = run("subset", local, bucket, "--rois", rois, "--products", "labels", "--bbox=-180,-90,180,90", *options)
    assert (there.returncode, there.stderr) == (0, "")
    assert "2 of 2 shards copied" in there.stdout
    assert run("subset", bucket, tmp_path / "back.zarr", *options).returncode == 0
    assert c12.verify(tmp_path / "back.zarr", source).exit_code == 0


def test_the_command_line_says_what_is_wrong_in_one_line(local: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    assert "is the cube itself" in failed(run("subset", local, local))
    assert "no property 'x'" in failed(run("subset", local, out, "--where", "x=1"))
    assert "no product 's9'" in failed(run("subset", local, out, "--products", "s9", "--dry-run"))
    assert "no ROI 'ROI_0'" in failed(run("subset", local, out, "--rois", "ROI_0"))
    assert "no cube" in failed(run("subset", tmp_path, out))
    for wrong in (["subset", local], ["subset", local, out, "--bbox", "1,2"], ["subset", local, out, "--workers", "x"]):
        assert run(*wrong).returncode == 2
    assert not out.exists()
    source = tmp_path / "cube.zarr"
    shutil.copytree(local, source)
    os.truncate(source / "s1/s1/c/0/0/0/0/0", 100)
    damaged = run("subset", source, out)
    assert damaged.returncode == 1
    assert len(damaged.stderr.strip().splitlines()) == 1
    assert "s1/s1/c/0/0/0/0/0" in damaged.stderr
    assert json.loads((tmp_path / "out.zarr.failures.json").read_text())["failures"][0]["product"] == "s1"
