"""A small synthetic archive in the published layout."""

from .archive import make_archive as make_archive
from .archive import make_catalogue as make_catalogue
from .metadata import ArchiveOptions as ArchiveOptions
