"""The pictures of a cube, ``.cloudsen12.plot``: each is a line over the file that draws it.

matplotlib takes longer to import than a cube takes to open, so it is imported when a picture is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import pandas as pd
import xarray as xr

from cloudsen12_cube.classes import Scheme
from cloudsen12_cube.picture import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plot:
    """Pictures of a cube; each returns matplotlib axes and reads only what it draws."""

    cube: xr.DataTree

    def rgb(
        self,
        roi: str,
        time: int,
        ax: Axes | None = None,
        product: Image | None = None,
        bands: Sequence[str] = ("B4", "B3", "B2"),
    ) -> Axes:
        """Draw one patch in true colour; see `cloudsen12_cube.plot.rgb`."""
        from cloudsen12_cube import plot

        return plot.rgb(self.cube, roi, time, ax, product, bands)

    def labels(self, roi: str, time: int, of: str = "manual_hq", ax: Axes | None = None, legend: bool = True) -> Axes:
        """Draw one label layer of one patch; see `cloudsen12_cube.plot.labels`."""
        from cloudsen12_cube import plot

        return plot.labels(self.cube, roi, time, of, ax, legend)

    def overview(self, roi: str, of: Sequence[str] = ("manual_hq",), product: Image | None = None) -> npt.NDArray[Any]:
        """Draw the dates of an ROI as columns; see `cloudsen12_cube.plot.overview`."""
        from cloudsen12_cube import plot

        return plot.overview(self.cube, roi, of, product)

    def confusion(self, counts: xr.Dataset) -> Figure:
        """Draw a confusion matrix, the paper's figure 7; see `cloudsen12_cube.plot_evaluation.confusion_figure`."""
        from cloudsen12_cube import plot_evaluation

        return plot_evaluation.confusion_figure(counts)

    def accuracy(self, per_patch: pd.DataFrame, scheme: Scheme = "cloud") -> Figure:
        """Draw how accuracies spread, the paper's figure 9; see `cloudsen12_cube.plot_evaluation.accuracy_figure`."""
        from cloudsen12_cube import plot_evaluation

        return plot_evaluation.accuracy_figure(per_patch, scheme)
