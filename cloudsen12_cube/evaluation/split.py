"""Splits without leakage: whole hexagons of equal area go to train or to test, and the distance between the two.

Neighbouring ROIs look alike, and the dates of one ROI show the same ground, so blocks of land are drawn, not patches:
the rule of Aybar et al. 2022 (doi:10.1038/s41597-022-01878-2), with hexagons of 50,000 km2 in Goode's homolosine
projection, which the authors' maps use too: it keeps areas, and its cuts lie in the oceans, so few blocks are torn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj
import xarray as xr

HEXAGON_KM2 = 50_000.0
CELL_DEGREES = 3.5
"""Width of a cell of the published split, in degrees of longitude."""

# Lattice of the published split: centre of cell 0/0, and the offset of every other row.
_CELL_LATITUDE, _CELL_LONGITUDE = -54.72539, 2.4145
_CELL_ROW, _CELL_SHIFT = 3.031088913, -1.75
_GOODE = "+proj=igh +datum=WGS84 +units=km"
_EARTH_KM = 6371.0088  # mean radius; good to 0.6 % of a distance
_ROWS = 1000

Floats = npt.NDArray[np.float64]


def hexagons(longitude: npt.ArrayLike, latitude: npt.ArrayLike, area: float = HEXAGON_KM2) -> npt.NDArray[Any]:
    """Name the hexagon of each location.

    Parameters
    ----------
    longitude, latitude : array of float, any shape
        Degrees, WGS 84.
    area : float
        Area of a hexagon in square kilometres.

    Returns
    -------
    numpy.ndarray of str objects, same shape
        ``column/row`` in a grid with hexagon 0/0 around 0 degrees east and north; empty where a coordinate is NaN.

    Raises
    ------
    ValueError
        If the area is not positive.
    """
    if not area > 0:
        raise ValueError(f"the area is {area}: give square kilometres above 0")
    lon, lat = np.asarray(longitude, dtype=np.float64), np.asarray(latitude, dtype=np.float64)
    known = np.isfinite(lon) & np.isfinite(lat)
    project = pyproj.Transformer.from_crs("EPSG:4326", _GOODE, always_xy=True)
    x, y = project.transform(lon[known], lat[known])
    names = np.full(lon.shape, "", dtype=object)
    names[known] = [f"{column}/{row}" for column, row in zip(*_hexagon(x, y, area), strict=True)]
    return names


def _hexagon(x: Floats, y: Floats, area: float) -> tuple[list[int], list[int]]:
    """Round locations to the centres of pointy-topped hexagons, in axial coordinates."""
    side = np.sqrt(area * 2 / (3 * np.sqrt(3)))
    exact = np.stack([(x * np.sqrt(3) - y) / (3 * side), y * 2 / (3 * side)])
    exact = np.concatenate([exact, -exact.sum(axis=0, keepdims=True)])  # cube coordinates: three axes that sum to 0
    rounded = np.rint(exact)
    worst = np.abs(rounded - exact).argmax(axis=0)
    rounded[worst, np.arange(worst.size)] -= rounded.sum(axis=0)  # the axis rounded most follows from the others
    return rounded[0].astype(int).tolist(), rounded[1].astype(int).tolist()


def published_cells(longitude: npt.ArrayLike, latitude: npt.ArrayLike) -> npt.NDArray[Any]:
    """Name the cell of the published split of each location.

    The published test set consists of whole cells of this lattice: hexagons in plain longitude and latitude, 3.5
    degrees wide. They are not the equal-area hexagons of the paper's text, see `hexagons`.

    Parameters
    ----------
    longitude, latitude : array of float, any shape
        Degrees, WGS 84.

    Returns
    -------
    numpy.ndarray of str objects, same shape
        ``column/row``; empty where a coordinate is NaN.
    """
    lon, lat = np.asarray(longitude, dtype=np.float64), np.asarray(latitude, dtype=np.float64)
    known = np.isfinite(lon) & np.isfinite(lat)
    below = np.floor((lat[known] - _CELL_LATITUDE) / _CELL_ROW)
    rows = np.stack([below, below + 1])  # the nearest centre is in one of the two adjacent rows
    west = _CELL_LONGITUDE + _CELL_SHIFT * (rows % 2)
    columns = np.rint((lon[known] - west) / CELL_DEGREES)
    east, north = west + CELL_DEGREES * columns, _CELL_LATITUDE + _CELL_ROW * rows
    nearest = ((lon[known] - east) ** 2 + (lat[known] - north) ** 2).argmin(axis=0)
    chosen = np.arange(nearest.size)
    names = np.full(lon.shape, "", dtype=object)
    pairs = zip(columns[nearest, chosen].astype(int), rows[nearest, chosen].astype(int), strict=True)
    names[known] = [f"{column}/{row}" for column, row in pairs]
    return names


def rois_of(cube: xr.DataTree) -> pd.DataFrame:
    """List the ROIs of a cube with the properties that a split needs.

    Parameters
    ----------
    cube : xarray.DataTree
        Opened cube.

    Returns
    -------
    pandas.DataFrame
        Index ``roi_id``; ``longitude``, ``latitude``, ``difficulty`` (mean of the dates; NaN without a label),
        ``label_type`` and ``split`` as published.
    """
    root = cube.to_dataset()
    values = {
        name: pd.DataFrame(root[name].transpose("roi", "time").values)
        for name in ("longitude", "latitude", "difficulty")
    }
    longitude = values["longitude"]
    across = longitude.max(axis=1) - longitude.min(axis=1) > 180  # dates on both sides of the antimeridian
    values["longitude"] = longitude.where(~(longitude.lt(0).mul(across, axis=0)), longitude + 360)
    columns: dict[str, Any] = {name: table.mean(axis=1).to_numpy() for name, table in values.items()}
    columns["longitude"] = np.where(columns["longitude"] > 180, columns["longitude"] - 360, columns["longitude"])
    columns |= {name: [str(value) for value in root[name].values] for name in ("label_type", "split")}
    index = pd.Index([str(roi) for roi in root["roi"].values], name="roi_id")
    return pd.DataFrame(columns, index=index)


def block_split(rois: pd.DataFrame, share: float = 0.1, seed: int = 0, area: float = HEXAGON_KM2) -> pd.Series[str]:
    """Draw a new split: random hexagons, stratified by difficulty.

    This is the rule of the paper's text. It does not reproduce the published split, which is made of other cells: see
    `published_cells`.

    Parameters
    ----------
    rois : pandas.DataFrame
        One row per ROI, indexed by its id; columns ``longitude``, ``latitude`` and ``difficulty``, as `rois_of` gives.
    share : float
        Share of the ROIs that go to test, as close as whole hexagons allow.
    seed : int
        Seed of the random numbers; equal seeds give equal splits, whatever the order of the rows.
    area : float
        Area of a hexagon in square kilometres.

    Returns
    -------
    pandas.Series of str
        ``train`` or ``test`` for each ROI, in the order of ``rois``. All ROIs of a hexagon are in the same split.

    Raises
    ------
    ValueError
        If the share is not between 0 and 1, an ROI is listed twice, or has no longitude and latitude.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}: give the share of test as a number between 0 and 1, such as 0.1")
    if rois.index.has_duplicates:
        raise ValueError(f"{rois.index[rois.index.duplicated()][0]} is listed twice: give one row an ROI")
    table = pd.DataFrame({"hexagon": hexagons(rois["longitude"], rois["latitude"], area)}, index=rois.index)
    if (table["hexagon"] == "").any():
        raise ValueError(f"{table.index[table['hexagon'] == ''][0]} has no longitude and latitude")
    table["difficulty"] = rois["difficulty"].to_numpy(dtype=np.float64)
    blocks = table.groupby("hexagon").agg(size=("difficulty", "size"), difficulty=("difficulty", "mean"))
    chosen = _draw(blocks, share, np.random.default_rng(seed))
    names = ["test" if hexagon in chosen else "train" for hexagon in table["hexagon"]]
    return pd.Series(names, index=rois.index, name="split")


