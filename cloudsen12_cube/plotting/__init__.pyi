"""Pictures, figures, text representations and the web page."""

from .images import (
    Image as Image,
)
from .images import save_overview as save_overview
