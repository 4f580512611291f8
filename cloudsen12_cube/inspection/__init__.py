"""What is in a cube: verification, status and summary. Nothing here can import what makes a cube."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
