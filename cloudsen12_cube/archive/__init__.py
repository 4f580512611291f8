"""The published formats of CloudSEN12: from files to catalogue, patches and pixels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
