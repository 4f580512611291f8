"""CloudSEN12 as one chunked, sharded Zarr v3 cube: convert an archive, open the cube, verify it."""

from cloudsen12_cube import evaluation, split, testing
from cloudsen12_cube.access import Url
from cloudsen12_cube.accessor import CubeAccessor
from cloudsen12_cube.array_accessor import ArrayAccessor, DatasetAccessor
from cloudsen12_cube.census import stats
from cloudsen12_cube.classes import Threshold
from cloudsen12_cube.convert import convert, plan
from cloudsen12_cube.errors import CubeError
from cloudsen12_cube.export import ExportOptions, ExportReport, export
from cloudsen12_cube.export_note import LeftOut
from cloudsen12_cube.finalise import finalise
from cloudsen12_cube.layout import Layout
from cloudsen12_cube.options import Options
from cloudsen12_cube.reader import open_cube
from cloudsen12_cube.report import Report
from cloudsen12_cube.share import Part
from cloudsen12_cube.status import Status, status
from cloudsen12_cube.stream import StreamOptions
from cloudsen12_cube.subset import SubsetOptions, SubsetReport, subset
from cloudsen12_cube.verify import verify
from cloudsen12_cube.virtual import open_virtual

__all__ = [
    "ArrayAccessor",
    "CubeAccessor",
    "CubeError",
    "DatasetAccessor",
    "ExportOptions",
    "ExportReport",
    "Layout",
    "LeftOut",
    "Options",
    "Part",
    "Report",
    "Status",
    "StreamOptions",
    "SubsetOptions",
    "SubsetReport",
    "Threshold",
    "Url",
    "convert",
    "evaluation",
    "export",
    "finalise",
    "open_cube",
    "open_virtual",
    "plan",
    "split",
    "stats",
    "status",
    "subset",
    "testing",
    "verify",
]