def _draw(blocks: pd.DataFrame, share: float, random: np.random.Generator) -> set[str]:
    """Draw hexagons of each rounded difficulty; the remainder that whole hexagons leave carries over to the next."""
    strata = blocks["difficulty"].round().fillna(0)
    chosen: set[str] = set()
    remainder = 0.0
    for _, stratum in blocks.groupby(strata):
        remainder += share * stratum["size"].sum()
        for name in random.permutation(sorted(stratum.index)):
            size = int(stratum["size"][name])
            if abs(remainder - size) < abs(remainder):
                chosen.add(str(name))
                remainder -= size
    return chosen


def leakage(rois: pd.DataFrame, split: pd.Series[str], one: str = "train", other: str = "test") -> pd.DataFrame:
    """Measure the distance between two splits: the nearest ROI of ``one`` to each ROI of ``other``.

    Parameters
    ----------
    rois : pandas.DataFrame
        One row per ROI; columns ``longitude`` and ``latitude``.
    split : pandas.Series of str
        Split of each row, in the same order.
    one, other : str
        Names of the two splits.

    Returns
    -------
    pandas.DataFrame
        Index ``roi_id`` of ``other``, nearest first; ``nearest``, an ROI of ``one``, and ``km``, the great-circle
        distance of their centres. The first row is the split's minimum distance; patches overlap below 7.2 km at most.
        ``cell`` and ``hexagon`` are the ROI's cell of the published lattice and of the paper's text (`published_cells`,
        `hexagons`), ``cell_shared`` and ``hexagon_shared`` whether an ROI of ``one`` is in it, too.

    Raises
    ------
    ValueError
        If one of the two is empty.
    """
    names, ids, points = split.to_numpy(), rois.index.to_numpy(), _unit_vectors(rois)
    here, there = np.flatnonzero(names == other), np.flatnonzero(names == one)
    if not here.size or not there.size:
        raise ValueError(f"no ROI is in {other if not here.size else one!r}; there are {', '.join(sorted(set(names)))}")
    blocks = np.array_split(here, -(-len(here) // _ROWS))  # bounds the memory of the matrix of cosines
    nearest = np.concatenate([(points[block] @ points[there].T).argmax(axis=1) for block in blocks])
    chord = np.linalg.norm(points[here] - points[there[nearest]], axis=1)
    table = pd.DataFrame(
        {"nearest": ids[there[nearest]], "km": 2 * _EARTH_KM * np.arcsin(np.minimum(chord / 2, 1))},
        index=pd.Index(ids[here], name="roi_id"),
    )
    location = rois["longitude"], rois["latitude"]
    for name, cells in (("cell", published_cells(*location)), ("hexagon", hexagons(*location))):
        table[name], table[f"{name}_shared"] = cells[here], np.isin(cells[here].astype(str), cells[there].astype(str))
    return table.sort_values("km", kind="stable")


def _unit_vectors(rois: pd.DataFrame) -> Floats:
    """Map locations to the unit sphere, shape (roi, 3): chords need no special case at the antimeridian."""
    lon, lat = (np.radians(rois[name].to_numpy(dtype=np.float64)) for name in ("longitude", "latitude"))
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
