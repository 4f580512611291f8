"""Cubes in other formats: COG, archive folders, STAC."""

from . import stac as stac
from .archive import ExportOptions as ExportOptions
from .archive import ExportReport as ExportReport
from .archive import ExportStep as ExportStep
from .archive import export as export
from .cog import write_cogs as write_cogs
from .folder import LeftOut as LeftOut
