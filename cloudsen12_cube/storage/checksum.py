"""The checksum of whole objects: the MD5 that S3 states as their ETag."""

from __future__ import annotations

import hashlib
import re

from cloudsen12_cube.storage.store import StorageError

_MD5 = re.compile(r"[0-9a-f]{32}")


def check_etag(data: bytes, etag: str, verb: str) -> None:
    """Compare a whole object with the ETag that a store states for it, if that looks like an MD5.

    Parameters
    ----------
    data : bytes
        The object as read or written.
    etag : str
        With or without quotes; empty where the client does not state it.
    verb : str
        What the bytes did, for the message: ``came`` or ``arrived``.

    Raises
    ------
    StorageError
        If they differ.
    """
    etag = etag.strip('"')
    if _MD5.fullmatch(etag) and hashlib.md5(data, usedforsecurity=False).hexdigest() != etag:
        raise StorageError(
            f"its {len(data)} bytes {verb} with another MD5 than its ETag states; if the bucket encrypts with keys "
            "of KMS, its ETags are not MD5 sums: add --storage-option etag_is_md5=false"
        )
