"""The benchmark of the paper: counts, metrics, tables and splits."""

from . import split as split
from .benchmark import (
    Predictions as Predictions,
)
from .benchmark import (
    differences as differences,
)
from .benchmark import (
    evaluate as evaluate,
)
from .benchmark import (
    per_patch as per_patch,
)
from .benchmark import (
    save as save,
)
from .counts import (
    Source as Source,
)
from .counts import (
    confusion as confusion,
)
from .metrics import (
    overall_agreement as overall_agreement,
)
from .metrics import (
    producers_accuracy as producers_accuracy,
)
from .metrics import (
    summarise as summarise,
)
from .metrics import (
    users_accuracy as users_accuracy,
)
from .split import (
    block_split as block_split,
)
from .split import (
    hexagons as hexagons,
)
from .split import (
    leakage as leakage,
)
from .table import (
    Format as Format,
)
from .table import (
    Table as Table,
)
from .table import (
    build_table as build_table,
)
from .table import (
    in_order as in_order,
)
from .table import (
    layer_title as layer_title,
)
from .table import (
    scheme_title as scheme_title,
)
from .table import (
    written as written,
)
