"""The four classes, the superclasses, and the conversion of each label layer to classes.

A layer is a row of ``LAYERS``, a class a row of ``CLASSES``. Sources: Aybar et al. 2022
(doi:10.1038/s41597-022-01878-2), table 3 (classes, superclasses, priorities) and table 5 (codes of the algorithms).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

UNLABELLED = 255
"""Class code of an unlabelled pixel. Never 0: 0 is clear."""

UNLABELLED_COLOR = "#D4D4D4"
"""Grey, the colour of unlabelled pixels; see `CloudClass.color`."""

Superclass = Literal["cloud", "valid"]
ClassName = Literal["clear", "thick_cloud", "thin_cloud", "cloud_shadow"]
Scheme = Literal["four", "cloud", "shadow", "valid"]


@dataclass(frozen=True)
class CloudClass:
    """One of the four classes of the paper's table 3."""

    code: int
    name: str
    cloud: bool
    """In the superclass "cloud", else "non-cloud"."""
    valid: bool
    """In the superclass "valid", else "invalid"."""
    priority: int
    """Rank where classes overlap: 1 is the highest, 4 the lowest."""
    color: str
    """Hexadecimal RGB, from the palette of Okabe and Ito, which is safe for colour-blind readers.

    The CIE lightness is 100, 85 (unlabelled), 70, 54 and 0, so the five colours also differ in a greyscale print.
    Orange and sky blue would not: the lightness of both is 70. Shadow is dark, as in the image.
    """


CLASSES = (
    CloudClass(0, "clear", cloud=False, valid=True, priority=4, color="#FFFFFF"),
    CloudClass(1, "thick_cloud", cloud=True, valid=False, priority=1, color="#D55E00"),
    CloudClass(2, "thin_cloud", cloud=True, valid=False, priority=3, color="#56B4E9"),
    CloudClass(3, "cloud_shadow", cloud=False, valid=False, priority=2, color="#000000"),
)

SUPERCLASSES: dict[Superclass, tuple[str, str]] = {"cloud": ("non_cloud", "cloud"), "valid": ("valid", "invalid")}

_CLEAR, _THICK, _THIN, _SHADOW = (c.code for c in CLASSES)
_CLOUD_ONLY: frozenset[Scheme] = frozenset({"cloud"})
_ALL: frozenset[Scheme] = frozenset({"four", "cloud", "shadow", "valid"})


