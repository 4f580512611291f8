"""A cube in a bucket or behind a web server: listed, looked at and read, also by a page of another origin."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import s3fs
from browsers import CHROMIUM, FLAGS, ZARRITA
from command_line import started
from s3server import KEYS, PRIVATE, PUBLIC

import cloudsen12_cube as c12
from cloudsen12_cube.cli.commands import main
from cloudsen12_cube.schema.assets import PRODUCTS

NAME = "elsewhere.zarr"
SIGNED = ["-o", f"key={KEYS['key']}", "-o", f"secret={KEYS['secret']}"]
ANONYMOUS = ["-o", "anon=true"]
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "bucket.md"
READING = json.loads(re.findall(r"```json\n(.*?)```", GUIDE.read_text(), re.DOTALL)[0])["CORSRules"][0]
"""The rule that the guide gives for a bucket that pages elsewhere read."""


@pytest.fixture(scope="module")
def bucket(s3: str, cube: Path) -> str:
    """The cube in both buckets; gives the server."""
    files = s3fs.S3FileSystem(**KEYS, endpoint_url=s3, skip_instance_cache=True)
    for name in (PUBLIC, PRIVATE):
        files.put(f"{cube}/", f"{name}/{NAME}", recursive=True)
    return s3


def arguments(access: str, endpoint: str) -> list[str]:
    """Where the cube is in a bucket, and how to get in."""
    name, options = {"signed": (PRIVATE, SIGNED), "anonymous": (PUBLIC, ANONYMOUS)}[access]
    return [f"s3://{name}/{NAME}", *options, "-o", f"endpoint_url={endpoint}"]


# ---- listed, and looked at


@pytest.mark.parametrize("access", ["signed", "anonymous"])
def test_stac_of_a_bucket_is_that_of_the_disk(bucket: str, cube: Path, tmp_path: Path, access: str) -> None:
    where = arguments(access, bucket)
    assert main(["stac", *where, "--out", str(tmp_path / "there")]) == 0
    assert main(["stac", str(cube), "--out", str(tmp_path / "here")]) == 0
    texts = [(tmp_path / side / "collection.json").read_text() for side in ("there", "here")]
    assert texts[0] == texts[1].replace(os.path.relpath(cube, tmp_path / "here"), where[0])
    tables = [geopandas.read_parquet(tmp_path / side / "items.parquet") for side in ("there", "here")]
    assert tables[0].drop(columns="assets").equals(tables[1].drop(columns="assets"))
    assert tables[0]["assets"][0]["labels"]["href"] == f"{where[0]}/labels"
    for path in (tmp_path / "there").iterdir():
        assert KEYS["secret"].encode() not in path.read_bytes()


def test_stac_lies_where_one_stands_if_the_cube_is_elsewhere(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["stac", *arguments("anonymous", bucket)]) == 0
    assert {path.name for path in (tmp_path / f"{NAME}.stac").iterdir()} == {"collection.json", "items.parquet"}


@pytest.mark.parametrize("access", ["signed", "anonymous"])
def test_the_page_of_a_bucket_is_that_of_the_disk(bucket: str, cube: Path, tmp_path: Path, access: str) -> None:
    pages = [tmp_path / "there.html", tmp_path / "here.html"]
    for path, where in zip(pages, (arguments(access, bucket), [str(cube)]), strict=True):
        assert main(["browse", *where, "--out", str(path), "--pictures", "2"]) == 0
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert KEYS["secret"] not in pages[0].read_text()


def test_a_served_page_reads_a_bucket(bucket: str, cube: Path) -> None:
    """As on a disk, picture by picture; keys come from the command line and go to the bucket alone."""
    command = [sys.executable, "-m", "cloudsen12_cube", "browse", "--no-open"]
    answers = []
    for where in (arguments("signed", bucket), [str(cube)]):
        with started([*command, *where]) as process:
            assert process.stdout is not None
            address = process.stdout.readline().split("/")[2]
            answers.append([get(address, path) for path in ("/", "/catalogue.json", "/pictures/1/rgb.json")])
            process.send_signal(signal.SIGINT)
            process.wait(timeout=20)
        assert process.returncode == 0
    assert answers[0] == answers[1]
    assert b"data:image/" in answers[0][2]


def get(address: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("GET", path)
    body = connection.getresponse().read()
    connection.close()
    return body


@pytest.mark.parametrize("command", ["stac", "browse"])
def test_who_may_not_read_is_told_in_one_line(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    where = [f"s3://{PRIVATE}/{NAME}", *ANONYMOUS, "-o", f"endpoint_url={bucket}"]
    assert main([command, *where, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert (told.out, len(told.err.splitlines())) == ("", 1)
    assert "check the keys" in told.err
    assert not (tmp_path / "out").exists()


# ---- behind a web server


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def web(folder: Path, certificate: Path | None = None) -> Iterator[str]:
    """Run a plain web server, ``python -m http.server``; with a certificate it speaks TLS."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of this machine with its key, which nobody trusts by default."""
    if shutil.which("openssl") is None:
        pytest.skip("a certificate is made by openssl")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(path) + ".crt"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


