"""Batches for training: order, transforms, streams, statistics, PyTorch."""

from .explanation import Explanation as Explanation
from .statistics import CubeStatistics as CubeStatistics
from .statistics import stats as stats
from .stream import Inputs as Inputs
from .stream import Stream as Stream
from .stream import StreamOptions as StreamOptions
from .stream import make_stream as make_stream
from .torch import TorchStream as TorchStream
from .torch import loader as loader
