"""The pictures of a cube, ``.cloudsen12.plot``: each is a line over the file that draws it.

matplotlib takes longer to import than a cube takes to open, so it is imported when a picture is asked for.

The accessor ``.cloudsen12``: what a cube, a product's Dataset or a label array can be asked, in one line each.

Every method is a few lines over a file that does the work. Nothing is read before values are asked for, and no object
is changed: an accessor keeps nothing but the object that it stands on. What takes longer to import than a cube takes to
open (matplotlib, geopandas) is imported when it is asked for.

The accessor ``.cloudsen12`` of a product's Dataset, of one patch, and of an array of labels or pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from cloudsen12_cube import dataset as data
from cloudsen12_cube import evaluation, exporters, plotting, training
from cloudsen12_cube.schema import PRODUCTS

if TYPE_CHECKING:
    import geopandas
    import numpy.typing as npt
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cloudsen12_cube.dataset import Wanted
    from cloudsen12_cube.evaluation import AccuracyTable, Predictions, Source
    from cloudsen12_cube.plotting import ImageProduct
    from cloudsen12_cube.schema import ClassName, Scheme, Superclass, Threshold
    from cloudsen12_cube.training import Inputs, Stream, StreamOptions, TorchStream


@dataclass(frozen=True)
class Plot:
    """Pictures of a cube; each returns matplotlib axes and reads only what it draws."""

    cube: xr.DataTree

    def rgb(
        self,
        roi: str,
        time: int,
        ax: Axes | None = None,
        product: ImageProduct | None = None,
        bands: Sequence[str] = ("B4", "B3", "B2"),
    ) -> Axes:
        """Draw one patch in true colour; see `cloudsen12_cube.plot.rgb`."""
        return plotting.rgb(self.cube, roi, time, ax, product, bands)

    def labels(self, roi: str, time: int, of: str = "manual_hq", ax: Axes | None = None, legend: bool = True) -> Axes:
        """Draw one label layer of one patch; see `cloudsen12_cube.plot.labels`."""
        return plotting.labels(self.cube, roi, time, of, ax, legend)

    def overview(
        self, roi: str, of: Sequence[str] = ("manual_hq",), product: ImageProduct | None = None
    ) -> npt.NDArray[Any]:
        """Draw the dates of an ROI as columns; see `cloudsen12_cube.plot.overview`."""
        return plotting.overview(self.cube, roi, of, product)

    def confusion(self, counts: xr.Dataset) -> Figure:
        """Draw a confusion matrix, the paper's figure 7; see `cloudsen12_cube.plot_evaluation.confusion_figure`."""
        return plotting.confusion_figure(counts)

    def accuracy(self, per_patch: pd.DataFrame, scheme: Scheme = "cloud") -> Figure:
        """Draw how accuracies spread, the paper's figure 9; see `cloudsen12_cube.plot_evaluation.accuracy_figure`."""
        return plotting.accuracy_figure(per_patch, scheme)


