"""The flat view of a cube, and one patch of it as a raster that knows where it lies.

A tree has a group a product because one Dataset cannot hold several ``band`` axes. The flat view gives each product an
axis of its own, ``band_<product>``, and a patch is that view at one roi and time: two dims less, and in their place the
patch's own reference system, since images of one ROI may lie in two UTM zones. Nothing here reads a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from cloudsen12_cube.dataset.open import first_line
from cloudsen12_cube.dataset.pixel_grid import pixel_axes
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.format import DONE, fill_value, status_name
from cloudsen12_cube.schema import PRODUCTS, did_you_mean, parse_time

GRID_MAPPING = "spatial_ref"
TimeLabel = int | str | date | np.datetime64
"""Label on the dim time, or a date of acquisition."""
_ABOUT = ("Conventions", "title", "references", "citation", "institution", "source", "history")
"""Attributes of a cube that hold for a patch too; the others tell of all footprints, in degrees."""
_LISTED = 10  # names in an error message


@dataclass(frozen=True)
class Point:
    """A point in degrees of WGS 84."""

    longitude: float
    latitude: float


def point_of(lon: float | None, lat: float | None) -> Point | None:
    """Return the point of a longitude and a latitude, None without them; one alone is a ValueError."""
    if (lon is None) != (lat is None):
        raise ValueError(f"lon is {lon} and lat is {lat}: give both")
    return None if lon is None or lat is None else Point(lon, lat)


def flatten(cube: xr.DataTree, products: Sequence[str] | None = None) -> xr.Dataset:
    """Lay a tree out as one Dataset.

    Parameters
    ----------
    cube : xarray.DataTree
        Open cube.
    products : sequence of str, optional
        Groups to take; by default all that are there.

    Returns
    -------
    xarray.Dataset
        A variable a product, (roi, time, band_<product>, y, x). What belongs to a product bears its name:
        ``status_<product>``, ``scale_<product>``. The columns of the catalogue are coordinates, there once.

    Raises
    ------
    KeyError
        If a product is not in the cube; the message lists those that are.
    """
    for name in products or ():
        if name not in cube.children:
            raise KeyError(f"no product {name!r} in this cube; it has {', '.join(cube.children)}")
    catalogue = cube.to_dataset()
    catalogue = catalogue.set_coords(list(catalogue.data_vars))
    names = [name for name in cube.children if products is None or name in products]
    views = [_product_view(cube[name].to_dataset(), name, catalogue) for name in names]
    try:  # all come from one tree, so their coordinates are the same: comparing them would read them
        flat = xr.merge([catalogue, *views], join="exact", compat="override", combine_attrs="override")
    except xr.AlignmentError as error:
        raise SelectionError(
            f"{', '.join(names)} do not hold the same pixels ({first_line(error)}): select the same rows and columns "
            "of all products, as in cube.isel(y=slice(0, 64), x=slice(0, 64)), or name one product"
        ) from None
    return flat.drop_encoding()


def _product_view(dataset: xr.Dataset, product: str, catalogue: xr.Dataset) -> xr.Dataset:
    shared = [name for name in dataset.coords if name in catalogue.coords and name not in dataset.indexes]
    own = [name for name, array in dataset.coords.items() if "band" in array.dims or name == "status"]
    return dataset.drop_vars(shared).rename({name: f"{name}_{product}" for name in own})


def select_patch(
    part: xr.DataTree | xr.Dataset,
    name: str | None = None,
    time: TimeLabel | None = None,
    roi: str | None = None,
    point: Point | None = None,
) -> xr.Dataset:
    """Select one patch.

    Parameters
    ----------
    part : xarray.DataTree or xarray.Dataset
        A cube, which gives all products of the patch; a product's Dataset, whose dim stays ``band``; or the flat view.
    name : str, optional
        ROI id, ``ROI_0827``, or the image id ``s2_id_gee``.
    time : int, str or numpy.datetime64, optional
        Label on ``time``, or the date of acquisition. An ROI with one patch needs none.
    roi : str, optional
        ROI id, for an image id that several ROIs share.
    point : Point, optional
        The ROI with the nearest centre is taken; without ``time``, its first patch.

    Returns
    -------
    xarray.Dataset
        A variable a product, (band_<product>, y, x), as lazy as the tree's; ``x`` and ``y`` in metres, at the centres
        of the pixels; ``spatial_ref`` with the patch's own reference system and transform; the catalogue as scalar
        coordinates. Nodata is the store's fill, so what a reprojection adds outside never reads as clear. Products
        whose pixels are not there are left out and named in the attribute ``missing_products``.

    Raises
    ------
    KeyError
        If there is no such ROI, time or image id; the message says what there is.
    ValueError
        If more than one patch fits.
    SelectionError
        If no product of the patch is there, or the catalogue does not say where it lies.
    """
    catalogue = part.to_dataset() if isinstance(part, xr.DataTree) else part
    if name is None:
        name = _nearest(catalogue, point)
        time = _first_time(catalogue, name) if time is None else time
    elif point is not None:
        raise ValueError(f"both {name!r} and a longitude and latitude are given: give one of them")
    view = flatten(part) if isinstance(part, xr.DataTree) else part
    return _patch(view, _locate(catalogue, _Query(name, time, roi)))


@dataclass(frozen=True)
class _Query:
    """The patch that is asked for."""

    name: str
    time: TimeLabel | None
    roi: str | None


@dataclass(frozen=True)
class _Position:
    """Where a patch lies in the dims roi and time."""

    roi: int
    time: int


def _locate(catalogue: xr.Dataset, asked: _Query) -> _Position:
    """Find the one patch that fits."""
    rois: npt.NDArray[Any] = catalogue["roi"].values.astype(object)
    ids: npt.NDArray[Any] = catalogue["s2_id_gee"].transpose("roi", "time").values.astype(object)
    fits = ids != ""  # a place on the grid that no row of the catalogue names
    for wanted in (asked.name if asked.name in rois or asked.name.startswith("ROI") else None, asked.roi):
        if wanted is not None:
            fits = fits & _is_roi(rois, wanted)[:, None]
    if asked.name not in rois:
        if not asked.name or asked.name not in ids:
            raise KeyError(f"no image id {asked.name!r} among the {np.count_nonzero(ids != '')} patches of this cube")
        fits = fits & (ids == asked.name)
    at_time = fits if asked.time is None else fits & _is_at(catalogue, asked.time)
    if np.count_nonzero(at_time) != 1:
        raise _not_one_patch(catalogue, asked, fits, at_time)
    row, column = np.argwhere(at_time)[0]
    return _Position(int(row), int(column))


def _is_at(catalogue: xr.Dataset, time: TimeLabel) -> npt.NDArray[np.bool_]:
    """Whether the patches (roi, time) have a label on time, or were acquired on a date."""
    if isinstance(time, int | np.integer):
        found: npt.NDArray[np.bool_] = catalogue["time"].values == time
        return found
    span = parse_time(time)
    acquired = catalogue["datetime"].transpose("roi", "time").values.astype("M8[us]")
    within: npt.NDArray[np.bool_] = (acquired >= span.first) & (acquired <= span.last)
    return within


def _nearest(catalogue: xr.Dataset, point: Point | None) -> str:
    """Return the ROI whose centre is nearest to a point on the sphere."""
    if point is None:
        raise ValueError("no patch is named: give an ROI id, an image id, or lon= and lat=")
    if not (-180 <= point.longitude <= 360 and -90 <= point.latitude <= 90):
        raise ValueError(f"lon={point.longitude}, lat={point.latitude} is no point: give degrees of WGS 84")
    lon, lat = (catalogue[name].transpose("roi", "time").values for name in ("longitude", "latitude"))
    near = np.radians(lat), np.radians(point.latitude)
    cosine = np.sin(near[0]) * np.sin(near[1]) + np.cos(near[0]) * np.cos(near[1]) * np.cos(
        np.radians(lon - point.longitude)
    )
    if np.isnan(cosine).all():
        raise SelectionError("the catalogue has no centre of a patch: name an ROI or an image")
    return str(catalogue["roi"].values[np.unravel_index(np.nanargmax(cosine), cosine.shape)[0]])


def _first_time(catalogue: xr.Dataset, roi: str) -> int:
    ids = catalogue["s2_id_gee"].sel(roi=roi).values
    return int(catalogue["time"].values[np.flatnonzero(ids != "")[0]])


def _is_roi(rois: npt.NDArray[Any], wanted: str) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = rois == wanted
    if not found.any():
        raise KeyError(f"no ROI {wanted!r} among the {len(rois)} of this cube{did_you_mean(wanted, list(rois))}")
    return found


def _not_one_patch(
    catalogue: xr.Dataset, asked: _Query, fits: npt.NDArray[np.bool_], at_time: npt.NDArray[np.bool_]
) -> Exception:
    """Return why no patch fits, or several: by name and ROI alone, and at the time as well."""
    rois, times = catalogue["roi"].values, catalogue["time"].values
    if not fits.any():
        missing = f"is not an image of {asked.roi}" if asked.roi else "has no patch in this cube's catalogue"
        return KeyError(f"{asked.name} {missing}")
    if not at_time.any():
        found = fits.any(axis=0)
        dates = catalogue["datetime"].transpose("roi", "time").values.astype("M8[D]")
        by_date = not isinstance(asked.time, int | np.integer)
        there = ", ".join(map(str, dates[fits] if by_date else times[found]))
        return KeyError(f"no time {asked.time} of {asked.name}; it has {there}")
    places = [f"{rois[i]} time {times[j]}" for i, j in np.argwhere(at_time)[:_LISTED]]
    more = ", ..." if np.count_nonzero(at_time) > _LISTED else ""
    option = "time=" if asked.name in rois else "roi="
    return ValueError(f"{asked.name} is more than one patch ({', '.join(places)}{more}): give {option} too")


def _patch(view: xr.Dataset, place: _Position) -> xr.Dataset:
    patch = view.isel(roi=place.roi, time=place.time).drop_encoding()
    patch.attrs = {name: view.attrs[name] for name in _ABOUT if name in view.attrs}
    return _placed(_done(patch))


def _done(patch: xr.Dataset) -> xr.Dataset:
    """Leave out the products whose pixels are not there, which would read as fill."""
    single = [name for name in PRODUCTS if name in patch.data_vars]
    flat = [name for name in PRODUCTS if f"status_{name}" in patch.coords]  # also of a variable with another name
    names = flat or single
    status = {name: int(patch[f"status_{name}" if flat else "status"]) for name in names}
    lacking = [name for name in names if status[name] != DONE]
    text = ", ".join(f"{name} ({status_name(status[name])})" for name in lacking)
    if len(lacking) == len(names):
        raise SelectionError(f"{_patch_name(patch)} has no pixels in this cube: {text or 'it has no product'}")
    patch = patch.drop_dims([f"band_{name}" for name in lacking], errors="ignore")
    patch = patch.drop_vars(lacking, errors="ignore")  # whose bands a selection has left out
    return patch.assign_attrs(missing_products=text) if text else patch


def _patch_name(patch: xr.Dataset) -> str:
    return f"{patch['roi'].item()} time {patch['time'].item()} ({patch['s2_id_gee'].item()})"


def _placed(patch: xr.Dataset) -> xr.Dataset:
    """Add coordinates in metres, the reference system, and a nodata value that no pixel contradicts."""
    grid = _grid(patch)
    patch = patch.drop_vars("proj_transform").assign_coords(grid.coords)
    for name, array in patch.data_vars.items():
        if name in PRODUCTS:
            array.attrs |= _raster_attributes(str(name), array)
        array.encoding["grid_mapping"] = GRID_MAPPING
    return patch


def _raster_attributes(product: str, array: xr.DataArray) -> dict[str, Any]:
    """Attributes by which rioxarray writes nodata and names of bands."""
    attributes: dict[str, Any] = {"_FillValue": array.dtype.type(fill_value(product, str(array.dtype)))}
    names = next((array[dim].values for dim in array.dims if dim in (f"band_{product}", "band")), None)
    if names is None or product == "labels":  # whose layers are taken one at a time: a list would not fit one band
        return attributes
    return attributes | {"long_name": [str(name) for name in names]}


def _grid(patch: xr.Dataset) -> xr.Dataset:
    """Make the coordinates alone, so that no pixel is copied on the way."""
    import rioxarray  # noqa: F401  registers .rio; takes as long to import as xarray

    epsg, transform = int(patch["proj_epsg"]), patch["proj_transform"].values
    if not epsg or not np.isfinite(transform).all():
        raise SelectionError(f"the location of {_patch_name(patch)} is unknown: it has no proj_epsg or proj_transform")
    a, b, c, d, e, f = (float(number) for number in transform)
    if b or d:
        raise SelectionError(f"the grid of {_patch_name(patch)} is rotated: it has no x and y of its own")
    rows, columns = pixel_axes(patch)
    x, y = c + a * (patch["x"].values + 0.5), f + e * (patch["y"].values + 0.5)
    grid: xr.Dataset = xr.Dataset(coords={"y": y, "x": x}).rio.write_crs(epsg, grid_mapping_name=GRID_MAPPING)
    grid = grid.rio.write_coordinate_system()
    west, north = c + a * columns.start, f + e * rows.start
    grid[GRID_MAPPING].attrs["GeoTransform"] = f"{west} {a * columns.step} {b} {north} {d} {e * rows.step}"
    for axis in ("x", "y"):
        grid[axis].attrs["units"] = "m"
    return grid