COMPARE = """
import sys
import numpy as np
import cloudsen12_cube as c12

there, here = (c12.open_cube(place) for place in sys.argv[1:])
for name in here.children:
    np.testing.assert_array_equal(there[name][name].values, here[name][name].values)
batches = [next(iter(one.cloudsen12.stream({"s1": None}, batch_size=4, seed=1))) for one in (there, here)]
np.testing.assert_array_equal(batches[0]["pixels"], batches[1]["pixels"])
print(len(here.children), "products")
"""


def trusting(certificate: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own: which certificates it trusts is decided when it starts."""
    environment = os.environ | {"SSL_CERT_FILE": str(certificate)}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)


def test_a_cube_behind_https(cube: Path, certificate: Path, tmp_path: Path) -> None:
    with web(cube.parent, certificate) as url:
        result = trusting(certificate, ["-c", COMPARE, f"{url}/{cube.name}", str(cube)])
        assert (result.returncode, result.stdout) == (0, f"{len(PRODUCTS)} products\n"), result.stderr
        command = ["-m", "cloudsen12_cube", "stac", f"{url}/{cube.name}", "--out", str(tmp_path / "out")]
        assert trusting(certificate, command).returncode == 0
        nobody = tmp_path / "nobody.pem"
        nobody.write_text("")
        refused = trusting(nobody, command)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "certificate verify failed" in refused.stderr


# ---- read by a page of another origin


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page in a real browser, with zarrita.js; its origin is not the bucket's."""
    if CHROMIUM is None or shutil.which("npm") is None:
        pytest.skip("needs chromium, and npm for zarrita.js")
    api = pytest.importorskip("playwright.sync_api")
    folder = tmp_path_factory.mktemp("site")
    install = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(folder), ZARRITA]
    subprocess.run(install, check=True, capture_output=True)
    shutil.copy(Path(__file__).with_name("zarrita.html"), folder / "index.html")
    with web(folder) as origin, api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        shown = browser.new_page()
        shown.goto(f"{origin}/index.html")
        shown.wait_for_function("window.digest !== undefined")
        yield shown
        browser.close()


def allow(endpoint: str, rule: dict[str, Any]) -> None:
    import boto3

    names = {"aws_access_key_id": KEYS["key"], "aws_secret_access_key": KEYS["secret"], "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=endpoint, **names)
    client.put_bucket_cors(Bucket=PUBLIC, CORSConfiguration={"CORSRules": [rule]})


def read(page: Any, endpoint: str, product: str, suffix: bool = False) -> str:
    found: str = page.evaluate("all => window.digest(...all)", [f"{endpoint}/{PUBLIC}/{NAME}", product, suffix])
    return found


@pytest.mark.parametrize("suffix", [False, True])
def test_a_page_elsewhere_reads_a_bucket_that_allows_it(page: Any, bucket: str, cube: Path, suffix: bool) -> None:
    allow(bucket, READING)
    tree = c12.open_cube(cube)
    for name in PRODUCTS:
        pixels = np.ascontiguousarray(tree[name][name].values)
        assert read(page, bucket, name, suffix) == hashlib.sha256(pixels.tobytes()).hexdigest()


def test_a_page_elsewhere_is_refused_by_a_bucket_that_does_not(page: Any, bucket: str) -> None:
    allow(bucket, READING | {"AllowedOrigins": ["https://another.example"]})
    with pytest.raises(Exception, match="Failed to fetch"):
        read(page, bucket, "labels")
    assert json.loads(get(bucket.removeprefix("http://"), f"/{PUBLIC}/{NAME}/zarr.json"))["zarr_format"] == 3
