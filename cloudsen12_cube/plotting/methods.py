"""The pictures of a cube as methods: ``cube.cloudsen12.plot``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt
import pandas as pd
import xarray as xr

from cloudsen12_cube import plotting  # lazy: matplotlib is imported by the first picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cloudsen12_cube.plotting.tiles import ImageProduct
    from cloudsen12_cube.schema import Scheme


@dataclass(frozen=True)
class Plot:
    """Pictures of a cube; each reads only what it draws."""

    cube: xr.DataTree = field(repr=False)

    def rgb(
        self,
        roi: str,
        time: int,
        ax: Axes | None = None,
        product: ImageProduct | None = None,
        bands: Sequence[str] = ("B4", "B3", "B2"),
    ) -> Axes:
        """Draw one patch in true colour, or in three other bands.

        Parameters
        ----------
        roi : str
            ROI id.
        time : int
            Label of the dimension ``time``.
        ax : matplotlib.axes.Axes, optional
            Axes to draw into; by default those of a new figure.
        product : {"s2l1c", "s2l2a"}, optional
            Product to draw; by default the first that the cube has.
        bands : sequence of str
            Three spectral bands, shown as red, green and blue.

        Returns
        -------
        matplotlib.axes.Axes
            Pixels without data, and a patch that is absent or failed, are grey.

        Raises
        ------
        KeyError
            If the cube has no such product, ROI, time or band.
        ValueError
            If the number of bands is not three.
        """
        return plotting.rgb(self.cube, roi, time, ax, product, bands)

    def labels(self, roi: str, time: int, of: str = "manual_hq", ax: Axes | None = None, legend: bool = True) -> Axes:
        """Draw one label layer of one patch in the four classes.

        Parameters
        ----------
        roi : str
            ROI id.
        time : int
            Label of the dimension ``time``.
        of : str
            Label layer, or the name of a predicted one.
        ax : matplotlib.axes.Axes, optional
            Axes to draw into; by default those of a new figure.
        legend : bool
            Add a legend of the classes, right of the axes.

        Returns
        -------
        matplotlib.axes.Axes
            Unlabelled pixels, and a patch that is absent or failed, are grey.

        Raises
        ------
        KeyError
            If the cube has no labels, or no such ROI, time or layer.
        ValueError
            If the full scale of a CD-FCNN layer is unknown.
        """
        return plotting.labels(self.cube, roi, time, of, ax, legend)

    def overview(
        self, roi: str, of: Sequence[str] = ("manual_hq",), product: ImageProduct | None = None
    ) -> npt.NDArray[Any]:
        """Draw the dates of an ROI as columns: true colour in the first row, then one row per label layer.

        Parameters
        ----------
        roi : str
            ROI id.
        of : sequence of str
            Label layers, or names of predicted ones; empty for the images alone.
        product : {"s2l1c", "s2l2a"}, optional
            Product to draw; by default the first that the cube has.

        Returns
        -------
        numpy.ndarray of matplotlib.axes.Axes, shape (1 + layers, dates)

        Raises
        ------
        KeyError
            If the cube has no such product, ROI or layer, or no patch of the ROI.
        ValueError
            If the full scale of a CD-FCNN layer is unknown.
        """
        return plotting.overview(self.cube, roi, of, product)

    def confusion(self, counts: xr.Dataset, producers: Literal["reference", "predicted"] = "reference") -> Figure:
        """Draw a confusion matrix, the paper's figure 7.

        Parameters
        ----------
        counts : xarray.Dataset
            As the accessor's ``confusion`` gives it; what is left of roi and time is summed.
        producers : {"reference", "predicted"}
            Labels that the producer's accuracy refers to; ``predicted`` is the convention of the paper's figure 7.

        Returns
        -------
        matplotlib.figure.Figure
            Reference down, prediction across, in per cent; the title gives the overall agreement.

        Raises
        ------
        ValueError
            If no pixel was counted.
        """
        return plotting.confusion_figure(counts, producers)

    def versions(self, split: str | None = "test") -> Figure:
        """Draw how many patches each version of Sen2Cor processed, the paper's figure S3.

        Parameters
        ----------
        split : {"test", "train", "validation", "all"} or None
            Split whose patches are counted; None and ``all`` take all.

        Returns
        -------
        matplotlib.figure.Figure
        """
        return plotting.versions_figure(self.cube, split)

    def accuracy(self, per_patch: pd.DataFrame, scheme: Scheme = "cloud") -> Figure:
        """Draw how the accuracies of the patches are spread, the paper's figure 9.

        Parameters
        ----------
        per_patch : pandas.DataFrame
            As the accessor's ``per_patch`` gives it.
        scheme : {"cloud", "shadow", "valid"}
            Classes that are distinguished.

        Returns
        -------
        matplotlib.figure.Figure
            Above, the density of BOA for each layer; below, lines of PA and UA, the darker, the more patches.

        Raises
        ------
        ValueError
            If no row is of the scheme.
        """
        return plotting.accuracy_figure(per_patch, scheme)
