"""Pictures, figures, text representations and the web page."""

from . import browser as browser
from .figures import accuracy_figure as accuracy_figure
from .figures import confusion_figure as confusion_figure
from .figures import versions_figure as versions_figure
from .images import labels as labels
from .images import overview as overview
from .images import rgb as rgb
from .images import save_overview as save_overview
from .methods import Plot as Plot
from .repr import accessor_html as accessor_html
from .repr import accessor_text as accessor_text
from .tiles import ImageProduct as ImageProduct
