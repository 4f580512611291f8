"""The 49 assets of an image patch, one row each.

``ASSETS`` holds all facts about an asset: its file in the archive, its scale and its meaning. Products, band names,
files and coordinates are derived from it.

Sources: Aybar et al. 2022 (doi:10.1038/s41597-022-01878-2), table 2 (Sentinel-1 and -2, and the extra layers) and
table 3 (label layers); central wavelengths from ESA's spectral response functions (COPE-GSEG-EOPG-TN-15-0007);
NODATA of the spectral bands from the Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD), Special_Values.
In the paper, ``TCL`` stands for ``TCI``, and the descriptions of VV and VH are interchanged; this table corrects both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ProductName = Literal["s2l1c", "s2l2a", "s1", "extra", "labels"]
PRODUCTS: tuple[ProductName, ...] = get_args(ProductName)

# Band -> STAC common name, central wavelength on S2A and on S2B in nm; the order is that of the archive.
_SPECTRAL = {
    "B1": ("coastal", 442.7, 442.3),
    "B2": ("blue", 492.4, 492.1),
    "B3": ("green", 559.8, 559.0),
    "B4": ("red", 664.6, 665.0),
    "B5": ("rededge071", 704.1, 703.8),
    "B6": ("rededge075", 740.5, 739.1),
    "B7": ("rededge078", 782.8, 779.7),
    "B8": ("nir", 832.8, 833.0),
    "B8A": ("nir08", 864.7, 864.0),
    "B9": ("nir09", 945.1, 943.2),
    "B10": ("cirrus", 1373.5, 1376.9),
    "B11": ("swir16", 1613.7, 1610.4),
    "B12": ("swir22", 2202.4, 2185.7),
}

_NODATA = 0.0
"""Digital number 0 of a spectral band, NODATA by Sentinel-2's specification; 0 of AOT, WVP and TCI is a value."""


@dataclass(frozen=True)
class Asset:
    """One band of one product of an image patch."""

    product: ProductName
    band: str
    """Name in the archive, and label on the ``band`` dimension."""
    file: str
    """Path inside the patch's folder, without ``.tif``."""
    dtype: str
    """Data type of the published files. Copies of the dataset may differ; a conversion reads it from the files."""
    long_name: str
    scale: float = 1.0
    """Physical value = scale x stored value."""
    units: str = "1"
    """UDUNITS text of the physical value."""
    nodata: float | None = None
    """Stored value that means "no data" in the archive, whether a file declares it or not."""
    manual: bool = False
    """Drawn by experts; only some patches have it."""

    @property
    def is_reflectance(self) -> bool:
        """Whether the stored values are digital numbers of reflectance."""
        return self.band in _SPECTRAL

    @property
    def unmeasured(self) -> float | None:
        """Stored value that is no measurement: ``nodata``, but for the elevation, whose 0 is also that of the sea."""
        return None if self.band == "elevation" else self.nodata

    @property
    def wavelength(self) -> tuple[float, float] | None:
        """Central wavelength on S2A and S2B in nm, or None for other than spectral bands."""
        return _SPECTRAL[self.band][1:] if self.band in _SPECTRAL else None

    @property
    def common_name(self) -> str | None:
        """STAC common name of a spectral band (``red``, ``nir``, ...)."""
        return _SPECTRAL[self.band][0] if self.band in _SPECTRAL else None


def _spectral(product: ProductName, file: str, level: str, skip: str = "") -> list[Asset]:
    return [
        Asset(product, band, file, "int16", f"{level} reflectance, {common_name}", 1e-4, nodata=_NODATA)
        for band, (common_name, *_) in _SPECTRAL.items()
        if band != skip
    ]


def _label(band: str, long_name: str, dtype: str = "uint8", manual: bool = False) -> Asset:
    return Asset("labels", band, f"labels/{band}", dtype, long_name, manual=manual)


