"""A synthetic scene: land, water, clouds and shadows, as the assets of one image patch.

Only for tests, benchmarks and demonstrations. The statistics are similar to those of Sentinel images, sufficient for
compression tests and figures. Accuracies computed from these layers are not those of the algorithms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudsen12_cube.schema import bands_of

Field = npt.NDArray[np.float32]
Planes = npt.NDArray[Any]
Random = np.random.Generator

COVER = {"cloud-free": 0.0, "almost-clear": 0.12, "low-cloudy": 0.3, "mid-cloudy": 0.55, "cloudy": 0.85}
"""Class of cloud coverage -> fraction of cloud."""

# Reflectance of water, soil, vegetation and cloud, in the order of the L1C bands.
_WATER = (0.10, 0.075, 0.055, 0.03, 0.03, 0.025, 0.022, 0.02, 0.018, 0.01, 0.001, 0.008, 0.006)
_SOIL = (0.12, 0.105, 0.13, 0.17, 0.22, 0.24, 0.26, 0.27, 0.28, 0.10, 0.002, 0.34, 0.27)
_GREEN = (0.09, 0.062, 0.078, 0.048, 0.10, 0.24, 0.30, 0.31, 0.33, 0.11, 0.002, 0.17, 0.08)
_CLOUD = (0.62, 0.60, 0.58, 0.59, 0.60, 0.62, 0.63, 0.63, 0.64, 0.30, 0.03, 0.45, 0.33)
_CIRRUS = 10  # index of B10
_SHADE = 0.45  # fraction of the light in a shadow
_SHIFT = (0.05, -0.035)  # from a cloud to its shadow, as a fraction of the height and width


@dataclass(frozen=True)
class Ground:
    """Properties of an ROI that are equal on all dates."""

    reflectance: Field
    """Reflectance of the L1C bands, (band, y, x)."""
    elevation: Field
    """Elevation in metres, (y, x)."""
    water: npt.NDArray[np.bool_]
    """Water mask, (y, x)."""


@dataclass(frozen=True)
class Scene:
    """One date: the true classes, and the image derived from them."""

    ground: Ground
    """The ROI."""
    label: npt.NDArray[np.uint8]
    """True classes: 0 clear, 1 thick cloud, 2 thin cloud, 3 cloud shadow, (y, x)."""
    cloud: Field
    """Opacity of the cloud, 0 to 1, (y, x)."""
    toa: Field
    """Top of atmosphere reflectance, (band, y, x)."""


def noise(random: Random, size: int, roughness: float) -> Field:
    """Return a fractal field with uniformly distributed values from 0 to 1.

    Parameters
    ----------
    random : numpy.random.Generator
        Source of random numbers.
    size : int
        Number of rows and columns.
    roughness : float
        Exponent of the spectrum; 1 is rough, 3 is smooth.
    """
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1 / size
    white = np.fft.rfft2(random.standard_normal((size, size)))
    field = np.fft.irfft2(white / frequency**roughness, s=(size, size))
    order = np.argsort(field, axis=None, kind="stable")
    ranks = np.empty(size * size, dtype=np.float32)
    ranks[order] = np.linspace(0, 1, size * size, dtype=np.float32)
    return ranks.reshape(size, size)


def make_ground(random: Random, size: int) -> Ground:
    """Return land with water at its lowest points and a mixture of vegetation and soil elsewhere."""
    relief = noise(random, size, 2.4)
    green = np.clip(1.6 * noise(random, size, 1.9) - 0.3, 0, 1)
    water = relief < random.uniform(0.04, 0.18)
    mixed = [g * green + s * (1 - green) for g, s in zip(_GREEN, _SOIL, strict=True)]
    slope = size / 40 * (np.roll(relief, 3, axis=1) - np.roll(relief, -3, axis=1))
    texture = 0.75 + 0.5 * noise(random, size, 1.1) + np.clip(slope, -0.25, 0.25)
    planes = [np.where(water, w, m * texture) for w, m in zip(_WATER, mixed, strict=True)]
    return Ground(np.stack(planes).astype(np.float32), 40 + 900 * relief, water)


def make_scene(random: Random, ground: Ground, coverage: str) -> Scene:
    """Add clouds of a class of coverage, and their shadows, to the ground."""
    size = ground.water.shape[0]
    cover = COVER[coverage]
    height = noise(random, size, 1.75)
    opacity = np.clip((height - (1 - cover)) / max(0.45 * cover, 1e-6), 0, 1) if cover else np.zeros_like(height)
    thick, thin = opacity > 0.45, (opacity > 0.06) & (opacity <= 0.45)
    moved = np.roll(thick, (round(_SHIFT[0] * size), round(_SHIFT[1] * size)), (0, 1))
    shadow = moved & ~thick & ~thin
    label = np.select([thick, thin, shadow], [1, 2, 3], 0).astype(np.uint8)
    light = np.where(shadow, _SHADE, 1.0).astype(np.float32)
    bright = np.array(_CLOUD, np.float32)[:, None, None] * (0.4 + 0.75 * noise(random, size, 1.6))
    alpha = np.minimum(opacity * 1.3, 0.97)
    toa = ground.reflectance * light * (1 - alpha) + bright * alpha
    toa += random.normal(0, 0.0015, toa.shape).astype(np.float32)
    return Scene(ground, label, opacity.astype(np.float32), np.clip(toa, 0.0005, 1.5).astype(np.float32))


def l1c(scene: Scene, dtype: str) -> Planes:
    """Return the stored values of S2L1C, (13, y, x)."""
    return np.round(scene.toa * 1e4).astype(dtype)


def l2a(random: Random, scene: Scene, dtype: str) -> Planes:
    """Return the stored values of S2L2A: surface reflectance, AOT, WVP and true colour image, (17, y, x)."""
    size = scene.label.shape[0]
    haze = np.array([0.07, 0.05, 0.03, 0.02, *[0.005] * 9], np.float32)[:, None, None]
    surface = np.delete(np.clip(scene.toa - haze, 0.0001, None), _CIRRUS, axis=0) * 1e4
    aot = np.full((size, size), 120 + random.integers(0, 80))
    wvp = 900 + 600 * noise(random, size, 2.8)
    colour = np.clip(surface[[3, 2, 1]] * 255 / 3500, 0, 255)
    return np.round(np.concatenate([surface, np.stack([aot, wvp]), colour])).astype(dtype)


def s1(random: Random, ground: Ground) -> Planes:
    """Return backscatter, rounded to 0.25 dB, and incidence angle, float32 (3, y, x)."""
    size = ground.water.shape[0]
    base = np.where(ground.water, -21.0, -10.0) + 3 * ground.reflectance[7] + random.normal(0, 1.4, (size, size))
    angle = np.broadcast_to(np.linspace(36, 37, size), (size, size))
    return np.stack([np.round(base * 4) / 4, np.round((base - 7) * 4) / 4, angle]).astype(np.float32)


def extra_layers(random: Random, scene: Scene) -> dict[str, Planes]:
    """Return the six extra layers by band name, each (y, x)."""
    ground, size = scene.ground, scene.label.shape[0]
    cover = np.where(ground.water, 80, np.where(ground.reflectance[3] < 0.1, 10, 60)).astype(np.uint8)
    return {
        "CDI": np.round(-4000 + 9000 * noise(random, size, 1.2) * (1 - scene.cloud)).astype(np.int16),
        "Shwdirection": np.full((size, size), 14_500 + random.integers(0, 900), np.int16),
        "elevation": np.round(ground.elevation).astype(np.int16),
        "ocurrence": np.where(ground.water, 95, 0).astype(np.int16),
        "LC100": np.where(cover == 80, 200, np.where(cover == 10, 111, 60)).astype(np.uint8),
        "LC10": cover,
    }


def algorithms(scene: Scene) -> dict[str, Planes]:
    """Return the layers of the eight algorithms by band name: the true classes in their codes, shifted or dilated."""
    label, water = scene.label, scene.ground.water
    grown = np.maximum(label == 1, np.roll(label == 1, 2, axis=1))
    percent = np.round(100 * np.clip(scene.cloud * 1.5, 0, 1)).astype(np.uint8)
    land = np.where(water, 6, np.where(scene.ground.reflectance[7] > 0.26, 4, 5))
    kappa = np.array([1, 4, 3, 2], np.uint8)
    return {
        "sen2cor": np.select([grown, label == 2, label == 3], [9, 10, 3], land).astype(np.uint8),
        "fmask": np.select([label == 1, label == 3, water], [4, 2, 1], 0).astype(np.uint8),
        "s2cloudless": percent,
        "qa60": np.select([grown, label == 2], [1024, 2048], 0).astype(np.uint16),
        "CD-FCNN-RGBI": np.roll(percent, 1, axis=0),
        "CD-FCNN-RGBISWIR": np.roll(percent, -1, axis=1),
        "kappamask_L1C": kappa[np.roll(label, 1, axis=1)],
        "kappamask_L2A": kappa[label],
    }


def scribbles(random: Random, label: npt.NDArray[np.uint8]) -> Planes:
    """Return some strokes of the true classes in the codes of manual_sc; 99 elsewhere."""
    size = label.shape[0]
    drawn = np.full((size, size), 99, np.uint8)
    codes = np.array([[0, 0], [1, 2], [3, 4], [5, 6]], np.uint8)  # border and centre of each class
    for _ in range(12):
        row, column = random.integers(0, size, 2)
        stroke = np.s_[row : row + max(size // 80, 1), column : column + size // 6]
        drawn[stroke] = codes[label[stroke], int(random.integers(0, 2))]
    return drawn


def true_colour(scene: Scene) -> Planes:
    """Return the thumbnail: red, green and blue as uint8, (3, y, x)."""
    bands = bands_of("s2l1c")
    rows = [bands.index(band) for band in ("B4", "B3", "B2")]
    shown: Planes = np.clip(scene.toa[rows] * 255 / 0.35, 0, 255).astype(np.uint8)
    return shown
