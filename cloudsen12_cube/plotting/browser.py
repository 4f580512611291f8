"""What a browser is told of a cube: its catalogue as columns, and the pictures of one ROI, all of it plain JSON.

A picture is a data URI, so that one page works from a server, which makes pictures when they are asked for, and from a
file, which brings some along.

A quick look at a cube in a browser: one page that draws a map and asks for pictures, from loopback or from a file.

The page loads nothing from anywhere else, and its policy (Content-Security-Policy) forbids it to: it works where there
is no network. An address names ROIs and layers by their number, so none can point outside the cube.
"""

from __future__ import annotations

import base64
import hashlib
import io
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
import numpy.typing as npt
import xarray as xr
from PIL import Image

from cloudsen12_cube.errors import CubeError
from cloudsen12_cube.plotting import images as picture
from cloudsen12_cube.schema import CLASSES, LAYERS, PLUS, PROPERTIES, UNLABELLED, UNLABELLED_COLOR, Property

RGB = "rgb"
"""Name of the true-colour picture, beside those of the label layers."""

_BANDS = ("B4", "B3", "B2")
_MOST = 24
"""Values that a legend can hold; a property with more of them is an identifier."""
_ORDER: dict[str, tuple[str, ...]] = {
    "label_type": ("high", "scribble", "nolabel"),
    "split": ("train", "validation", "test"),
    "cloud_coverage": ("cloud-free", "almost-clear", "low-cloudy", "mid-cloudy", "cloudy"),
}
_COLORS = [*(row.color for row in CLASSES), UNLABELLED_COLOR]
_CLEAR, _UNKNOWN = 0, len(CLASSES)


def catalogue(cube: xr.DataTree) -> dict[str, Any]:
    """Tell what is in a cube.

    Parameters
    ----------
    cube : xarray.DataTree

    Returns
    -------
    dict
        ``rois``, ``dates`` (patches an ROI), ``longitude`` and ``latitude`` of each ROI (None where unknown), ``ids``
        of the images (roi x time, empty where there is none), ``columns``, ``pictures``, ``layers`` and ``classes``.
        A column has values (roi x time): numbers, seconds since 1970, or the place in its ``categories``; None is
        unknown.
    """
    root = cube.to_dataset()
    there = _grid(root, "s2_id_gee") != ""
    rows = [row for row in (*PROPERTIES, *PLUS) if row.name in root and row.name != "proj_transform"]
    columns = (_column(row, _grid(root, row.name), there) for row in rows)
    return {
        "title": str(cube.attrs.get("title", "CloudSEN12 cube")),
        "rois": [str(roi) for roi in root["roi"].values],
        "dates": root.sizes["time"],
        "longitude": _place(_grid(root, "longitude")),
        "latitude": _place(_grid(root, "latitude")),
        "ids": _grid(root, "s2_id_gee").ravel().tolist(),
        "columns": [column for column in columns if column],
        "pictures": has_pictures(cube),
        "layers": layers(cube),
        "classes": [
            *({"name": row.name.replace("_", " "), "color": row.color} for row in CLASSES),
            {"name": "unlabelled", "color": UNLABELLED_COLOR},
        ],
    }


def has_pictures(cube: xr.DataTree) -> bool:
    """Tell whether the cube has an image product."""
    return bool({"s2l1c", "s2l2a"} & set(cube.children))


def layers(cube: xr.DataTree) -> list[str]:
    """Name the label layers of the cube."""
    if "labels" not in cube.children:
        return []
    bands = cube["labels"].to_dataset().indexes["band"]
    return [row.band for row in LAYERS if row.band in bands]


def _grid(root: xr.Dataset, name: str) -> npt.NDArray[Any]:
    """Values of a property on (roi, time)."""
    values: npt.NDArray[Any] = root[name].broadcast_like(root["s2_id_gee"]).transpose("roi", "time").values
    return values.astype(object) if values.dtype.kind == "T" else values


def _place(values: npt.NDArray[np.float64]) -> list[float | None]:
    """Mark an ROI where its first image is that says where it lies."""
    known = np.isfinite(values)
    first = values[np.arange(len(values)), known.argmax(axis=1)]
    return [round(float(v), 5) if k else None for v, k in zip(first, known.any(axis=1), strict=True)]


