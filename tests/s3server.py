"""A real S3 server on loopback, SeaweedFS, and a proxy before it that counts requests, delays them or makes faults.

The identities: everybody may read the bucket ``pub``; who has the keys may do everything.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEYS = {"key": "AKTEST", "secret": "n0/a@secret%2Fof+any=body"}
PUBLIC, PRIVATE = "pub", "priv"

_IDENTITIES = {
    "identities": [
        {"name": "anonymous", "actions": [f"Read:{PUBLIC}", f"List:{PUBLIC}"]},
        {
            "name": "test",
            "credentials": [{"accessKey": KEYS["key"], "secretKey": KEYS["secret"]}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
    ]
}
_PORTS = ("master.port", "volume.port", "filer.port", "s3.port")


@contextmanager
def seaweed(folder: Path) -> Iterator[str]:
    """Run a server; give its endpoint. It has both buckets."""
    (folder / "data").mkdir()
    (folder / "identities.json").write_text(json.dumps(_IDENTITIES))
    ports = _free_ports(2 * len(_PORTS))
    flags = [f"-{name}={ports.pop()}" for name in (*_PORTS, *(f"{name}.grpc" for name in _PORTS))]
    port = next(flag for flag in flags if flag.startswith("-s3.port=")).partition("=")[2]
    command = [_weed(), "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", *flags]
    command += [f"-s3.config={folder / 'identities.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-master.volumeSizeLimitMB=512", "-volume.max=100", "-master.telemetry=false"]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        _make_buckets(endpoint, server, folder / "log")
        yield endpoint
    finally:
        server.kill()  # nothing of it is wanted again; asked to stop it takes ten seconds
        server.wait()


def _weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed") or "weed"


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has; all are held until the last is found, so that no two are the same."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _make_buckets(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import s3fs

    limit = time.monotonic() + 60
    while True:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            files = s3fs.S3FileSystem(**KEYS, endpoint_url=endpoint, skip_instance_cache=True)
            for bucket in (PUBLIC, PRIVATE):
                files.makedirs(bucket, exist_ok=True)
                files.pipe_file(f"{bucket}/ready", b"")
            return
        except OSError:
            assert time.monotonic() < limit, log.read_text()[-2000:]
            time.sleep(0.3)


@dataclass
class Faults:
    """What a proxy does to requests; changed while it runs."""

    kind: str = ""
    """Name of a fault; none by default."""
    every: int = 5
    """One request in so many is hit."""
    methods: tuple[str, ...] = ("GET", "PUT")
    only: Callable[[str], bool] | None = None
    """Which paths may be hit; by default all."""
    delay: float = 0.0
    """Seconds before each request."""
    seen: Counter[str] = field(default_factory=Counter)
    """Requests by method, since it was cleared."""
    paths: Counter[str] = field(default_factory=Counter)
    """Requests by method and path."""
    bytes: int = 0
    """Bytes of bodies sent to the client."""
    hit: int = 0

    def counts(self, method: str, path: str) -> bool:
        """Note a request; tell whether it is hit."""
        self.seen[method] += 1
        self.paths[f"{method} {path.partition('?')[0]}"] += 1
        if not self.kind or method not in self.methods or (self.only and not self.only(path)):
            return False
        self.hit += 1
        return self.every <= 1 or self.hit % self.every == 1

    def clear(self) -> None:
        """Forget what was counted."""
        self.seen.clear()
        self.paths.clear()
        self.bytes = 0


CODES = {"503": (503, "SlowDown"), "500": (500, "InternalError"), "429": (429, "TooManyRequests")}
CODES |= {"403": (403, "AccessDenied"), "400": (400, "ExpiredToken")}


@contextmanager
def proxy(endpoint: str) -> Iterator[tuple[str, Faults]]:
    """Run a proxy before a server; give its endpoint and what it does."""
    faults = Faults()

    class Handler(_Handler):
        upstream = endpoint.removeprefix("http://")
        told = faults

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", faults
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # beyond it the kernel drops connections, and their clients wait until they time out
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    upstream = ""
    told = Faults()

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hit = self.told.counts(self.command, self.path)
        time.sleep(self.told.delay)
        kind = self.told.kind if hit else ""
        if kind == "slow":
            time.sleep(0.5)
        if kind == "reset":
            return self._reset()
        if kind in CODES:
            return self._refuse(*CODES[kind])
        reply, data = self._ask(body)
        if kind == "lost":
            return self._reset()
        if kind == "flip" and data and reply.status < 300:
            data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 8]) + data[len(data) // 2 + 1 :]
        self._answer(reply, data, cut=kind == "truncate" and reply.status < 300)
        return None

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass  # noqa: N815 (the names that http.server looks for)

    def handle_expect_100(self) -> bool:
        """Let the body come, at once: what is written is buffered."""
        more = super().handle_expect_100()
        self.wfile.flush()
        return more

    def _ask(self, body: bytes) -> tuple[HTTPResponse, bytes]:
        """Send the request on as it is, ``Host`` too: the signature covers it."""
        connection = HTTPConnection(self.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    connection.putheader(name, value)
            connection.endheaders(body)
            reply = connection.getresponse()
            return reply, reply.read()
        finally:
            connection.close()

    def _answer(self, reply: HTTPResponse, data: bytes, *, cut: bool) -> None:
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                self.send_header(name, value)
        length = reply.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.told.bytes += len(data)
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._reset(hard=False)

    def _refuse(self, status: int, code: str) -> None:
        data = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>a fault of the test</Message></Error>'.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _reset(self, hard: bool = True) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            if hard:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.shutdown(socket.SHUT_WR) if not hard else self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


def reachable(endpoint: str) -> bool:
    """Tell whether anybody answers there."""
    try:
        urllib.request.urlopen(endpoint, timeout=2).close()  # noqa: S310
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
