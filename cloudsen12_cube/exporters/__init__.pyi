"""Cubes in other formats: COG, archive folders, STAC."""

from .archive import (
    ExportOptions as ExportOptions,
)
from .archive import (
    ExportReport as ExportReport,
)
from .archive import (
    ExportStep as ExportStep,
)
from .archive import (
    export as export,
)
from .folder import (
    LeftOut as LeftOut,
)
