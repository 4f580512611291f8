"""Cubes and archives in the buckets of the test server: their addresses and their objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
from s3server import KEYS, PRIVATE

import cloudsen12_cube as c12
from cloudsen12_cube.storage.config import ClientName
from cloudsen12_cube.storage.open import open_store


def files_of(endpoint: str) -> Any:
    return fsspec.filesystem("s3", **KEYS, endpoint_url=endpoint, use_listings_cache=False)


def private(name: str, endpoint: str, client: ClientName = "auto") -> c12.Url:
    return c12.Url(f"s3://{PRIVATE}/{name}", {**KEYS, "endpoint_url": endpoint}, client)


def anonymous(url: str, endpoint: str, client: ClientName = "auto") -> c12.Url:
    return c12.Url(url, {"anon": True, "endpoint_url": endpoint}, client)


def objects(place: Path | c12.Url) -> dict[str, bytes]:
    """Every object of a cube, less the day on which it was made and where its archive lay."""
    sink = open_store(place)
    if isinstance(place, Path):
        keys = [str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()]
    else:
        keys = [info.key for info in sink.list() if not info.key.startswith(".writers")]
    settings = json.loads(sink.get("zarr.json") or b"")["attributes"]["cloudsen12"]
    marks = [settings["created"].encode(), json.dumps(settings["source"]).encode()]
    found = {key: sink.get(key) or b"" for key in keys}
    return {key: data.replace(marks[0], b"").replace(marks[1], b"") for key, data in found.items()}
