"""What CloudSEN12 is, as data: assets, classes, properties, labels, grids, and the catalogue of patches."""

from .assets import (
    ASSETS as ASSETS,
)
from .assets import (
    PRODUCTS as PRODUCTS,
)
from .assets import (
    SPELLINGS as SPELLINGS,
)
from .assets import (
    Asset as Asset,
)
from .assets import (
    ProductName as ProductName,
)
from .assets import (
    assets_of as assets_of,
)
from .assets import (
    band_name as band_name,
)
from .assets import (
    bands_of as bands_of,
)
from .assets import (
    files_of as files_of,
)
from .assets import (
    find_band as find_band,
)
from .catalogue import (
    LABEL_FOLDERS as LABEL_FOLDERS,
)
from .catalogue import (
    Catalogue as Catalogue,
)
from .catalogue import (
    Condition as Condition,
)
from .catalogue import (
    Mask as Mask,
)
from .catalogue import (
    RowFault as RowFault,
)
from .catalogue import (
    Selection as Selection,
)
from .catalogue import (
    TestMeaning as TestMeaning,
)
from .catalogue import (
    Value as Value,
)
from .catalogue import (
    _ordered as _ordered,
)
from .catalogue import (
    did_you_mean as did_you_mean,
)
from .catalogue import (
    find_column as find_column,
)
from .catalogue import (
    in_box as in_box,
)
from .catalogue import (
    is_legal_key as is_legal_key,
)
from .catalogue import (
    matching as matching,
)
from .catalogue import (
    parse as parse,
)
from .catalogue import (
    roi_number as roi_number,
)
from .catalogue import (
    select as select,
)
from .catalogue import (
    sensing_start as sensing_start,
)
from .classes import (
    CLASSES as CLASSES,
)
from .classes import (
    LAYERS as LAYERS,
)
from .classes import (
    SUPERCLASSES as SUPERCLASSES,
)
from .classes import (
    UNLABELLED as UNLABELLED,
)
from .classes import (
    UNLABELLED_COLOR as UNLABELLED_COLOR,
)
from .classes import (
    ClassName as ClassName,
)
from .classes import (
    Layer as Layer,
)
from .classes import (
    Scheme as Scheme,
)
from .classes import (
    Superclass as Superclass,
)
from .classes import (
    Threshold as Threshold,
)
from .classes import (
    layer as layer,
)
from .grid import (
    Grid as Grid,
)
from .grid import (
    _told as _told,
)
from .grid import (
    grid_of as grid_of,
)
from .grid import (
    parse_transform as parse_transform,
)
from .grid import (
    to_degrees as to_degrees,
)
from .labels import (
    class_masks as class_masks,
)
from .labels import (
    probability_scale as probability_scale,
)
from .properties import (
    BY_NAME as BY_NAME,
)
from .properties import (
    PLUS as PLUS,
)
from .properties import (
    PROPERTIES as PROPERTIES,
)
from .properties import (
    ROI_WIDE as ROI_WIDE,
)
from .properties import (
    SPLITS as SPLITS,
)
from .properties import (
    UNKNOWN as UNKNOWN,
)
from .properties import (
    Property as Property,
)
from .properties import (
    canonical as canonical,
)
from .properties import (
    number_text as number_text,
)
