"""Bytes at a location: one object store protocol for disks, buckets and servers, with retries and locks."""

from .config import (
    NOTHING as NOTHING,
)
from .config import (
    Access as Access,
)
from .config import (
    ClientName as ClientName,
)
from .config import (
    Url as Url,
)
from .config import (
    access_of as access_of,
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
from .local import (
    Sink as Sink,
)
from .open import (
    Place as Place,
)
from .open import (
    each as each,
)
from .open import (
    place_of as place_of,
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
    open_patient as open_patient,
)
from .zarr_store import (
    RemoteStore as RemoteStore,
)
