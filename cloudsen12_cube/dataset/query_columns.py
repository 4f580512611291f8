"""The keywords of ``query``, written by ``docs/query_columns.py`` from the table of properties."""

from collections.abc import Collection
from datetime import date, datetime
from typing import TypedDict

import numpy as np

Moment = str | datetime | date | np.datetime64
WantedText = str | Collection[str] | None
"""A text, or several, any of which fits; a trailing ``*`` stands for any ending."""
WantedNumber = float | Collection[float] | tuple[float | None, float | None] | slice | None
"""A number, a list of numbers, or a tuple or slice (low, high), both ends included, None for an open end."""
WantedCode = float | str | Collection[float | str] | tuple[float | None, float | None] | slice | None
"""As a number; a code may be given by its name, such as ``Built-up``."""
WantedTime = Moment | Collection[Moment] | tuple[Moment | None, Moment | None] | slice | None
"""A time, a list of times, or a tuple or slice (low, high), both ends included, None for an open end. A date, month or
year, such as ``2019-08``, is the whole of it; times are in UTC, or have an offset such as ``+02:00``."""


class QueryColumns(TypedDict, total=False):
    """Properties that a query selects by; None is no condition."""

    roi: WantedText  # ROI id, such as ROI_0827
    s2_id_gee: WantedText  # Sentinel-2 image id in Google Earth Engine; unique only inside its ROI
    s2_id: WantedText  # Sentinel-2 product id
    datetime: WantedTime  # Sentinel-2 acquisition time
    label_type: WantedText  # high: every pixel by experts, scribble: some pixels, nolabel: none
    cloud_coverage: WantedText  # cloud-free, almost-clear, low-cloudy, mid-cloudy or cloudy
    difficulty: WantedNumber  # labelling difficulty, 1 (easy) to 5; NaN where nobody labelled
    annotator_name: WantedText  # who drew the label
    land_cover: WantedCode  # land cover of the ROI, code of ESA WorldCover
    split: WantedText  # train, validation or test; from `test`, whose codes mean two things
    test: WantedNumber  # split code as published
    test_sr: WantedNumber  # split code of the super-resolution set as published
    s2_sen2cor_version: WantedText  # Sen2Cor processing baseline
    s2_fmask_version: WantedText  # Fmask version
    s2_cloudless_version: WantedText  # s2cloudless version
    s2_reflectance_conversion_correction: WantedNumber  # Earth-Sun distance correction
    s2_aot_retrieval_accuracy: WantedNumber  # accuracy of the aerosol retrieval
    s2_water_vapour_retrieval_accuracy: WantedNumber  # declared accuracy of the water vapour model
    s2_view_off_nadir: WantedNumber  # viewing angle off nadir, 0 everywhere: never measured
    s2_view_sun_azimuth: WantedNumber  # sun azimuth
    s2_view_sun_elevation: WantedNumber  # sun elevation
    s1_id: WantedText  # Sentinel-1 product id
    s1_datetime: WantedTime  # Sentinel-1 acquisition time
    s1_grd_post_processing_software_name: WantedText  # Sentinel-1 GRD processor
    s1_grd_post_processing_software_version: WantedText  # version of the Sentinel-1 GRD processor
    s1_slc_processing_facility_name: WantedText  # where the Sentinel-1 SLC was processed
    s1_slc_processing_software_version: WantedText  # version of the Sentinel-1 SLC processor
    s1_radar_coverage: WantedNumber  # share of the patch that Sentinel-1 covers
    proj_epsg: WantedNumber  # EPSG code of the patch's own UTM zone
    proj_geometry: WantedText  # footprint in proj_epsg as WKT
    proj_shape: WantedNumber  # rows (and columns) of the patch
    proj_centroid: WantedText  # centre as WKT, POINT (longitude latitude)
    longitude: WantedNumber  # longitude of the centre, WGS 84
    latitude: WantedNumber  # latitude of the centre, WGS 84
    old_roi_id: WantedText  # ROI id in the first release of CloudSEN12
    equi_id: WantedText  # id on the equal-area grid of CloudSEN12+
    equi_zone: WantedText  # zone of the equal-area grid of CloudSEN12+
    clear_percentage: WantedNumber  # share of the label that is clear
    thick_percentage: WantedNumber  # share of the label that is thick cloud
    thin_percentage: WantedNumber  # share of the label that is thin cloud
    cloud_shadow_percentage: WantedNumber  # share of the label that is cloud shadow
