"""Pictures, figures, text representations and the web page."""

from .images import save_overview as save_overview
from .tiles import ImageProduct as ImageProduct
