"""The domain tables against what the paper and the files say."""

import pytest
from conftest import CSV_COLUMNS

from cloudsen12_cube.schema.assets import ASSETS, PRODUCTS, assets_of, band_name, bands_of, files_of
from cloudsen12_cube.schema.classes import CLASSES, LAYERS, SUPERCLASSES, layer
from cloudsen12_cube.schema.properties import PROPERTIES, canonical


def test_the_49_assets_in_their_products() -> None:
    assert len(ASSETS) == 49
    assert [len(bands_of(p)) for p in PRODUCTS] == [13, 17, 3, 6, 10]
    assert len({(a.product, a.band) for a in ASSETS}) == 49
    assert sum(len(files_of(p)) for p in PRODUCTS) == 19  # twenty files, less the thumbnail


def test_band_order_is_the_archives() -> None:
    assert " ".join(bands_of("s2l1c")) == "B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B10 B11 B12"
    assert " ".join(bands_of("s2l2a")) == "B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B11 B12 AOT WVP TCI_R TCI_G TCI_B"


def test_scales_and_wavelengths() -> None:
    rows = {a.band: a for a in assets_of("s2l2a")}
    assert (rows["B4"].scale, rows["AOT"].scale, rows["WVP"].scale, rows["TCI_R"].scale) == (1e-4, 1e-3, 1e-3, 1.0)
    assert rows["B8A"].wavelength == (864.7, 864.0)
    assert rows["B4"].common_name == "red"


def test_unknown_product_and_layer_are_told_what_there_is() -> None:
    with pytest.raises(KeyError, match="s2l1c, s2l2a"):
        assets_of("s2")
    with pytest.raises(KeyError, match="kappamask_L1C"):
        layer("thumbnail")


def test_band_names_in_other_spellings() -> None:
    assert [band_name(t) for t in ("B04", "B4", "B12", "B8A", "occurrence")] == ["B4", "B4", "B12", "B8A", "ocurrence"]


def test_the_four_classes_of_table_3() -> None:
    assert [(c.code, c.name, c.cloud, c.valid, c.priority) for c in CLASSES] == [
        (0, "clear", False, True, 4),
        (1, "thick_cloud", True, False, 1),
        (2, "thin_cloud", True, False, 3),
        (3, "cloud_shadow", False, False, 2),
    ]
    assert SUPERCLASSES == {"cloud": ("non_cloud", "cloud"), "valid": ("valid", "invalid")}


def test_codes_of_the_layers() -> None:
    assert [row.band for row in LAYERS] == list(bands_of("labels"))
    assert layer("kappamask_L2A").codes == {1: 0, 2: 3, 3: 2, 4: 1}
    assert layer("fmask").codes == {0: 0, 1: 0, 3: 0, 4: 1, 2: 3}
    assert layer("manual_sc").codes == {0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3}
    assert {v: layer("sen2cor").codes.get(v) for v in (0, 1, 3, 7, 8, 10, 11)} == {
        0: None, 1: None, 3: 3, 7: None, 8: 1, 10: 2, 11: 0,
    }  # fmt: skip
    blind = {row.band for row in LAYERS if "shadow" not in row.resolves}
    assert blind == {"s2cloudless", "qa60", "CD-FCNN-RGBI", "CD-FCNN-RGBISWIR"}
    assert {row.band: (set(row.codes), row.legal) for row in LAYERS if row.bits} == {
        "qa60": ({0, 1024, 2048, 3072}, frozenset())  # any value is legal
    }
    for row in LAYERS:
        assert set(row.codes) <= row.legal or row.probability or row.band == "qa60"


def test_every_column_of_the_csv_has_one_name() -> None:
    names = [canonical(column) for column in CSV_COLUMNS if column != "roi_id"]
    assert None not in names
    assert len(set(names)) == len(names) == 31
    assert canonical("s2_s2cloudless_version") == "s2_cloudless_version"
    assert canonical("proj:centroid") == "proj_centroid"
    assert canonical("nonsense") is None
    assert len({p.name for p in PROPERTIES}) == len(PROPERTIES)
