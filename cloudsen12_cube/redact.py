"""What must not be told: user names, passwords and signatures in URLs."""

from __future__ import annotations

import re

_URL = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^/\s]*@)?([^\s?#]*)(?:[?#][^\s'\")]*)?", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """Take user information, query and fragment out of every URL in a text; the rest of it stays as it is."""
    return _URL.sub(r"\1\2", text)
