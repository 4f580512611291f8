"""What is in a cube: verification, status and summary. Nothing here can import what makes a cube."""

from .accepted import accept_failures as accept_failures
from .accepted import accepted_failures as accepted_failures
from .accepted import accepted_setting as accepted_setting
from .accepted import read_choices as read_choices
from .accepted import still_accepted as still_accepted
from .completeness import Status as Status
from .completeness import sources_changed as sources_changed
from .completeness import status as status
from .completeness import summarise as summarise
from .summary import Info as Info
from .summary import info as info
from .verification import Level as Level
from .verification import Verification as Verification
from .verification import verify as verify
