"""Convert, re-shard and subset: plan, read, encode, commit."""

from .executor import (
    worker_count as worker_count,
)
from .options import (
    DEFAULTS as DEFAULTS,
)
from .options import (
    Options as Options,
)
from .options import (
    Part as Part,
)
from .options import (
    Progress as Progress,
)
from .options import (
    Step as Step,
)
from .options import (
    StrictError as StrictError,
)
from .options import (
    parse_part as parse_part,
)
from .planning import (
    Plan as Plan,
)
from .planning import (
    Resharding as Resharding,
)
from .planning import (
    as_json as as_json,
)
from .report import (
    Report as Report,
)
from .report import (
    failures_path as failures_path,
)
from .run import (
    convert as convert,
)
from .run import (
    finalise as finalise,
)
from .run import (
    plan as plan,
)
from .run import (
    plan_archive as plan_archive,
)
from .subsetting import (
    Preview as Preview,
)
from .subsetting import (
    SubsetOptions as SubsetOptions,
)
from .subsetting import (
    SubsetReport as SubsetReport,
)
from .subsetting import (
    preview as preview,
)
from .subsetting import (
    subset as subset,
)
from .writer import (
    settings_of as settings_of,
)
