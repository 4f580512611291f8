"""The published formats of CloudSEN12: from files to catalogue, patches and pixels."""

from .base import Archive as Archive
from .base import Decoder as Decoder
from .base import PatchFiles as PatchFiles
from .catalogue import build as build
from .geotiff import NOTE_NAME as NOTE_NAME
from .grid import complete as complete
from .grid import difference as difference
from .grid import header_of as header_of
from .metadata import TABLE_NAME as TABLE_NAME
from .metadata import from_csv as from_csv
from .metadata import to_csv as to_csv
from .open import open_archive as open_archive
from .patch import ArchiveRoi as ArchiveRoi
from .patch import PatchTask as PatchTask
from .patch import Planes as Planes
from .patch import encode_patch as encode_patch
from .patch import listed_status as listed_status
from .patch import planes_of as planes_of
from .patch import read_file as read_file
from .patch import with_files as with_files
from .tiff import Header as Header
from .tiff import read as read