ASSETS: tuple[Asset, ...] = (
    *_spectral("s2l1c", "S2L1C", "top of atmosphere"),
    *_spectral("s2l2a", "S2L2A", "surface", skip="B10"),  # B10 has no surface product
    Asset("s2l2a", "AOT", "S2L2A", "int16", "aerosol optical thickness", 1e-3),
    Asset("s2l2a", "WVP", "S2L2A", "int16", "water vapour column", 1e-3, "cm"),
    Asset("s2l2a", "TCI_R", "S2L2A", "int16", "true colour image, red"),
    Asset("s2l2a", "TCI_G", "S2L2A", "int16", "true colour image, green"),
    Asset("s2l2a", "TCI_B", "S2L2A", "int16", "true colour image, blue"),
    Asset("s1", "VV", "S1", "float32", "backscatter, vertical transmit and receive", 1.0, "dB", -99.0),
    Asset("s1", "VH", "S1", "float32", "backscatter, vertical transmit, horizontal receive", 1.0, "dB", -99.0),
    Asset("s1", "angle", "S1", "float32", "incidence angle over the ellipsoid", 1.0, "degree", -99.0),
    # No nodata: -99 is the index -0.0099, and whether missing pixels were set to it before or after scaling is unknown.
    Asset("extra", "CDI", "extra/CDI", "int16", "cloud displacement index", 1e-4),
    # No nodata: the creating code never masked it, so -99 is -0.99 degrees, of -180 to 180.
    Asset("extra", "Shwdirection", "extra/Shwdirection", "int16", "azimuth of cloud shadows", 1e-2, "degree"),
    Asset("extra", "elevation", "extra/elevation", "int16", "elevation (MERIT)", 1.0, "m", 0.0),
    Asset("extra", "ocurrence", "extra/ocurrence", "int16", "surface water occurrence (JRC)", 1.0, "percent", -99.0),
    Asset("extra", "LC100", "extra/LC100", "uint8", "land cover at 100 m (Copernicus)", nodata=-99.0),
    Asset("extra", "LC10", "extra/LC10", "uint8", "land cover at 10 m (ESA WorldCover)", nodata=-99.0),
    _label("manual_hq", "expert label, every pixel", manual=True),
    _label("manual_sc", "expert label, scribbles", manual=True),
    _label("sen2cor", "Sen2Cor scene classification"),
    _label("fmask", "Fmask 4"),
    _label("s2cloudless", "s2cloudless cloud probability in per cent"),
    _label("qa60", "QA60 cloud mask bits", "uint16"),
    # 0 to 10000, as in the paper's benchmark; files from before July 2022 hold 0 to 100.
    _label("CD-FCNN-RGBI", "CD-FCNN cloud probability, RGBI bands", "uint16"),
    _label("CD-FCNN-RGBISWIR", "CD-FCNN cloud probability, RGBI and SWIR bands", "uint16"),
    _label("kappamask_L1C", "KappaMask on L1C"),
    _label("kappamask_L2A", "KappaMask on L2A"),
)

SPELLINGS = {"occurrence": "ocurrence", "extra/occurrence": "extra/ocurrence"}
"""Spellings of files and bands in copies of the dataset -> published spelling."""


def assets_of(product: str) -> tuple[Asset, ...]:
    """Return the assets of one product, in band order.

    Parameters
    ----------
    product : str
        One of ``PRODUCTS``.

    Raises
    ------
    KeyError
        If the product is unknown; the message lists the products.
    """
    if product not in PRODUCTS:
        raise KeyError(f"unknown product {product!r}; the products are {', '.join(PRODUCTS)}")
    return tuple(a for a in ASSETS if a.product == product)


def bands_of(product: str) -> tuple[str, ...]:
    """Return the band names of one product, in the order of its ``band`` dimension."""
    return tuple(a.band for a in assets_of(product))


def files_of(product: str) -> dict[str, tuple[str, ...]]:
    """Return the files of one product (path in the folder of the patch, without suffix) with the bands of each file."""
    files: dict[str, tuple[str, ...]] = {}
    for asset in assets_of(product):
        files[asset.file] = (*files.get(asset.file, ()), asset.band)
    return files


def band_name(text: str) -> str:
    """Return the canonical name for a band description: ``B04`` is ``B4``, ``occurrence`` is ``ocurrence``."""
    text = text.strip()
    if text[:1] == "B" and text[1:2] == "0":
        text = "B" + text[2:]
    return SPELLINGS.get(text, text)


def find_band(product: str, text: str) -> str:
    """Return the band of a product with a given name.

    Parameters
    ----------
    product : str
        One of ``PRODUCTS``.
    text : str
        Name of the band, ``B4`` or ``B04``, or its STAC common name, ``red``.

    Raises
    ------
    KeyError
        If the product has no such band; the message lists its bands.
    """
    for asset in assets_of(product):
        if text == asset.common_name or band_name(text) == asset.band:
            return asset.band
    common = ", ".join(a.common_name for a in assets_of(product) if a.common_name)
    raise KeyError(
        f"{product} has no band {text!r}; it has {', '.join(bands_of(product))}" + (common and f" ({common})")
    )
