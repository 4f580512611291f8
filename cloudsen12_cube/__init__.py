"""CloudSEN12 as one chunked, sharded Zarr v3 cube: convert an archive, open the cube, verify it, train on it."""

import lazy_loader

from cloudsen12_cube import accessor as _accessor  # noqa: F401  registers ``.cloudsen12`` with xarray

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
