"""Archives and cubes that the tests share, made once: small, in the published layout, with its oddities."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from s3server import seaweed

import cloudsen12_cube as c12
from cloudsen12_cube.testing import ArchiveOptions, make_archive

# No test may depend on seconds; and what lands does not depend on the luck of a draw.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared test data are not beside the repository")
SIZE = 48
CSV_COLUMNS = [
    "annotator_name",
    "roi_id",
    "s2_id_gee",
    "s2_id",
    "s2_date",
    "s2_sen2cor_version",
    "s2_fmask_version",
    "s2_cloudless_version",
    "s2_reflectance_conversion_correction",
    "s2_aot_retrieval_accuracy",
    "s2_water_vapour_retrieval_accuracy",
    "s2_view_off_nadir",
    "s2_view_sun_azimuth",
    "s2_view_sun_elevation",
    "s1_id",
    "s1_date",
    "s1_grd_post_processing_software_name",
    "s1_grd_post_processing_software_version",
    "s1_slc_processing_facility_name",
    "s1_slc_processing_software_version",
    "s1_radar_coverage",
    "land_cover",
    "label_type",
    "cloud_coverage",
    "test",
    "difficulty",
    "proj_epsg",
    "proj_geometry",
    "proj_shape",
    "proj_centroid",
    "proj_transform",
    "test_sr",
]
"""Columns of the published table."""


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"), rois=4, seed=1, options=ArchiveOptions(size=SIZE))


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ROIs of two dates, 16 x 16 pixels, for tests that run commands many times; some modules have their own."""
    return make_archive(tmp_path_factory.mktemp("source"), rois=2, seed=3, options=ArchiveOptions(size=16, times=2))


@pytest.fixture(scope="session")
def cube(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted once; a test that changes it takes a copy."""
    place = tmp_path_factory.mktemp("cube") / "cube.zarr"
    assert c12.convert(archive, place).exit_code == 0
    return place


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a real S3 server."""
    with seaweed(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint
