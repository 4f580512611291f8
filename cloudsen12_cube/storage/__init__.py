"""Bytes at a location: one object store protocol for disks, buckets and servers, with retries and locks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
