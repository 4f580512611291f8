"""A quick look at a cube in a browser: one page that draws a map and asks for pictures, from loopback or from a file.

The page loads nothing from anywhere else, and its policy (Content-Security-Policy) forbids it to: it works where there
is no network. An address names ROIs and layers by their number, so none can point outside the cube.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cloudsen12_cube import gallery
from cloudsen12_cube.errors import CubeError

_HOST = "127.0.0.1"
_SCRIPTS = ("map.js", "page.js")
_THUMBNAIL = 256
"""Edge in pixels of a picture that a file brings along."""


def page(data: dict[str, Any] | None = None) -> str:
    """Make the page.

    Parameters
    ----------
    data : dict, optional
        What it shows; without, it asks the server that it came from.

    Returns
    -------
    str
        HTML that needs nothing else.
    """
    folder = files("cloudsen12_cube") / "browser"
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    asks = " connect-src 'self';" if data is None else ""
    policy = (
        f"default-src 'none';{asks} img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_hash(style)}; script-src {_hash(script)}"
    )
    parts = {
        "policy": policy,
        "style": style,
        "script": script,
        "land": (folder / "land.json").read_text(encoding="utf-8"),
        "data": _json(data),
    }
    html = (folder / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], html)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(data: Any) -> str:
    """JSON that may stand in HTML: whatever the cube says, it cannot end the element that holds it."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def export(cube: xr.DataTree, path: Path, rois: int) -> int:
    """Write a page as a file.

    Parameters
    ----------
    cube : xarray.DataTree
    path : pathlib.Path
    rois : int
        How many ROIs bring their pictures along, spread evenly over the cube; the others are on the map alone.

    Returns
    -------
    int
        Bytes written.
    """
    told = gallery.catalogue(cube)
    whats = [gallery.RGB] * told["pictures"] + told["layers"]
    chosen = np.unique(np.linspace(0, len(told["rois"]) - 1, min(rois, len(told["rois"]))).round().astype(int))
    brought = {
        f"{index}/{what}": gallery.pictures(cube, told["rois"][index], what, _THUMBNAIL)
        for index in chosen.tolist()
        for what in whats
    }
    text = page({"catalogue": told, "pictures": brought})
    return path.write_bytes(text.encode())


def server(cube: xr.DataTree, port: int = 0) -> ThreadingHTTPServer:
    """Make a server of the page on loopback; it answers once ``serve_forever`` runs.

    Parameters
    ----------
    cube : xarray.DataTree
    port : int
        0 takes a free one.

    Raises
    ------
    CubeError
        If the port is taken.
    """
    told = gallery.catalogue(cube)
    answers: dict[str, Callable[[], tuple[str, str]]] = {
        "/": partial(lambda text: ("text/html", text), page()),
        "/catalogue.json": partial(lambda text: ("application/json", text), _json(told)),
    }

    class Handler(_Handler):
        def answer(self, path: str) -> tuple[str, str] | None:
            return answers[path]() if path in answers else _pictures(cube, told, path)

    try:
        return ThreadingHTTPServer((_HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise CubeError(f"port {port} cannot be used ({error}): give another --port, or none") from None


def _pictures(cube: xr.DataTree, told: dict[str, Any], path: str) -> tuple[str, str] | None:
    match = re.fullmatch(r"/pictures/(\d{1,6})/([\w-]{1,20})\.json", path, re.ASCII)
    if match is None or int(match[1]) >= len(told["rois"]):
        return None
    if match[2] not in [gallery.RGB] * told["pictures"] + told["layers"]:
        return None
    return "application/json", _json(gallery.pictures(cube, told["rois"][int(match[1])], match[2]))


class _Handler(BaseHTTPRequestHandler):
    """Answer with a text, or with 404; only to requests that name loopback, or a page elsewhere could read the cube."""

    protocol_version = "HTTP/1.1"

    def answer(self, path: str) -> tuple[str, str] | None:
        """Find the type and the text of an address."""
        raise NotImplementedError

    def handle(self) -> None:
        """Answer until the browser leaves, which is no fault, not even in the middle of an answer."""
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Answer one request."""
        port = self.connection.getsockname()[1]
        if self.headers.get("Host") not in (f"{_HOST}:{port}", f"localhost:{port}"):
            return self._send(HTTPStatus.FORBIDDEN, "text/plain", "only for this machine")
        found = self.answer(self.path)
        if found is None:
            return self._send(HTTPStatus.NOT_FOUND, "text/plain", "nothing here")
        return self._send(HTTPStatus.OK, *found)

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that http.server gave it
        """Say nothing: the terminal belongs to the user."""


def serve(cube: xr.DataTree, port: int, opened: bool, announce: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C.

    Parameters
    ----------
    cube : xarray.DataTree
    port : int
        0 takes a free one.
    opened : bool
        Open it in the user's browser.
    announce : callable
        Is told the address.
    """
    with server(cube, port) as running:
        address = f"http://{_HOST}:{running.server_address[1]}/"
        announce(address)
        if opened:
            webbrowser.open(address)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            return
