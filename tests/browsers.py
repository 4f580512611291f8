"""The browser and the JavaScript reader that tests use where the machine has them."""

from __future__ import annotations

import shutil

CHROMIUM = shutil.which("chromium")
FLAGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
ZARRITA = "zarrita@0.7.5"
