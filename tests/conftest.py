"""Archives and cubes that the tests share, made once: small, in the published layout, with its oddities."""

from __future__ import annotations

from pathlib import Path

import pytest

import cloudsen12_cube as c12
from cloudsen12_cube.testing import ArchiveOptions, make_archive

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared test data are not beside the repository")
SIZE = 48


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"), rois=4, seed=1, options=ArchiveOptions(size=SIZE))


@pytest.fixture(scope="session")
def cube(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted once; a test that changes it takes a copy."""
    place = tmp_path_factory.mktemp("cube") / "cube.zarr"
    assert c12.convert(archive, place).exit_code == 0
    return place
