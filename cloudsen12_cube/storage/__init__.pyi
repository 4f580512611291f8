"""Bytes at a location: one object store protocol for disks, buckets and servers, with retries and locks."""

from .config import (
    NOTHING as NOTHING,
)
from .config import (
    ClientName as ClientName,
)
from .config import (
    StorageConfig as StorageConfig,
)
from .config import (
    Url as Url,
)
from .config import (
    clean as clean,
)
from .config import (
    is_url as is_url,
)
from .config import (
    parse_options as parse_options,
)
from .config import (
    s3_options as s3_options,
)
from .config import (
    storage_config as storage_config,
)
from .local import (
    LocalStore as LocalStore,
)
from .open import (
    ObjectStore as ObjectStore,
)
from .open import (
    each as each,
)
from .open import (
    open_store as open_store,
)
from .ranges import (
    Arena as Arena,
)
from .ranges import (
    Ranges as Ranges,
)
from .ranges import (
    open_ranges as open_ranges,
)
from .retry import (
    open_retrying as open_retrying,
)
from .zarr_store import (
    RemoteStore as RemoteStore,
)