def _column(row: Property, values: npt.NDArray[Any], there: npt.NDArray[np.bool_]) -> dict[str, Any] | None:
    """Make a column of a property; None where there is nothing to tell, or too much."""
    known = there & _is_known(row, values)
    told: dict[str, Any] = {"name": row.name, "about": row.description, "units": row.units or ""}
    if not known.any():
        return None
    if row.kind in ("text", "int"):
        found = _ordered(row.name, values[known])
        if len(found) > _MOST:
            return None
        place = {value: index for index, value in enumerate(found)}
        told["categories"] = [str(value) for value in found]
        made: Any = (place[v] if k else None for v, k in zip(values.ravel(), known.ravel(), strict=True))
    elif row.kind == "time":
        seconds = values.astype("datetime64[s]").astype(np.int64).ravel()
        made = (int(v) if k else None for v, k in zip(seconds, known.ravel(), strict=True))
    else:
        made = (float(f"{v:.7g}") if k else None for v, k in zip(values.ravel(), known.ravel(), strict=True))
    return told | {"kind": row.kind, "values": list(made)}


def _is_known(row: Property, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if row.kind == "float":
        known: npt.NDArray[np.bool_] = np.isfinite(values)
    elif row.kind == "time":
        known = ~np.isnat(values)
    else:
        known = values != ("" if row.kind == "text" else row.missing)
    return known


def _ordered(name: str, values: npt.NDArray[Any]) -> list[Any]:
    """Sort the values that occur: those of a known order first, in it."""
    found, first = set(values.tolist()), _ORDER.get(name, ())
    return [value for value in first if value in found] + sorted(found - set(first))


def pictures(cube: xr.DataTree, roi: str, what: str, size: int | None = None) -> list[dict[str, str] | None]:
    """Draw the dates of an ROI.

    Parameters
    ----------
    cube : xarray.DataTree
    roi : str
    what : str
        ``rgb``, or a label layer.
    size : int, optional
        Longest edge in pixels; by default as many as there are.

    Returns
    -------
    list of dict
        For each label on ``time`` ``src``, a data URI, and ``note``, why it shows nothing; None where the catalogue has
        no image. In a label picture clear is transparent, and what is not labelled is grey.
    """
    product = picture.image_product(cube, None) if what == RGB else "labels"
    row = cube[product].to_dataset().sel(roi=roi)
    draw = (lambda patch: _image(patch, product, size)) if what == RGB else (lambda patch: _label(patch, what, size))
    return [_drawn(row.isel(time=t), draw) if name else None for t, name in enumerate(row["s2_id_gee"].values)]


def _drawn(patch: xr.Dataset, draw: Callable[[xr.Dataset], dict[str, str]]) -> dict[str, str]:
    """Draw a patch; one that is damaged says so, and leaves the others alone."""
    try:
        return draw(patch)
    except (OSError, RuntimeError, ValueError) as error:
        return {"src": "", "note": f"cannot be read: {error}"}


def _image(patch: xr.Dataset, product: str, size: int | None) -> dict[str, str]:
    tile = picture.image(patch, product, _BANDS)
    image = _fitted(Image.fromarray((tile.pixels * 255).round().astype(np.uint8)), size, Image.Resampling.BOX)
    file = io.BytesIO()
    if size is None:
        image.save(file, "PNG", compress_level=1)
        return {"src": _uri("png", file), "note": tile.note}
    image.save(file, "WEBP", quality=82)
    return {"src": _uri("webp", file), "note": tile.note}


def _label(patch: xr.Dataset, of: str, size: int | None) -> dict[str, str]:
    codes, note = picture.codes(patch, of)
    image = Image.fromarray(np.where(codes == UNLABELLED, _UNKNOWN, codes).astype(np.uint8), "L")
    image = _fitted(image, size, Image.Resampling.NEAREST)
    image.putpalette(b"".join(bytes.fromhex(color[1:]) for color in _COLORS))
    file = io.BytesIO()
    opaque = bytes(0 if code == _CLEAR else 255 for code in range(len(_COLORS)))
    image.save(file, "PNG", transparency=opaque, optimize=size is not None)
    return {"src": _uri("png", file), "note": note}


def _fitted(image: Image.Image, size: int | None, way: Image.Resampling) -> Image.Image:
    longest = max(image.size)
    if size is None or longest <= size:
        return image
    width, height = (max(1, round(edge * size / longest)) for edge in image.size)
    return image.resize((width, height), way)


def _uri(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


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
    folder = files("cloudsen12_cube.plotting") / "page"
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
    told = catalogue(cube)
    whats = [RGB] * told["pictures"] + told["layers"]
    chosen = np.unique(np.linspace(0, len(told["rois"]) - 1, min(rois, len(told["rois"]))).round().astype(int))
    brought = {
        f"{index}/{what}": pictures(cube, told["rois"][index], what, _THUMBNAIL)
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
    told = catalogue(cube)
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
    if match[2] not in [RGB] * told["pictures"] + told["layers"]:
        return None
    return "application/json", _json(pictures(cube, told["rois"][int(match[1])], match[2]))


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