@xr.register_datatree_accessor("cloudsen12")  # type: ignore[no-untyped-call]
class CubeAccessor:
    """What an open cube can be asked."""

    def __init__(self, cube: xr.DataTree) -> None:
        self._object = cube

    @property
    def _cube(self) -> xr.DataTree:
        """The cube, if it is one."""
        cube = self._object
        if "s2_id_gee" not in cube.dataset.variables or not set(cube.children) & set(PRODUCTS):
            found = ", ".join(cube.children) or "none"
            raise ValueError(
                f"this DataTree is no CloudSEN12 cube (groups: {found}): open one with cloudsen12_cube.open_cube, "
                "and ask its root"
            )
        return cube

    @property
    def _labels(self) -> xr.DataArray:
        if "labels" not in self._cube.children:
            raise KeyError(f"the cube has no labels, so nothing here is clear: it has {', '.join(self._cube.children)}")
        return self._cube["labels"].dataset["labels"]

    def _layers(self, name: str) -> xr.DataArray:
        """Find the array that a layer is in: the predicted one of that name, else the stored labels."""
        found = data.find_layer(self._cube, name)
        return self._labels if found is None else found

    def query(
        self,
        *,
        bbox: tuple[float, float, float, float] | None = None,
        geometry: Any = None,
        roi: Wanted = None,
        s2_id_gee: Wanted = None,
        s2_id: Wanted = None,
        datetime: Wanted = None,
        label_type: Wanted = None,
        cloud_coverage: Wanted = None,
        difficulty: Wanted = None,
        annotator_name: Wanted = None,
        land_cover: Wanted = None,
        split: Wanted = None,
        test: Wanted = None,
        test_sr: Wanted = None,
        s2_sen2cor_version: Wanted = None,
        s2_fmask_version: Wanted = None,
        s2_cloudless_version: Wanted = None,
        s2_reflectance_conversion_correction: Wanted = None,
        s2_aot_retrieval_accuracy: Wanted = None,
        s2_water_vapour_retrieval_accuracy: Wanted = None,
        s2_view_off_nadir: Wanted = None,
        s2_view_sun_azimuth: Wanted = None,
        s2_view_sun_elevation: Wanted = None,
        s1_id: Wanted = None,
        s1_datetime: Wanted = None,
        s1_grd_post_processing_software_name: Wanted = None,
        s1_grd_post_processing_software_version: Wanted = None,
        s1_slc_processing_facility_name: Wanted = None,
        s1_slc_processing_software_version: Wanted = None,
        s1_radar_coverage: Wanted = None,
        proj_epsg: Wanted = None,
        proj_geometry: Wanted = None,
        proj_shape: Wanted = None,
        proj_centroid: Wanted = None,
        longitude: Wanted = None,
        latitude: Wanted = None,
        old_roi_id: Wanted = None,
        equi_id: Wanted = None,
        equi_zone: Wanted = None,
        clear_percentage: Wanted = None,
        thick_percentage: Wanted = None,
        thin_percentage: Wanted = None,
        cloud_shadow_percentage: Wanted = None,
    ) -> xr.DataTree:
        """Choose patches; all wishes must be fulfilled.

        Parameters
        ----------
        bbox : (float, float, float, float), optional
            West, south, east, north of the patch's centre in degrees; west > east crosses the antimeridian.
        geometry : shapely geometry, optional
            In longitude and latitude, or anything with ``__geo_interface__``; the patch's centre must lie in it.
        roi, s2_id_gee, ..., cloud_shadow_percentage : optional
            Every property of the catalogue (the last seven: of CloudSEN12+): a value; a list of values, any of which
            will do; for numbers and times a tuple (low, high), both ends in, None for an open end; a text with ``*``
            behind it for all that begin so.

        Returns
        -------
        xarray.DataTree
            A cube of the same kind. ROIs and dates with nothing left are dropped; any other patch that is not chosen
            has ``status`` 0 (absent), blank properties and pixels that hold the fill. It is empty if nothing fits.

        Raises
        ------
        SelectionError
            If a wish does not suit the type of its property. Texts are compared, never evaluated.
        """
        given = locals()
        root = self._cube.to_dataset()
        keep = data.query.matching(root, {name: given[name] for name in data.query.NAMES})
        if bbox is not None:
            keep &= data.query.inside_box(root, bbox)
        if geometry is not None:
            keep &= data.geometry.inside(self._cube, geometry)
        return data.query.selected_tree(self._cube, keep)

    def footprints(self) -> geopandas.GeoDataFrame:
        """Give every patch as a polygon in longitude and latitude, with all its properties; ``.explore()`` maps it.

        Returns
        -------
        geopandas.GeoDataFrame
            One row a patch, EPSG:4326.
        """
        return data.footprints(self._cube)

    def classes(self, layer: str, threshold: Threshold | None = None, scale: int | None = None) -> xr.DataArray:
        """See a label layer as the four classes; see `cloudsen12_cube.dataset.class_views.classes`.

        Parameters
        ----------
        layer : str
            Such as ``sen2cor``.
        threshold : Threshold, optional
            How a probability becomes cloud; by default as the paper's benchmark did it.
        scale : int, optional
            Full scale of CD-FCNN's probability, where the cube could not tell it.

        Returns
        -------
        xarray.DataArray of uint8, (roi, time, y, x)
            0 clear, 1 thick_cloud, 2 thin_cloud, 3 cloud_shadow, 255 unlabelled, with CF flags.
        """
        return data.classes(self._layers(layer), layer, threshold, scale)

    def superclass(
        self, scheme: Superclass, of: str, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """See a label layer as ``cloud`` (0 non_cloud, 1 cloud) or ``valid`` (0 valid, 1 invalid); 255 is unlabelled.

        Parameters and errors are those of `cloudsen12_cube.dataset.class_views.superclass`.
        """
        return data.superclass(self._layers(of), scheme, of, threshold, scale)

    def mask(
        self, *names: ClassName, of: str, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """Mask the pixels of some classes; see `cloudsen12_cube.dataset.class_views.mask`.

        Parameters
        ----------
        *names : str
            Any of ``clear``, ``thick_cloud``, ``thin_cloud``, ``cloud_shadow``.
        of : str
            Label layer.
        threshold, scale
            As in `classes`.

        Returns
        -------
        xarray.DataArray of bool, (roi, time, y, x)
            Its coordinate ``labelled`` tells where the layer has a label. An unlabelled pixel is not in the mask, nor
            in the complement, which is ``~mask & mask.labelled``.
        """
        return data.mask(self._layers(of), names, of, threshold, scale)

    def priority_merge(
        self, layers: Sequence[str], threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """Merge label layers: thick cloud before cloud shadow before thin cloud before clear (the paper's table 3).

        Parameters and errors are those of `cloudsen12_cube.dataset.class_views.priority_merge`.
        """
        return data.priority_merge(self._labels, layers, threshold, scale)

    def reflectance(self, bands: str | Sequence[str] | None = None, product: str | None = None) -> xr.DataArray:
        """Give Sentinel-2 pixels in physical units, float32; see `cloudsen12_cube.reflectance.reflectance`.

        Parameters
        ----------
        bands : str or sequence of str, optional
            Names such as ``B4``, ``B04`` or ``red``; by default all. One name gives an array without ``band``.
        product : {"s2l1c", "s2l2a"}, optional
            By default the first of them that the cube has.
        """
        chosen = product or next((p for p in data.OPTICAL if p in self._cube.children), data.OPTICAL[0])
        if chosen not in self._cube.children:
            raise KeyError(f"the cube has no {chosen}: it has {', '.join(self._cube.children)}")
        return data.reflectance(self._cube[chosen].dataset[chosen], bands)

    def patch(self, name: str, time: int | None = None, roi: str | None = None) -> xr.Dataset:
        """Select one patch, placed on the map: ``patch("ROI_0827", 0)`` or ``patch(s2_id_gee, roi="ROI_0827")``.

        Returns
        -------
        xarray.Dataset
            A variable a product, (band_<product>, y, x), with x and y in metres and ``spatial_ref``, ready for
            ``.rio``. Parameters and errors are those of `cloudsen12_cube.dataset.patch.select_patch`.
        """
        return data.select_patch(self._cube, name, time, roi)

    def confusion(self, predicted: Source, reference: Source = "manual_hq", scheme: Scheme = "four") -> xr.Dataset:
        """Count pixels of each patch by reference class and predicted class; see `cloudsen12_cube.confusion.confusion`.

        Parameters
        ----------
        predicted, reference : str, xarray.DataArray or Path
            A label layer, class codes (roi, time, y, x), or a folder of tifs of these.
        scheme : {"four", "cloud", "shadow", "valid"}
            Which classes are told apart.

        Returns
        -------
        xarray.Dataset
            ``counts`` (roi, time, reference, predicted), int64, lazy.
        """
        return evaluation.confusion(self._cube, predicted, reference, scheme)

    def evaluate(
        self,
        reference: Source = "manual_hq",
        split: str | None = "test",
        predicted: Predictions = None,
        by: str | Sequence[str] | None = None,
    ) -> AccuracyTable:
        """Make the paper's table 6; parameters and errors are those of `cloudsen12_cube.accuracy.evaluate`.

        Returns
        -------
        pandas.DataFrame
            In full precision; it prints like the paper's table.
        """
        return evaluation.evaluate(self._cube, reference, split, predicted, by)

    def per_patch(
        self,
        reference: Source = "manual_hq",
        split: str | None = "test",
        predicted: Predictions = None,
        columns: Sequence[str] = (),
    ) -> pd.DataFrame:
        """Make the table behind table 6, a row a patch, scheme and layer; as `cloudsen12_cube.accuracy.per_patch`."""
        return evaluation.per_patch(self._cube, reference, split, predicted, columns)

    def stream(
        self,
        inputs: Inputs,
        target: str | None = None,
        split: str | None = None,
        batch_size: int = 32,
        seed: int = 0,
        options: StreamOptions | None = None,
    ) -> Stream:
        """Stream batches for training; see `cloudsen12_cube.stream.make_stream`.

        Parameters
        ----------
        inputs : mapping of str to sequence of str or None
            Product -> its bands, None for all: ``{"s2l1c": None, "s1": ["VV", "VH"]}``.
        target : str, optional
            Label layer.
        split : {"train", "validation", "test"}, optional
            None takes all patches.
        batch_size, seed : int
        options : StreamOptions, optional
            Crops, padding, turns, scaling, order, ranks and memory.

        Returns
        -------
        Stream
            An iterable of dicts: ``pixels`` (batch, band, y, x), ``target`` (batch, y, x), ``roi`` and ``time``.
        """
        return training.make_stream(self._cube, inputs, target, split, batch_size, seed, options)

    def torch_dataset(
        self,
        inputs: Inputs,
        target: str | None = None,
        split: str | None = None,
        batch_size: int = 32,
        seed: int = 0,
        options: StreamOptions | None = None,
    ) -> TorchStream:
        """Make a PyTorch ``IterableDataset`` of batches; parameters and errors are those of `stream`."""
        return training.TorchStream(self.stream(inputs, target, split, batch_size, seed, options))

    def with_layer(self, path: str) -> xr.DataTree:
        """Open a predicted layer beside the cube; see `cloudsen12_cube.data.predictions.with_layer`."""
        return data.with_layer(self._cube, path)

    def to_dataset(self, products: Sequence[str] | None = None) -> xr.Dataset:
        """Lay the tree out as one Dataset, whose products have dims ``band_<product>``.

        Parameters
        ----------
        products : sequence of str, optional
            By default all that are there.
        """
        return data.flatten(self._cube, products)

    @property
    def plot(self) -> Plot:
        """Pictures: ``plot.rgb``, ``plot.labels`` and ``plot.overview``."""
        return Plot(self._cube)

    def __repr__(self) -> str:
        return plotting.cube_text(self._cube)

    def _repr_html_(self) -> str:
        return plotting.cube_html(self._cube)


@xr.register_dataarray_accessor("cloudsen12")  # type: ignore[no-untyped-call]
class ArrayAccessor:
    """What an array of labels, or of Sentinel-2 pixels, can be asked."""

    def __init__(self, array: xr.DataArray) -> None:
        self._array = array

    def classes(
        self, layer: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """See labels as the four classes; ``layer`` may be left out where the array is one band.

        Parameters and errors are those of `cloudsen12_cube.dataset.class_views.classes`.
        """
        return data.classes(self._array, layer, threshold, scale)

    def superclass(
        self, scheme: Superclass, of: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """See labels as ``cloud`` or ``valid``.

        Parameters and errors are those of `cloudsen12_cube.dataset.class_views.superclass`.
        """
        return data.superclass(self._array, scheme, of, threshold, scale)

    def mask(
        self, *names: ClassName, of: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """Mask the pixels of some classes; the coordinate ``labelled`` tells where there is a label.

        Parameters and errors are those of `cloudsen12_cube.dataset.class_views.mask`.
        """
        return data.mask(self._array, names, of, threshold, scale)

    def priority_merge(
        self, layers: Sequence[str], threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """Merge label layers by the priorities of the paper's table 3.

        Parameters and errors are those of `cloudsen12_cube.dataset.class_views.priority_merge`.
        """
        return data.priority_merge(self._array, layers, threshold, scale)

    def reflectance(self, bands: str | Sequence[str] | None = None) -> xr.DataArray:
        """Give the pixels of ``s2l1c`` or ``s2l2a`` in physical units.

        Parameters and errors are those of `cloudsen12_cube.reflectance.reflectance`.
        """
        return data.reflectance(self._array, bands)


@xr.register_dataset_accessor("cloudsen12")  # type: ignore[no-untyped-call]
class DatasetAccessor:
    """What a product's Dataset, the flat view or one patch can be asked."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def _product(self, *names: str) -> xr.DataArray:
        """Find a product, with its bands on ``band``."""
        for name in names:
            if name in self._dataset.data_vars:
                flat = {
                    f"{n}_{name}": n for n in ("band", "scale", "offset") if f"{n}_{name}" in self._dataset.variables
                }
                return self._dataset[name].rename(flat)
        there = ", ".join(map(str, self._dataset.data_vars)) or "nothing"
        raise KeyError(f"no {' or '.join(names)} in this Dataset: it has {there}")

    def classes(
        self, layer: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """See a label layer as the four classes; as `cloudsen12_cube.dataset.class_views.classes`."""
        return data.classes(self._product("labels"), layer, threshold, scale)

    def superclass(
        self, scheme: Superclass, of: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """See a label layer as ``cloud`` or ``valid``; as `cloudsen12_cube.dataset.class_views.superclass`."""
        return data.superclass(self._product("labels"), scheme, of, threshold, scale)

    def mask(
        self, *names: ClassName, of: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """Mask the pixels of some classes; as `cloudsen12_cube.dataset.class_views.mask`."""
        return data.mask(self._product("labels"), names, of, threshold, scale)

    def priority_merge(
        self, layers: Sequence[str], threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """Merge label layers; as `cloudsen12_cube.dataset.class_views.priority_merge`."""
        return data.priority_merge(self._product("labels"), layers, threshold, scale)

    def reflectance(self, bands: str | Sequence[str] | None = None, product: str | None = None) -> xr.DataArray:
        """Give Sentinel-2 pixels in physical units; as `cloudsen12_cube.reflectance.reflectance`."""
        return data.reflectance(self._product(*([product] if product else data.OPTICAL)), bands)

    def patch(self, name: str, time: int | None = None, roi: str | None = None) -> xr.Dataset:
        """Select one patch, placed on the map; as `cloudsen12_cube.dataset.patch.select_patch_of`."""
        return data.select_patch_of(self._dataset, name, time, roi)

    def to_cog(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write one patch back as the archive's files; as `cloudsen12_cube.cog.write_cogs`.

        Parameters
        ----------
        path : path
            Folder of the patch, which is made.

        Returns
        -------
        list of pathlib.Path
            The files.
        """
        return exporters.write_cogs(self._dataset, path)
