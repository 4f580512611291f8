"""Checksums: whole objects by the MD5 that S3 states as their ETag, byte ranges by the crc32c at their end."""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from typing import Any

import google_crc32c

from cloudsen12_cube.errors import DamagedBytesError
from cloudsen12_cube.storage.store import StorageError, StoreWrapper

_MD5 = re.compile(r"[0-9a-f]{32}")
_ATTEMPTS = 5


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


def ends_with_crc32c(data: bytes) -> bool:
    """Return whether bytes end with the crc32c of those before."""
    return len(data) > 4 and struct.unpack("<I", data[-4:])[0] == google_crc32c.value(data[:-4])


@dataclass(frozen=True)
class ChecksumStore(StoreWrapper):
    """A store whose byte ranges must end with their crc32c, as inner chunks and shard indexes do.

    TCP's 16 bits pass one flipped packet in some ten thousand; asking again costs one request.
    """

    def get(self, key: str, start: int = 0, length: int | None = None, into: memoryview | None = None) -> Any:
        """Read an object as it comes, or a range, which is read again if its checksum is wrong.

        Raises
        ------
        DamagedBytesError
            If it stays wrong.
        """
        whole = start == 0 and length is None
        for _ in range(_ATTEMPTS):
            data: Any = self.store.get(key, start, length, into)
            if whole or data is None or ends_with_crc32c(data):
                return data
        end = "" if length is None else start + length
        where = f"its last {-start} bytes" if start < 0 else f"its bytes {start} to {end}"
        raise DamagedBytesError(
            f"{self.root}/{key} is damaged, or its bytes are on every way: {where} do not have their crc32c; "
            "read again, and if that stays, run the same convert with --repair"
        )
