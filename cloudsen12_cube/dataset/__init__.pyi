"""An open cube as xarray objects: classes, masks, queries, patches, footprints, predictions."""

from .class_views import check_resolves as check_resolves
from .class_views import classes as classes
from .class_views import full_scale as full_scale
from .class_views import mask as mask
from .class_views import priority_merge as priority_merge
from .class_views import superclass as superclass
from .geometry import footprints as footprints
from .lazy import Reduction as Reduction
from .lazy import reduced as reduced
from .open import open_cube as open_cube
from .patch import flatten as flatten
from .patch import select_patch as select_patch
from .patch import select_patch_of as select_patch_of
from .patches import SPLITS as SPLITS
from .patches import PatchSource as PatchSource
from .patches import patch_table as patch_table
from .patches import stored_cube as stored_cube
from .predictions import GROUP as GROUP
from .predictions import find_layer as find_layer
from .predictions import with_layer as with_layer
from .predictions import write_layer as write_layer
from .query import Wanted as Wanted
from .radiometry import OPTICAL as OPTICAL
from .radiometry import reflectance as reflectance
from .virtual import open_virtual as open_virtual
