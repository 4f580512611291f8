"""A web page on a cube: a map of its ROIs and pictures of their patches, served on loopback or written to one file.

The page needs the catalogue as columns and the pictures of one ROI at a time, all as plain JSON; a picture is a data
URI, so that one page works from a server, which draws pictures on request, and from a file, which contains some.

The page loads nothing from elsewhere, and its Content-Security-Policy forbids it to: it works without a network. A URL
names ROIs and layers by their index, so that none can point outside the cube.
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
from cloudsen12_cube.plotting import tiles
from cloudsen12_cube.schema import CLASSES, LAYERS, PLUS, PROPERTIES, UNLABELLED, UNLABELLED_COLOR, Property

RGB = "rgb"
"""Name of the true-colour picture; the other pictures have the names of label layers."""

# Values that a legend can hold; a property with more of them is an identifier.
_MAX_CATEGORIES = 24
_ORDER: dict[str, tuple[str, ...]] = {
    "label_type": ("high", "scribble", "nolabel"),
    "split": ("train", "validation", "test"),
    "cloud_coverage": ("cloud-free", "almost-clear", "low-cloudy", "mid-cloudy", "cloudy"),
}
_COLORS = [*(row.color for row in CLASSES), UNLABELLED_COLOR]
_CLEAR, _UNKNOWN = 0, len(CLASSES)


def catalogue(cube: xr.DataTree) -> dict[str, Any]:
    """Describe a cube for the page.

    Parameters
    ----------
    cube : xarray.DataTree
        Opened cube.

    Returns
    -------
    dict
        ``rois``, ``dates`` (patches per ROI), ``longitude`` and ``latitude`` of each ROI (None where unknown), ``ids``
        of the images (roi x time, empty for an absent image), ``columns``, ``pictures``, ``layers`` and ``classes``.
        A column has values (roi x time): numbers, seconds since 1970, or the index in its ``categories``; None is
        unknown.
    """
    root = cube.to_dataset()
    exists = _grid(root, "s2_id_gee") != ""
    rows = [row for row in (*PROPERTIES, *PLUS) if row.name in root and row.name != "proj_transform"]
    columns = (_column(row, _grid(root, row.name), exists) for row in rows)
    return {
        "title": str(cube.attrs.get("title", "CloudSEN12 cube")),
        "rois": [str(roi) for roi in root["roi"].values],
        "dates": root.sizes["time"],
        "longitude": _of_roi(_grid(root, "longitude")),
        "latitude": _of_roi(_grid(root, "latitude")),
        "ids": _grid(root, "s2_id_gee").ravel().tolist(),
        "columns": [column for column in columns if column],
        "pictures": bool({"s2l1c", "s2l2a"} & set(cube.children)),
        "layers": layers(cube),
        "classes": [
            *({"name": row.name.replace("_", " "), "color": row.color} for row in CLASSES),
            {"name": "unlabelled", "color": UNLABELLED_COLOR},
        ],
    }


def layers(cube: xr.DataTree) -> list[str]:
    """List the label layers of the cube."""
    if "labels" not in cube.children:
        return []
    bands = cube["labels"].to_dataset().indexes["band"]
    return [row.band for row in LAYERS if row.band in bands]


def _grid(root: xr.Dataset, name: str) -> npt.NDArray[Any]:
    """Return the values of a property as (roi, time)."""
    values: npt.NDArray[Any] = root[name].broadcast_like(root["s2_id_gee"]).transpose("roi", "time").values
    return values.astype(object) if values.dtype.kind == "T" else values


def _of_roi(values: npt.NDArray[np.float64]) -> list[float | None]:
    """Return a coordinate of each ROI: that of its first image with a known location."""
    known = np.isfinite(values)
    first = values[np.arange(len(values)), known.argmax(axis=1)]
    return [round(float(v), 5) if k else None for v, k in zip(first, known.any(axis=1), strict=True)]


def _column(row: Property, values: npt.NDArray[Any], exists: npt.NDArray[np.bool_]) -> dict[str, Any] | None:
    """Describe a property as a column; None where no value is known, or a legend could not hold them."""
    known = exists & _is_known(row, values)
    column: dict[str, Any] = {"name": row.name, "about": row.description, "units": row.units or ""}
    if not known.any():
        return None
    convert: Callable[[Any], int | float] = int
    if row.kind in ("text", "int"):
        categories = _ordered(row.name, values[known])
        if len(categories) > _MAX_CATEGORIES:
            return None
        column["categories"] = [str(value) for value in categories]
        convert = {value: index for index, value in enumerate(categories)}.__getitem__
    elif row.kind == "time":
        values = values.astype("datetime64[s]").astype(np.int64)
    else:
        convert = _seven_digits
    numbers = [convert(v) if k else None for v, k in zip(values.ravel(), known.ravel(), strict=True)]
    return column | {"kind": row.kind, "values": numbers}


def _seven_digits(value: float) -> float:
    """Round to the digits of a 32-bit float: the page would be a third longer with all of them."""
    return float(f"{value:.7g}")


def _is_known(row: Property, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if row.kind == "float":
        known: npt.NDArray[np.bool_] = np.isfinite(values)
    elif row.kind == "time":
        known = ~np.isnat(values)
    else:
        known = values != ("" if row.kind == "text" else row.missing)
    return known


def _ordered(name: str, values: npt.NDArray[Any]) -> list[Any]:
    """Sort the values that occur: those with a defined order first."""
    present, first = set(values.tolist()), _ORDER.get(name, ())
    return [value for value in first if value in present] + sorted(present - set(first))


def pictures(cube: xr.DataTree, roi: str, what: str, size: int | None = None) -> list[dict[str, str] | None]:
    """Draw the dates of an ROI.

    Parameters
    ----------
    cube : xarray.DataTree
        Opened cube.
    roi : str
        ROI id.
    what : str
        ``rgb``, or a label layer.
    size : int, optional
        Longest edge in pixels; by default that of the patch.

    Returns
    -------
    list of dict
        For each label of ``time`` a ``src``, a data URI, and a ``note``, why it is empty; None where the catalogue has
        no image. In a label picture clear is transparent, and unlabelled pixels are grey.
    """
    product = tiles.image_product(cube) if what == RGB else "labels"
    row = cube[product].to_dataset().sel(roi=roi)
    draw = (lambda patch: _image(patch, product, size)) if what == RGB else (lambda patch: _label(patch, what, size))
    return [_draw(row.isel(time=t), draw) if name else None for t, name in enumerate(row["s2_id_gee"].values)]


def _draw(patch: xr.Dataset, draw: Callable[[xr.Dataset], dict[str, str]]) -> dict[str, str]:
    """Draw a patch; one that is damaged gets a note, and the others are drawn all the same."""
    try:
        return draw(patch)
    except (OSError, RuntimeError, ValueError) as error:
        return {"src": "", "note": f"cannot be read: {error}"}


def _image(patch: xr.Dataset, product: str, size: int | None) -> dict[str, str]:
    tile = tiles.image_tile(patch, product)
    image = _shrink(Image.fromarray((tile.pixels * 255).round().astype(np.uint8)), size, Image.Resampling.BOX)
    file = io.BytesIO()
    if size is None:
        image.save(file, "PNG", compress_level=1)
        return {"src": _uri("png", file), "note": tile.note}
    image.save(file, "WEBP", quality=82)
    return {"src": _uri("webp", file), "note": tile.note}


def _label(patch: xr.Dataset, of: str, size: int | None) -> dict[str, str]:
    codes, note = tiles.read_codes(patch, of)
    image = Image.fromarray(np.where(codes == UNLABELLED, _UNKNOWN, codes).astype(np.uint8), "L")
    image = _shrink(image, size, Image.Resampling.NEAREST)
    image.putpalette(b"".join(bytes.fromhex(color[1:]) for color in _COLORS))
    file = io.BytesIO()
    opaque = bytes(0 if code == _CLEAR else 255 for code in range(len(_COLORS)))
    image.save(file, "PNG", transparency=opaque, optimize=size is not None)
    return {"src": _uri("png", file), "note": note}


def _shrink(image: Image.Image, size: int | None, resampling: Image.Resampling) -> Image.Image:
    longest = max(image.size)
    if size is None or longest <= size:
        return image
    width, height = (max(1, round(edge * size / longest)) for edge in image.size)
    return image.resize((width, height), resampling)


def _uri(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


_HOST = "127.0.0.1"
_SCRIPTS = ("map.js", "page.js")
# Longest edge in pixels of a picture in a file.
_THUMBNAIL = 256


def page(data: dict[str, Any] | None = None) -> str:
    """Build the page.

    Parameters
    ----------
    data : dict, optional
        Content of the page; by default it requests it from its server.

    Returns
    -------
    str
        HTML without external resources.
    """
    folder = files("cloudsen12_cube.plotting") / "page"
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    connect = " connect-src 'self';" if data is None else ""
    policy = (
        f"default-src 'none';{connect} img-src data:; base-uri 'none'; form-action 'none'; "
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
    """Encode JSON for HTML: no text of the cube can end the script element that holds it."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def export(cube: xr.DataTree, path: Path, rois: int) -> int:
    """Write a page as a file.

    Parameters
    ----------
    cube : xarray.DataTree
        Opened cube.
    path : pathlib.Path
        File to write.
    rois : int
        Number of ROIs whose pictures are included, spread evenly over the cube; the others are on the map alone.

    Returns
    -------
    int
        Bytes written.
    """
    about = catalogue(cube)
    names = about["rois"]
    chosen = np.unique(np.linspace(0, len(names) - 1, min(rois, len(names))).round().astype(int)).tolist()
    included = {
        f"{index}/{what}": pictures(cube, names[index], what, _THUMBNAIL)
        for index in chosen
        for what in _picture_names(about)
    }
    return path.write_bytes(page({"catalogue": about, "pictures": included}).encode())


