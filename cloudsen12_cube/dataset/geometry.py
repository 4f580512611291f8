"""Footprints of the patches as a table of polygons, and the patches inside a geometry.

The footprint is computed from each patch's own reference system and transform, which are what places its pixels;
the centre is the catalogue's longitude and latitude.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import shapely.geometry
import xarray as xr

from cloudsen12_cube.dataset.parts import catalogue_rows, catalogue_values
from cloudsen12_cube.dataset.pixel_grid import PixelAxis, cube_axes
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.schema import PLUS, PROPERTIES, Mask, to_degrees, transform_text

WGS84 = "EPSG:4326"
_CORNERS = np.array([(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)])
"""Which edge of the columns and of the rows each corner lies on: counterclockwise, as GeoJSON asks, from the upper
left."""


def footprints(cube: xr.DataTree) -> geopandas.GeoDataFrame:
    """Make a table of the patches.

    Parameters
    ----------
    cube : xarray.DataTree
        Open cube with at least one product.

    Returns
    -------
    geopandas.GeoDataFrame
        A row a patch of the catalogue, whatever its status, in the order of the cube: ``roi_id``, ``time``, every
        property under its own name, and the footprint in EPSG:4326, of the rows and columns that a selection has left.
        Its edges are straight in degrees; those of the
        pixels are straight in metres, which differs by 2 m on a patch of 5 km at 70 degrees. A patch across the
        antimeridian is split there into two polygons. The geometry of a patch at an
        unknown location is missing.
    """
    root = cube.to_dataset()
    there: Mask = catalogue_values(root, "s2_id_gee") != ""
    transforms = catalogue_values(root, "proj_transform")[there]
    names = ["roi_id", "time", *(row.name for row in PROPERTIES), *(row.name for row in PLUS if row.name in root)]
    frame = catalogue_rows(root, there, [name for name in names if name != "proj_transform"])
    frame.insert(names.index("proj_transform"), "proj_transform", _texts(transforms))
    shapes = _polygons(frame["proj_epsg"].to_numpy(), transforms, cube_axes(cube))
    return geopandas.GeoDataFrame(frame, geometry=shapes, crs=WGS84)


def _texts(transforms: npt.NDArray[np.float64]) -> list[str]:
    """Write transforms as the published tables do; empty where unknown."""
    return [transform_text(six) if np.isfinite(six).all() else "" for six in transforms]


def _polygons(
    epsg: npt.NDArray[np.integer[Any]], transforms: npt.NDArray[np.float64], axes: tuple[PixelAxis, PixelAxis]
) -> npt.NDArray[np.object_]:
    """Footprints of patches (n); one projection of all corners for each reference system."""
    a, b, c, d, e, f = (column[:, None] for column in transforms.T)
    rows, columns = (np.array(axis.edges) for axis in axes)
    across, down = columns[_CORNERS[:, 0]], rows[_CORNERS[:, 1]]
    x, y = a * across + b * down + c, d * across + e * down + f
    polygons = np.full(len(epsg), None, dtype=object)
    known = np.isfinite(transforms).all(axis=1)
    for code in np.unique(epsg[known & (epsg != 0)]):
        here = known & (epsg == code)
        ring = np.stack(to_degrees(int(code)).transform(x[here], y[here]), axis=-1)
        polygons[here] = _rings(ring)
    return polygons


def _rings(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.object_]:
    """Polygons of corners (n, 5, 2) in degrees; what jumps from 180 to -180 is laid on end and cut there."""
    corners = corners.copy()
    crossing = np.ptp(corners[..., 0], axis=1) > 180
    west = crossing[:, None] & (corners[..., 0] < 0)
    corners[..., 0] += np.where(west, 360.0, 0.0)
    polygons: npt.NDArray[np.object_] = shapely.polygons(corners)
    for index in np.flatnonzero(crossing):
        polygons[index] = _cut(polygons[index])
    return polygons


def _cut(polygon: shapely.Polygon) -> shapely.Polygon | shapely.MultiPolygon:
    near = shapely.intersection(polygon, shapely.box(0, -90, 180, 90))
    far = shapely.transform(shapely.intersection(polygon, shapely.box(180, -90, 360, 90)), lambda at: at - (360, 0))
    parts = [part for part in (near, far) if part.area > 0]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def inside(cube: xr.DataTree, geometry: Any) -> npt.NDArray[np.bool_]:
    """Find the patches whose centre is in a geometry, or on its edge.

    Parameters
    ----------
    cube : xarray.DataTree
        Open cube with the dimensions roi and time.
    geometry : shapely geometry, or anything with ``__geo_interface__``, or GeoJSON as a mapping
        In degrees of longitude and latitude. Tables of geopandas are brought there from their own reference system.
        Longitudes may run on beyond 180, as for a box from 170 to 190.

    Returns
    -------
    numpy.ndarray of bool, shape (roi, time)
        False where the catalogue has no patch or no centre.

    Raises
    ------
    SelectionError
        If it is no geometry, is empty, or does not lie in degrees.
    """
    shape = _shape(geometry)
    root = cube.to_dataset()
    longitude, latitude = catalogue_values(root, "longitude"), catalogue_values(root, "latitude")
    held = np.zeros(longitude.shape, dtype=bool)
    known = np.isfinite(longitude) & np.isfinite(latitude)
    for turn in (-360, 0, 360):
        held[known] |= shapely.intersects_xy(shape, longitude[known] + turn, latitude[known])
    return held


def _shape(geometry: Any) -> shapely.Geometry:
    shape = _read(geometry)
    if shape.is_empty:
        raise SelectionError("the geometry is empty: give one that can hold a patch")
    west, south, east, north = shape.bounds
    if west < -360 or east > 360 or south < -90 or north > 90:
        raise SelectionError(
            f"the geometry reaches from {west:g}, {south:g} to {east:g}, {north:g}: give longitudes and latitudes"
        )
    return shape


def _read(geometry: Any) -> shapely.Geometry:
    if isinstance(geometry, geopandas.GeoDataFrame | geopandas.GeoSeries):
        return (geometry.to_crs(WGS84) if geometry.crs else geometry).union_all()
    if isinstance(geometry, shapely.Geometry):
        return geometry
    mapping = geometry if isinstance(geometry, Mapping) else getattr(geometry, "__geo_interface__", None)
    if not isinstance(mapping, Mapping):
        raise SelectionError(f"no geometry: {geometry!r}; give a shapely geometry or GeoJSON in degrees")
    if mapping.get("type") == "FeatureCollection":
        return shapely.union_all([_read(feature) for feature in mapping["features"]])
    return _of(mapping["geometry"] if mapping.get("type") == "Feature" else mapping)


def _of(mapping: Mapping[str, Any]) -> shapely.Geometry:
    try:
        return shapely.geometry.shape(mapping)
    except (AttributeError, KeyError, TypeError, ValueError, shapely.errors.ShapelyError) as error:
        raise SelectionError(f"no geometry: {mapping!r} ({error}); give GeoJSON in degrees") from None
