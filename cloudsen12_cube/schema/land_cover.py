"""Names of the codes of land cover: ESA WorldCover (LC10, property ``land_cover``) and Copernicus 100 m (LC100)."""

from __future__ import annotations

WORLD_COVER = {
    10: "Tree cover",
    20: "Shrubland",
    30: "Grassland",
    40: "Cropland",
    50: "Built-up",
    60: "Bare / sparse vegetation",
    70: "Snow and ice",
    80: "Permanent water bodies",
    90: "Herbaceous wetland",
    95: "Mangroves",
    100: "Moss and lichen",
}
"""Code -> name, from the ESA WorldCover 10 m product user manual, v100 (2021)."""

_FORESTS = (
    *("evergreen needle leaf", "evergreen broad leaf", "deciduous needle leaf", "deciduous broad leaf"),
    *("mixed type", "unknown type"),
)

COPERNICUS_100M = {
    0: "Unknown",
    20: "Shrubs",
    30: "Herbaceous vegetation",
    40: "Cultivated and managed vegetation / agriculture",
    50: "Urban / built up",
    60: "Bare / sparse vegetation",
    70: "Snow and ice",
    80: "Permanent water bodies",
    90: "Herbaceous wetland",
    100: "Moss and lichen",
    **{111 + i: f"Closed forest, {kind}" for i, kind in enumerate(_FORESTS)},
    **{121 + i: f"Open forest, {kind}" for i, kind in enumerate(_FORESTS)},
    200: "Oceans, seas",
}
"""Code -> name, from the product user manual of Copernicus Global Land Cover 100 m, collection 3 (2020)."""
