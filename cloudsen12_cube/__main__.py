"""``python -m cloudsen12_cube`` is the command line ``cloudsen12-cube``."""

import sys

from cloudsen12_cube.cli import main

sys.exit(main())
