"""What is in a cube: verification, status and summary. Nothing here can import what makes a cube."""

from .accepted import AcceptedFailure as AcceptedFailure
from .accepted import FailureKey as FailureKey
from .accepted import as_setting as as_setting
from .accepted import decide as decide
from .accepted import holding as holding
from .accepted import in_settings as in_settings
from .accepted import key_of as key_of
from .accepted import read_choices as read_choices
from .completeness import Status as Status
from .completeness import look as look
from .completeness import outdated as outdated
from .completeness import status as status
from .summary import Info as Info
from .summary import info as info
from .verification import Level as Level
from .verification import Verification as Verification
from .verification import verify as verify
