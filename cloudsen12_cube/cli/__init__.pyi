"""The command line ``cloudsen12-cube``."""

from .commands import main as main
