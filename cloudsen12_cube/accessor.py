"""The accessor ``.cloudsen12`` of a cube, of a product's Dataset, of one patch, and of an array of labels or pixels.

Every method calls one function of a room. The rooms are lazy packages: what takes longer to import than a cube takes to
open (zarr, dask, matplotlib, geopandas) is imported by the first method that needs it. An accessor holds its object and
nothing else, changes nothing, and reads no pixel before values are needed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import xarray as xr

from cloudsen12_cube import dataset as data
from cloudsen12_cube import evaluation, exporters, plotting, training

if TYPE_CHECKING:
    import geopandas
    import pandas as pd

    from cloudsen12_cube.dataset import QueryColumns, TimeLabel
    from cloudsen12_cube.evaluation import AccuracyTable, Predictions, Source, Unclassified
    from cloudsen12_cube.plotting import Plot
    from cloudsen12_cube.schema import ClassName, Scheme, Superclass, Threshold
    from cloudsen12_cube.training import Inputs, Stream, StreamOptions, TorchStream


class Accessor:
    """Views of labels and pixels, the same for a cube, a product's Dataset, a patch and an array."""

    def __init__(self, part: Any) -> None:
        self._object = part

    def _labels(self, of: str | None) -> xr.DataArray:
        """Find the array that holds a label layer."""
        raise NotImplementedError

    def _pixels(self, product: str | None) -> xr.DataArray:
        """Find the array of a Sentinel-2 product."""
        raise NotImplementedError

    def classes(
        self, of: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """View a label layer as the four classes.

        Parameters
        ----------
        of : str, optional
            Label layer, such as ``sen2cor``, or the name of a predicted one. An array of one layer needs none.
        threshold : Threshold, optional
            How a layer of probabilities becomes cloud; by default as in the paper's benchmark.
        scale : {1, 100, 10000}, optional
            Stored value of probability 1 of a CD-FCNN layer; by default what the conversion found in the whole cube.

        Returns
        -------
        xarray.DataArray of uint8, (roi, time, y, x)
            0 clear, 1 thick_cloud, 2 thin_cloud, 3 cloud_shadow, 255 unlabelled, with CF flag attributes. Without
            the dimensions that a selection has removed.

        Raises
        ------
        KeyError
            If there are no labels, or no such layer; the message lists those that exist.
        ValueError
            If the object is no CloudSEN12 cube, a threshold is given for a layer of codes, or a full scale is unknown.
        """
        return data.classes(self._labels(of), of, threshold, scale)

    def superclass(
        self, scheme: Superclass, of: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """View a label layer as one of the paper's superclasses.

        Parameters
        ----------
        scheme : {"cloud", "valid"}
            ``cloud``: 0 non_cloud, 1 cloud. ``valid``: 0 valid, 1 invalid.
        of : str, optional
            Label layer, such as ``sen2cor``, or the name of a predicted one. An array of one layer needs none.
        threshold : Threshold, optional
            How a layer of probabilities becomes cloud; by default as in the paper's benchmark.
        scale : {1, 100, 10000}, optional
            Stored value of probability 1 of a CD-FCNN layer; by default what the conversion found in the whole cube.

        Returns
        -------
        xarray.DataArray of uint8, (roi, time, y, x)
            0 or 1, and 255 where unlabelled, with CF flag attributes.

        Raises
        ------
        KeyError
            If there are no labels, or no such layer; the message lists those that exist.
        ValueError
            If there is no such superclass, or the layer does not distinguish it; the message lists the layers that do.
        """
        return data.superclass(self._labels(of), scheme, of, threshold, scale)

    def mask(
        self, *names: ClassName, of: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """Mask the pixels of some classes.

        Parameters
        ----------
        *names : {"clear", "thick_cloud", "thin_cloud", "cloud_shadow"}
            One or more classes.
        of : str, optional
            Label layer, such as ``sen2cor``, or the name of a predicted one. An array of one layer needs none.
        threshold : Threshold, optional
            How a layer of probabilities becomes cloud; by default as in the paper's benchmark.
        scale : {1, 100, 10000}, optional
            Stored value of probability 1 of a CD-FCNN layer; by default what the conversion found in the whole cube.

        Returns
        -------
        xarray.DataArray of bool, (roi, time, y, x)
            Its coordinate ``labelled`` is False where the layer has no label. Such a pixel is not in the mask, nor in
            the complement, which is ``~mask & mask.labelled``.

        Raises
        ------
        KeyError
            If there are no labels, or no such layer; the message lists those that exist.
        ValueError
            If no class is given, one is unknown, or the layer does not distinguish it; the message lists those that do.
        """
        return data.mask(self._labels(of), names, of, threshold, scale)

    def priority_merge(
        self, layers: Sequence[str], threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """Merge label layers by the priorities of the paper's table 3.

        Parameters
        ----------
        layers : sequence of str
            Stored label layers, in any order.
        threshold : Threshold, optional
            For all layers of probabilities among them; by default each one's own.
        scale : {1, 100, 10000}, optional
            Stored value of probability 1 of a CD-FCNN layer; by default what the conversion found in the whole cube.

        Returns
        -------
        xarray.DataArray of uint8, (roi, time, y, x)
            Class codes: thick cloud before cloud shadow before thin cloud before clear; 255 where no layer has a label.

        Raises
        ------
        KeyError
            If there are no labels, no layer is given, or there is no such layer; the message lists those that exist.
        ValueError
            If the object is no CloudSEN12 cube, or the full scale of a layer is unknown.
        """
        return data.priority_merge(self._labels(None), layers, threshold, scale)

    def reflectance(self, bands: str | Sequence[str] | None = None, product: str | None = None) -> xr.DataArray:
        """Convert the stored integers of a Sentinel-2 product to physical units.

        Parameters
        ----------
        bands : str or sequence of str, optional
            Names such as ``B4``, ``B04`` or ``red``; by default all. One name gives an array without ``band``.
        product : {"s2l1c", "s2l2a"}, optional
            By default the first of them that is there.

        Returns
        -------
        xarray.DataArray of float32, (roi, time, band, y, x)
            Reflectance without unit; of ``s2l2a`` also AOT without unit, WVP in cm and TCI in counts, as the coordinate
            ``units`` says. NaN where there is no pixel.

        Raises
        ------
        KeyError
            If there is no such product or band; the message lists those that exist.
        ValueError
            If the array is not that of a Sentinel-2 product, or has lost its coordinates ``scale`` and ``offset``.
        """
        return data.reflectance(self._pixels(product), bands)

    def __repr__(self) -> str:
        return plotting.accessor_text(self._object)

    def _repr_html_(self) -> str:
        return plotting.accessor_html(self._object)


@xr.register_dataarray_accessor("cloudsen12")  # type: ignore[no-untyped-call]
class ArrayAccessor(Accessor):
    """Methods of an array of labels, or of Sentinel-2 pixels: ``cube["labels"]["labels"].cloudsen12``."""

    _object: xr.DataArray

    def _labels(self, of: str | None) -> xr.DataArray:
        del of  # an array is asked for by its bands, which are checked when one is chosen
        return self._object

    def _pixels(self, product: str | None) -> xr.DataArray:
        if product not in (None, self._object.name):
            raise KeyError(f"no {product} here: the array is {self._object.name}")
        return self._object


class CatalogueAccessor(Accessor):
    """Methods of objects with the patches of a catalogue, (roi, time)."""

    def patch(
        self,
        name: str | None = None,
        time: TimeLabel | None = None,
        roi: str | None = None,
        *,
        lon: float | None = None,
        lat: float | None = None,
    ) -> xr.Dataset:
        """Select one patch, placed on the map: ``patch("ROI_0827", 0)`` or ``patch(s2_id_gee, roi="ROI_0827")``.

        Parameters
        ----------
        name : str, optional
            ROI id, ``ROI_0827``, or the image id ``s2_id_gee``.
        time : int, str or numpy.datetime64, optional
            Label of the dimension ``time``, or the date, ``2019-08-11``. An ROI with one patch needs none.
        roi : str, optional
            ROI id, for an image id that several ROIs share.
        lon, lat : float, optional
            Degrees of WGS 84, in the place of a name: the nearest ROI is taken, and its first patch without ``time``.

        Returns
        -------
        xarray.Dataset
            ``x`` and ``y`` in metres at the centres of the pixels, and ``spatial_ref``: ready for ``.rio``. A product's
            Dataset gives its variable, (band, y, x); a cube or its flat view gives one for each product,
            (band_<product>, y, x), lazy, and the attribute ``missing_products`` names those without pixels.

        Raises
        ------
        KeyError
            If there is no such ROI, time or image id; the message says what exists.
        ValueError
            If more than one patch fits, or the object is no part of a cube, or has lost ``roi`` or ``time``.
        SelectionError
            If no pixels of the patch are there, or its location is unknown.
        """
        cube = data.check_cube(self._object, "roi", "time")
        return data.select_patch(cube, name, time, roi, data.point_of(lon, lat))


@xr.register_dataset_accessor("cloudsen12")  # type: ignore[no-untyped-call]
class DatasetAccessor(CatalogueAccessor):
    """Methods of a product's Dataset, of the flat view, and of one patch."""

    _object: xr.Dataset

    def _labels(self, of: str | None) -> xr.DataArray:
        return data.find_product(self._object, of if of and of in self._object.data_vars else "labels")

    def _pixels(self, product: str | None) -> xr.DataArray:
        return data.find_product(self._object, *([product] if product else data.OPTICAL))

    def to_cog(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write one patch as the files of the archive: ``S2L1C.tif``, ``labels/fmask.tif`` and so on.

        Parameters
        ----------
        path : path
            Folder of the patch; it is created if it is not there.

        Returns
        -------
        list of pathlib.Path
            The files: tiled, LZW, with band descriptions, in the published data type where every value fits it.

        Raises
        ------
        DestinationError
            If one of the files exists; then none is written.
        SelectionError
            If the Dataset is not one patch, or has only some of the bands that a file holds.
        """
        return exporters.write_cogs(self._object, path)


@xr.register_datatree_accessor("cloudsen12")  # type: ignore[no-untyped-call]
class CubeAccessor(CatalogueAccessor):
    """Methods of an open cube, and of a query on it: ``open_cube(...).cloudsen12``."""

    _object: xr.DataTree

    @property
    def _cube(self) -> xr.DataTree:
        """The cube, with both dimensions of its catalogue."""
        return data.check_cube(self._object, "roi", "time")

    def _labels(self, of: str | None) -> xr.DataArray:
        return data.find_labels(data.check_cube(self._object), of)

    def _pixels(self, product: str | None) -> xr.DataArray:
        return data.find_pixels(data.check_cube(self._object), product)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the cube as the specification describes them: layout version, tool, selection, layouts."""
        return data.read_settings(self._object)

    def query(
        self,
        where: str | Sequence[str] | None = None,
        *,
        bbox: tuple[float, float, float, float] | None = None,
        geometry: Any = None,
        **columns: Unpack[QueryColumns],
    ) -> xr.DataTree:
        """Select patches by the catalogue; all conditions must hold.

        Parameters
        ----------
        where : str or sequence of str, optional
            Conditions as of ``convert --where``: ``"difficulty<=3"``, ``"cloud_coverage=cloudy|mid-cloudy"``, with one
            of ``= != < <= > >=``. They reach every column of the cube's root, also one that only this cube has. A date,
            month or year is the whole of it; times are in UTC, or have an offset: ``"datetime<=2019-08"``,
            ``"datetime>=2019-08-11T10:00+02:00"``.
        bbox : (float, float, float, float), optional
            West, south, east, north of the patch's centre in degrees; west > east crosses the antimeridian.
        geometry : shapely geometry, optional
            In longitude and latitude, or anything with ``__geo_interface__``; the patch's centre must lie in it.
        **columns : optional
            ``roi`` or a property of the catalogue, such as ``label_type="high"``: a value; a list of values, any of
            which fits; for numbers and times a tuple or slice (low, high), both ends included, None for an open end; a
            text with a trailing ``*`` for all that begin so; None for no condition. ``datetime="2019-08"`` is the whole
            month. `QueryColumns` lists them.

        Returns
        -------
        xarray.DataTree
            A cube of the same kind. ROIs and dates with nothing left are dropped; any other patch that is not selected
            has ``status`` 0 (absent), blank properties and pixels that hold the fill. It is empty if no patch fits.

        Raises
        ------
        SelectionError
            If a name is no property, no patch has a value, or a value does not suit the type of its property; the
            message lists names or values that exist. Texts are compared, never evaluated.
        ValueError
            If the object is no cube.
        """
        return data.query(self._cube, where, bbox=bbox, geometry=geometry, **columns)

    def footprints(self) -> geopandas.GeoDataFrame:
        """Make a table of the patches with their footprints; ``.explore()`` maps it.

        Returns
        -------
        geopandas.GeoDataFrame
            One row per patch: ``roi_id``, ``time``, all properties, and the polygon in EPSG:4326.

        Raises
        ------
        SelectionError
            If the cube was opened without products, so the size of a patch is unknown.
        ValueError
            If the object is no cube, or has lost ``roi`` or ``time``.
        """
        return data.footprints(self._cube)

    def to_dataset(self, products: Sequence[str] | None = None) -> xr.Dataset:
        """Lay the tree out as one flat Dataset.

        Parameters
        ----------
        products : sequence of str, optional
            Any of ``s2l1c``, ``s2l2a``, ``s1``, ``extra``, ``labels``; by default all that are there.

        Returns
        -------
        xarray.Dataset
            One variable per product, (roi, time, band_<product>, y, x), lazy; the catalogue as coordinates.

        Raises
        ------
        KeyError
            If a product is not in the cube; the message lists those that are.
        """
        return data.flatten(data.check_cube(self._object), products)

    def with_layer(self, path: str) -> xr.DataTree:
        """Open a predicted layer beside the cube.

        Parameters
        ----------
        path : path or URL
            Store that `write_layer` has written.

        Returns
        -------
        xarray.DataTree
            The cube with the layer in its group ``predictions``; ``of=`` and ``predicted=`` take its name.

        Raises
        ------
        StoreError
            If there is no layer, or it does not have the cube's patches.
        """
        return data.with_layer(self._cube, path)

    def confusion(
        self,
        predicted: Source,
        reference: Source = "manual_hq",
        scheme: Scheme = "four",
        unclassified: Unclassified = "negative",
    ) -> xr.Dataset:
        """Count the pixels of each patch by reference class and predicted class.

        Parameters
        ----------
        predicted : str, xarray.DataArray or Path
            A label layer or a predicted one; class codes (roi, time, y, x) uint8; or a folder of tifs of these,
            ``ROI_0827/<s2_id_gee>.tif``.
        reference : str, xarray.DataArray or Path
            What is taken as the truth, given like ``predicted``.
        scheme : {"four", "cloud", "shadow", "valid"}
            Classes that are distinguished.
        unclassified : {"negative", "exclude"}
            What a labelled reference pixel without a predicted class counts as: negative, the paper's rule, or nothing.

        Returns
        -------
        xarray.Dataset
            ``counts`` (roi, time, reference, predicted) int64, lazy. Pixels without a label of the reference are not
            counted; in ``four``, unclassified pixels are a fifth column of ``predicted``.

        Raises
        ------
        KeyError
            If the cube has no labels, or no such layer.
        ValueError
            If a layer does not distinguish the classes of the scheme, or an array does not fit the cube.
        """
        return evaluation.confusion(self._cube, predicted, reference, scheme, unclassified)

    def evaluate(
        self,
        reference: Source = "manual_hq",
        split: str | None = "test",
        predicted: Predictions = None,
        by: str | Sequence[str] | None = None,
        unclassified: Unclassified = "negative",
    ) -> AccuracyTable:
        """Compute the paper's table 6: how well algorithms detect cloud, shadow, and either of them.

        Parameters
        ----------
        reference : str, xarray.DataArray or Path
            What is taken as the truth: a label layer, class codes (roi, time, y, x), or a folder of tifs of these.
        split : {"test", "train", "validation", "all"} or None
            Split whose patches are evaluated; None and ``all`` take all patches.
        predicted : str, sequence of str, xarray.DataArray, Path or mapping, optional
            Label layers, class codes (roi, time, y, x), a folder of tifs of these, or a mapping of names to such; by
            default all algorithms of the archive and all predicted layers.
        by : str or sequence of str, optional
            Columns of the catalogue, or ``hexagon``: a table for each of their values.
        unclassified : {"negative", "exclude"}
            What a labelled reference pixel without a predicted class counts as: negative, the paper's rule, or nothing.

        Returns
        -------
        pandas.DataFrame
            In per cent, in full precision, index scheme and layer; it prints like the paper's table. ``attrs`` holds
            the options, the thresholds and the version of the package.

        Raises
        ------
        SelectionError
            If no patch is in the split and has a label of the reference.
        KeyError
            If a layer or a column is unknown.
        ValueError
            If an array does not fit the cube.
        """
        return evaluation.evaluate(self._cube, reference, split, predicted, by, unclassified)

    def per_patch(
        self,
        reference: Source = "manual_hq",
        split: str | None = "test",
        predicted: Predictions = None,
        columns: Sequence[str] = (),
        unclassified: Unclassified = "negative",
    ) -> pd.DataFrame:
        """Compute the accuracies behind table 6, one row per patch, scheme and layer.

        Parameters
        ----------
        reference : str, xarray.DataArray or Path
            What is taken as the truth: a label layer, class codes (roi, time, y, x), or a folder of tifs of these.
        split : {"test", "train", "validation", "all"} or None
            Split whose patches are evaluated; None and ``all`` take all patches.
        predicted : str, sequence of str, xarray.DataArray, Path or mapping, optional
            Label layers, class codes (roi, time, y, x), a folder of tifs of these, or a mapping of names to such; by
            default all algorithms of the archive and all predicted layers.
        columns : sequence of str
            Further columns of the catalogue.
        unclassified : {"negative", "exclude"}
            What a labelled reference pixel without a predicted class counts as: negative, the paper's rule, or nothing.

        Returns
        -------
        pandas.DataFrame
            ``roi_id``, ``time``, ``s2_id_gee``, the further columns, ``scheme``, ``layer``, the shares ``pa``, ``ua``,
            ``boa``, and the pixels ``tp``, ``fn``, ``fp``, ``tn``, ``unlabelled``.

        Raises
        ------
        SelectionError
            If no patch is in the split and has a label of the reference.
        KeyError
            If a layer or a column is unknown.
        ValueError
            If an array does not fit the cube.
        """
        return evaluation.per_patch(self._cube, reference, split, predicted, columns, unclassified)

    def table_one(self) -> pd.Series[float]:
        """Compute the cube's row of the paper's table 1: annotated scenes and pixels, and shares of the classes.

        Returns
        -------
        pandas.Series of float
            ``scenes`` and ``pixels`` with a label of an expert, and the share of each class in them, in per cent.

        Raises
        ------
        SelectionError
            If the cube has no label of an expert.
        """
        return evaluation.table_one(self._cube)

    def claims(self) -> pd.DataFrame:
        """Compare the cube with the paper's claims on Sentinel-1 and cloud coverage: numbers, nothing is judged.

        Returns
        -------
        pandas.DataFrame
            A row per claim: ``patches``, ``within`` (patches for which it holds), and ``lowest``, ``median`` and
            ``highest`` of the value, in days or per cent of cloud.
        """
        return evaluation.claims(self._cube)

    def stream(
        self,
        inputs: Inputs,
        target: str | None = None,
        split: str | None = None,
        batch_size: int = 32,
        seed: int = 0,
        options: StreamOptions | None = None,
    ) -> Stream:
        """Stream batches for training.

        Parameters
        ----------
        inputs : mapping of str to sequence of str or None
            Product -> its bands, None for all: ``{"s2l1c": None, "s1": ["VV", "VH"]}``; the channels, in this order.
        target : str, optional
            Label layer; by default the batches have no target.
        split : {"train", "validation", "test", "all"}, optional
            Published split; by default all patches.
        batch_size : int
            Patches per batch.
        seed : int
            Seed of order, crops and augmentation; equal seeds give equal batches.
        options : StreamOptions, optional
            Crops, padding, augmentation, scaling, order, ranks and memory.

        Returns
        -------
        Stream
            Iterable of dicts: ``pixels`` (batch, channel, y, x), ``target`` (batch, y, x), ``roi`` and ``time``.

        Raises
        ------
        KeyError
            If there is no such product, band or layer; the message lists those that exist.
        SelectionError
            If no patch is left, or the split is not a published one.
        StoreError
            If the tree does not know the store that it was opened from.
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
        """Stream batches as a PyTorch ``IterableDataset``.

        Parameters
        ----------
        inputs : mapping of str to sequence of str or None
            Product -> its bands, None for all: ``{"s2l1c": None, "s1": ["VV", "VH"]}``; the channels, in this order.
        target : str, optional
            Label layer; by default the batches have no target.
        split : {"train", "validation", "test", "all"}, optional
            Published split; by default all patches.
        batch_size : int
            Patches per batch.
        seed : int
            Seed of order, crops and augmentation; equal seeds give equal batches.
        options : StreamOptions, optional
            Crops, padding, augmentation, scaling, order, ranks and memory.

        Returns
        -------
        TorchStream
            Batches of tensors; give it to a ``DataLoader`` with ``batch_size=None``, or to `training.loader`.

        Raises
        ------
        KeyError
            If there is no such product, band or layer; the message lists those that exist.
        SelectionError
            If no patch is left, or the split is not a published one.
        StoreError
            If the tree does not know the store that it was opened from.
        """
        return training.TorchStream(self.stream(inputs, target, split, batch_size, seed, options))

    @property
    def plot(self) -> Plot:
        """Pictures of the cube: ``plot.rgb``, ``plot.labels``, ``plot.overview``; figures of an evaluation."""
        return plotting.Plot(self._cube)
