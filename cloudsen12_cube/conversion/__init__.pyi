"""Convert, re-shard and subset: plan, read, encode, commit."""

from .jobs import check_disjoint as check_disjoint
from .jobs import convert as convert
from .jobs import finalise as finalise
from .jobs import plan as plan
from .jobs import subset as subset
from .options import DEFAULTS as DEFAULTS
from .options import Options as Options
from .options import Part as Part
from .options import Progress as Progress
from .options import Step as Step
from .options import StrictError as StrictError
from .options import SubsetOptions as SubsetOptions
from .options import check_workers as check_workers
from .options import parse_part as parse_part
from .planning import ArchivePlan as ArchivePlan
from .planning import CubePlan as CubePlan
from .planning import Plan as Plan
from .planning import plan_archive as plan_archive
from .preview import Preview as Preview
from .preview import preview_subset as preview_subset
from .report import Report as Report
from .report import SubsetReport as SubsetReport
from .report import failures_path as failures_path
from .runner import open_runner as open_runner
from .runner import worker_count as worker_count