@dataclass(frozen=True)
class Threshold:
    """Conversion of a cloud probability to cloud and clear: average over a disk, threshold, dilation by a disk."""

    probability: float
    """Pixels with a higher probability are cloud; 0 to 1."""
    average_over: int = 0
    """Radius in pixels of the disk over which the probability is averaged; 0 for no average."""
    dilation_size: int = 0
    """Radius in pixels of the disk by which the cloud mask is dilated; 0 for no dilation."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability is {self.probability}: give 0 to 1, independent of the scale of the layer")
        for name in ("average_over", "dilation_size"):
            if not 0 <= getattr(self, name) <= 50:
                raise ValueError(f"{name} is {getattr(self, name)}: give a radius of 0 to 50 pixels")


@dataclass(frozen=True)
class Layer:
    """Conversion of the stored values of one label layer to classes."""

    band: str
    meanings: dict[int, str]
    """Stored value -> CF flag meaning, for layers of codes; empty for probabilities."""
    codes: dict[int, int] = field(default_factory=dict)
    """Stored value -> class code. Other values are unlabelled."""
    resolves: frozenset[Scheme] = _ALL
    """Schemes in which the layer can be evaluated."""
    threshold: Threshold | None = None
    """Default conversion to a mask, for cloud probabilities: that of the authors of the layer, or of the paper."""
    full_scale: int | None = None
    """Stored value of probability 1; None if it depends on the files (CD-FCNN: 100 or 10000)."""
    bits: bool = False
    """The values are bit flags: any value is legal, and ``codes`` lists the flags, the one that wins first."""

    @property
    def probability(self) -> bool:
        """Whether the values are a cloud probability."""
        return self.threshold is not None

    @property
    def legal(self) -> frozenset[int]:
        """Values that a layer of codes may hold; empty for probabilities and bit flags."""
        return frozenset() if self.bits else frozenset(self.meanings)

    @property
    def classes(self) -> frozenset[int]:
        """Class codes of the layer. The cloud of a layer with a single cloud class is thick cloud, as in table 5."""
        return frozenset(self.codes.values()) if self.codes else frozenset({_CLEAR, _THICK})


_MANUAL_HQ = {0: "clear", 1: "thick_cloud", 2: "thin_cloud", 3: "cloud_shadow", 99: "unlabelled", 255: "missing"}
# Names of 1 to 7 as in the class list of the authors' drawing tool. No published file was seen, so which of a pair is
# the centre and which the edge is unverified; the classes do not depend on it.
_SCRIBBLE = {
    0: "clear",
    1: "thick_cloud_centre",
    2: "thick_cloud_edge",
    3: "thin_cloud_centre",
    4: "thin_cloud_edge",
    5: "cloud_shadow_centre",
    6: "cloud_shadow_edge",
    7: "no_data",
    99: "unlabelled",
    255: "missing",
}
_SCL = {
    0: "no_data",
    1: "saturated_or_defective",
    2: "dark_area",
    3: "cloud_shadow",
    4: "vegetation",
    5: "not_vegetated",
    6: "water",
    7: "unclassified",
    8: "cloud_medium_probability",
    9: "cloud_high_probability",
    10: "thin_cirrus",
    11: "snow_or_ice",
}
_FMASK = {0: "land", 1: "water", 2: "cloud_shadow", 3: "snow", 4: "cloud", 255: "outside"}
_QA60 = {0: "clear", 1024: "opaque_cloud", 2048: "cirrus", 3072: "opaque_cloud_and_cirrus"}
_KAPPA = {0: "undefined", 1: "clear", 2: "cloud_shadow", 3: "semi_transparent_cloud", 4: "cloud", 5: "missing"}
_KAPPA_CODES = {1: _CLEAR, 2: _SHADOW, 3: _THIN, 4: _THICK}

LAYERS: tuple[Layer, ...] = (
    Layer("manual_hq", _MANUAL_HQ, {0: _CLEAR, 1: _THICK, 2: _THIN, 3: _SHADOW}),
    Layer("manual_sc", _SCRIBBLE, {0: _CLEAR, 1: _THICK, 2: _THICK, 3: _THIN, 4: _THIN, 5: _SHADOW, 6: _SHADOW}),
    # Table 5 lists neither 1 nor 7. Defective and unclassified pixels are unlabelled, not clear.
    Layer(
        "sen2cor",
        _SCL,
        {2: _CLEAR, 4: _CLEAR, 5: _CLEAR, 6: _CLEAR, 11: _CLEAR, 8: _THICK, 9: _THICK, 10: _THIN, 3: _SHADOW},
    ),
    Layer("fmask", _FMASK, {0: _CLEAR, 1: _CLEAR, 3: _CLEAR, 4: _THICK, 2: _SHADOW}),
    # The detector's own defaults, which the paper's benchmark used; the README of the detector recommends (0.4, 4, 2).
    Layer("s2cloudless", {}, resolves=_CLOUD_ONLY, threshold=Threshold(0.4, 1, 1), full_scale=100),
    # Where both bits are set, opaque takes precedence over cirrus: thick cloud has priority 1.
    Layer("qa60", _QA60, {0: _CLEAR, 1024: _THICK, 2048: _THIN, 3072: _THICK}, _CLOUD_ONLY, bits=True),
    Layer("CD-FCNN-RGBI", {}, resolves=_CLOUD_ONLY, threshold=Threshold(0.5)),
    Layer("CD-FCNN-RGBISWIR", {}, resolves=_CLOUD_ONLY, threshold=Threshold(0.5)),
    Layer("kappamask_L1C", _KAPPA, _KAPPA_CODES),
    Layer("kappamask_L2A", _KAPPA, _KAPPA_CODES),
)


def layer(band: str) -> Layer:
    """Return the row of ``LAYERS`` for a band of ``labels``.

    Parameters
    ----------
    band : str
        Name of the label layer, such as ``fmask``.

    Raises
    ------
    KeyError
        If the layer is unknown; the message lists the layers.
    """
    for row in LAYERS:
        if row.band == band:
            return row
    raise KeyError(f"no label layer {band!r}; the layers are {', '.join(r.band for r in LAYERS)}")
