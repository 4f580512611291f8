"""The data model of CloudSEN12: assets, classes, properties, labels, grids, and the catalogue of patches."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
