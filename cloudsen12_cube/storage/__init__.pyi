"""Bytes at a location: one object store protocol for disks, buckets and servers, with retries and locks."""

from .arena import Arena as Arena
from .config import NOTHING as NOTHING
from .config import ClientName as ClientName
from .config import StorageConfig as StorageConfig
from .config import Url as Url
from .config import clean as clean
from .config import is_url as is_url
from .config import parse_options as parse_options
from .config import s3_options as s3_options
from .config import storage_config as storage_config
from .local import LocalStore as LocalStore
from .local import absolute as absolute
from .local import object_version as object_version
from .lock import write_lock as write_lock
from .open import open_store as open_store
from .open import parent_store as parent_store
from .open import root_of as root_of
from .store import ObjectInfo as ObjectInfo
from .store import ObjectStore as ObjectStore
from .store import each as each
from .store import is_empty as is_empty
from .store import list_names as list_names
from .store import list_once as list_once
from .zarr_store import Part as Part
from .zarr_store import ZarrView as ZarrView
from .zarr_store import zarr_place as zarr_place
