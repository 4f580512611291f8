"""What a cube is on disk: layouts, codecs, shards, records, metadata and statistics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
