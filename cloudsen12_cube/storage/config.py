"""How a URL is reached: its options, and the client that is used.

Small and picklable: a worker anywhere opens its own client from it. Options are those of fsspec, for every client.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cloudsen12_cube.errors import CubeError, without_secrets

ClientName = Literal["auto", "obstore", "fsspec"]

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_ETAG = "etag_is_md5"
_YES = {"1", "yes", "true", "on"}
_KEYS = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "endpoint_url": "endpoint",
    "region_name": "region",
    "region": "region",
    "anon": "skip_signature",
}
"""Options of s3fs -> settings of obstore."""


@dataclass(frozen=True)
class Url(os.PathLike[str]):
    """A URL with its options; it may stand wherever a path may."""

    url: str
    storage_options: Mapping[str, Any] | None = None
    """fsspec's options for it: ``key``, ``secret``, ``token``, ``profile``, ``anon``, ``endpoint_url`` ..."""
    client: ClientName = "auto"
    """``auto`` takes obstore where it is installed and can serve the URL, else fsspec."""

    def __repr__(self) -> str:
        return f"Url({without_secrets(self.url)!r}, client={self.client!r})"

    def __fspath__(self) -> str:
        """Return the URL alone."""
        return self.url


@dataclass(frozen=True)
class StorageConfig:
    """The options of one URL and the client for it."""

    text: str = field(default="{}", repr=False)
    """The options as JSON: they can be compared, and they hold keys, so they are never shown."""
    client: ClientName = "auto"
    """``auto`` takes obstore where it is installed and can serve the URL, else fsspec."""

    def __post_init__(self) -> None:
        if self.client not in get_args(ClientName):
            raise CubeError(f"client is {self.client!r}: give one of {', '.join(get_args(ClientName))}")

    @classmethod
    def of(cls, options: Mapping[str, Any] | None = None, client: ClientName = "auto") -> StorageConfig:
        """Make it from fsspec's options.

        Raises
        ------
        CubeError
            If an option is an object, which could not be sent to a worker.
        """
        try:
            return cls(json.dumps(dict(options or {}), sort_keys=True), client)
        except TypeError as error:
            raise CubeError(f"a storage option must be a text, a number or a mapping of them ({error})") from None

    @property
    def options(self) -> dict[str, Any]:
        """Options for fsspec."""
        found: dict[str, Any] = json.loads(self.text)
        found.pop(_ETAG, None)
        return found

    @property
    def etag_is_md5(self) -> bool:
        """Whether an ETag that looks like an MD5 is one: always, but where a bucket encrypts with keys of KMS."""
        return json.loads(self.text).get(_ETAG) is not False


NOTHING = StorageConfig()
"""No options, as for a disk."""


def storage_config(place: str | os.PathLike[str]) -> StorageConfig:
    """Return the options of a location: none, unless it is a `Url`."""
    return StorageConfig.of(place.storage_options, place.client) if isinstance(place, Url) else NOTHING


def is_url(place: str) -> bool:
    """Return whether a location is a URL, and no path on a disk.

    Parameters
    ----------
    place : str
        ``file://`` counts as a path.
    """
    match = _URL.match(place)
    return bool(match) and place[: len("file://")].lower() != "file://"


def clean(place: str | os.PathLike[str]) -> str:
    """Normalise a location: a path without ``file://`` and ``~``, a URL without a slash at its end.

    Parameters
    ----------
    place : str, os.PathLike or Url
    """
    text = os.fspath(place)
    if is_url(text):
        return text.rstrip("/")
    return os.path.expanduser(text[len("file://") :] if text.lower().startswith("file://") else text)


def scheme_of(url: str) -> str:
    """Return the scheme of a URL, in lower case."""
    match = _URL.match(url)
    return match[1].lower() if match else ""


def uses_obstore(url: str, access: StorageConfig) -> bool:
    """Decide between the two clients.

    obstore was measured faster, and finds keys in options and environment; profiles, files with keys and roles are
    left to s3fs, which asks botocore. So is every option that obstore does not have.

    Raises
    ------
    CubeError
        If obstore is asked for and is not installed, or cannot serve the place.
    """
    if access.client == "fsspec":
        return False
    reason = _against_obstore(url, access)
    if reason and access.client == "obstore":
        raise CubeError(f"obstore cannot serve {without_secrets(url)}: {reason}; give --client fsspec")
    return not reason


def _against_obstore(url: str, access: StorageConfig) -> str:
    if importlib.util.find_spec("obstore") is None:
        return "it is not installed (pip install 'cloudsen12-cube[s3]')"
    if scheme_of(url) != "s3":
        return "it is used for s3:// only"
    options = s3_options(access)
    strange = [key for key, value in options.items() if key not in _KEYS and value is not None]
    if strange:
        return f"it does not know the option {strange[0]!r}"
    known = options.get("anon") or ("key" in options or "AWS_ACCESS_KEY_ID" in os.environ)
    if not known or (os.environ.get("AWS_PROFILE") and "key" not in options):
        return "there are no keys in options or environment, and no anon=true"
    return ""


def s3_options(access: StorageConfig) -> dict[str, Any]:
    """Options for s3, with what the environment says where they are silent; ``client_kwargs`` are spread out."""
    options = access.options
    for name, value in (options.pop("client_kwargs", None) or {}).items():
        options.setdefault(name, value)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and not options.get("endpoint_url"):
        options["endpoint_url"] = endpoint
    asked = (os.environ.get(name, "").lower() for name in ("AWS_NO_SIGN_REQUEST", "AWS_SKIP_SIGNATURE"))
    if "anon" not in options and "key" not in options and any(value in _YES for value in asked):
        options["anon"] = True
    return options


def obstore_settings(access: StorageConfig) -> dict[str, Any]:
    """Translate the options for obstore; what it reads from the environment itself is not repeated."""
    return {_KEYS[key]: value for key, value in s3_options(access).items() if value is not None}


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` from a command line; a dot leads inside, ``client_kwargs.region_name=eu-west-1``.

    Raises
    ------
    CubeError
        If one has no ``=``.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if not found or not key:
            raise CubeError(
                f"the storage option {key!r} has no value: write it like anon=true or endpoint_url=http://..."
            )
        *outer, last = key.split(".")
        inner = options
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = _value(value)
    return options


def _value(text: str) -> Any:
    """Read true, false and null as such; all else is text, since keys may look like numbers."""
    return {"true": True, "false": False, "null": None, "none": None}.get(text.lower(), text)