def _picture_names(about: dict[str, Any]) -> list[str]:
    return [*([RGB] if about["pictures"] else []), *about["layers"]]


def server(cube: xr.DataTree, port: int = 0) -> ThreadingHTTPServer:
    """Create a server of the page on loopback; it answers once ``serve_forever`` runs.

    Parameters
    ----------
    cube : xarray.DataTree
        Opened cube.
    port : int
        Port of the server; 0 takes a free one.

    Returns
    -------
    http.server.ThreadingHTTPServer

    Raises
    ------
    CubeError
        If the port cannot be used.
    """
    about = catalogue(cube)
    documents = {"/": ("text/html", page()), "/catalogue.json": ("application/json", _json(about))}

    class Handler(_Handler):
        def answer(self, path: str) -> tuple[str, str] | None:
            return documents.get(path) or _pictures(cube, about, path)

    try:
        return ThreadingHTTPServer((_HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise CubeError(f"port {port} cannot be used ({error}): give another --port, or none") from None


def _pictures(cube: xr.DataTree, about: dict[str, Any], path: str) -> tuple[str, str] | None:
    match = re.fullmatch(r"/pictures/(\d{1,6})/([\w-]{1,20})\.json", path, re.ASCII)
    if match is None or int(match[1]) >= len(about["rois"]) or match[2] not in _picture_names(about):
        return None
    return "application/json", _json(pictures(cube, about["rois"][int(match[1])], match[2]))


class _Handler(BaseHTTPRequestHandler):
    """Answer with a text or 404, and only if the Host header is loopback: else any web page could read the cube."""

    protocol_version = "HTTP/1.1"

    def answer(self, path: str) -> tuple[str, str] | None:
        """Return the content type and the text of a path; None if there is no such path."""
        raise NotImplementedError

    def handle(self) -> None:
        """Answer until the browser disconnects, which is no error, not even in the middle of a response."""
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Answer one request."""
        port = self.connection.getsockname()[1]
        if self.headers.get("Host") not in (f"{_HOST}:{port}", f"localhost:{port}"):
            return self._send(HTTPStatus.FORBIDDEN, "text/plain", "only for this machine")
        answer = self.answer(self.path)
        if answer is None:
            return self._send(HTTPStatus.NOT_FOUND, "text/plain", "no such page")
        return self._send(HTTPStatus.OK, *answer)

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

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in http.server
        """Log nothing: requests would clutter the user's terminal."""


def serve(cube: xr.DataTree, port: int, opened: bool, announce: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C.

    Parameters
    ----------
    cube : xarray.DataTree
        Opened cube.
    port : int
        Port of the server; 0 takes a free one.
    opened : bool
        Open the page in the user's browser.
    announce : callable
        Called with the URL once the server listens.
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
