"""Accuracies against scikit-learn, and the rules of the paper's table 6 on tables made by hand."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle

from cloudsen12_cube import evaluation
from cloudsen12_cube.evaluation import counts as counting
from cloudsen12_cube.evaluation.metrics import BINARY, CLASS_NAMES, COLUMNS, MEMBERS, summarise
from cloudsen12_cube.evaluation.table import build_table, format_table
from cloudsen12_cube.schema.classes import CLASSES, LAYERS
from cloudsen12_cube.schema.labels import class_masks, to_classes

U = 255
NAN = float("nan")
Codes = npt.NDArray[np.uint8]
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)
PAIRS = SHAPES.flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, U]))] * 2)
)


def count(reference: Codes, predicted: Codes) -> npt.NDArray[np.int64]:
    """Count with the package: shape (4, 5)."""
    counter = counting.ConfusionCounter((), (), 0, (1,))
    return counter(np.ones((1, 1, 1), bool), reference[None, None], predicted[None, None])[0, 0, 0]


@settings(deadline=None)
@given(PAIRS)
def test_counts_are_those_of_scikit_learn(pair: tuple[Codes, Codes]) -> None:
    reference, predicted = pair
    counts = count(reference, predicted)
    both = (reference != U) & (predicted != U)
    for scheme, names in CLASS_NAMES.items():
        into = np.array(MEMBERS[scheme])
        expected = np.zeros((len(names),) * 2)
        if both.any():
            expected = oracle.confusion_matrix(into[reference[both]], into[predicted[both]], labels=range(len(names)))
        np.testing.assert_array_equal(evaluation.aggregate_counts(counts, scheme, "exclude"), expected)
        labelled = reference != U
        if scheme != "four" and labelled.any():  # an unclassified pixel is predicted negative
            said = np.where(predicted == U, 0, into[np.where(predicted == U, 0, predicted)])
            expected = oracle.confusion_matrix(into[reference[labelled]], said[labelled], labels=range(2))
            np.testing.assert_array_equal(evaluation.aggregate_counts(counts, scheme), expected)
    assert evaluation.aggregate_counts(counts, "four").shape == (4, 5)
    for code in range(4):
        assert counts[code, 4] == ((reference == code) & (predicted == U)).sum()


@settings(deadline=None)
@given(PAIRS, st.sampled_from(["four", *BINARY]))
def test_metrics_are_those_of_scikit_learn(pair: tuple[Codes, Codes], scheme: Any) -> None:
    both = (pair[0] != U) & (pair[1] != U)
    into = np.array(MEMBERS[scheme])
    reference, predicted = into[pair[0][both]], into[pair[1][both]]
    counts = evaluation.aggregate_counts(count(*pair), scheme, "exclude")
    labels = list(range(len(CLASS_NAMES[scheme])))
    if not both.any():
        for metric in (evaluation.producers_accuracy, evaluation.users_accuracy, evaluation.f1, evaluation.iou):
            assert np.isnan(metric(counts)).all()
        assert np.isnan(evaluation.overall_agreement(counts))
        assert np.isnan(evaluation.balanced_overall_accuracy(counts))
        return
    given_labels = {"labels": labels, "average": None, "zero_division": np.nan}
    recall = oracle.recall_score(reference, predicted, **given_labels)
    np.testing.assert_array_equal(evaluation.producers_accuracy(counts), recall)
    np.testing.assert_array_equal(
        evaluation.users_accuracy(counts), oracle.precision_score(reference, predicted, **given_labels)
    )
    np.testing.assert_array_equal(evaluation.f1(counts), oracle.f1_score(reference, predicted, **given_labels))
    present = [label for label in labels if (reference == label).any() or (predicted == label).any()]
    jaccard = oracle.jaccard_score(reference, predicted, labels=present, average=None)
    np.testing.assert_array_equal(evaluation.iou(counts)[present], jaccard)
    assert np.isnan(np.delete(evaluation.iou(counts), present)).all()
    assert evaluation.overall_agreement(counts) == oracle.accuracy_score(reference, predicted)
    if len(np.unique(reference)) == len(labels):
        balanced = oracle.balanced_accuracy_score(reference, predicted)
        assert evaluation.balanced_overall_accuracy(counts) == balanced
    else:
        assert np.isnan(evaluation.balanced_overall_accuracy(counts))


def test_metrics_of_one_confusion_matrix_by_hand() -> None:
    counts = np.array([[50, 10], [5, 35]])  # tn fp / fn tp
    assert evaluation.producers_accuracy(counts)[1] == 35 / 40
    assert evaluation.users_accuracy(counts)[1] == 35 / 45
    assert evaluation.balanced_overall_accuracy(counts) == 0.5 * (35 / 40 + 50 / 60)
    assert evaluation.overall_agreement(counts) == 0.85
    assert evaluation.f1(counts)[1] == 70 / 85
    assert evaluation.iou(counts)[1] == 35 / 50


def test_unclassified_pixels_are_missed_but_never_wrongly_found() -> None:
    counts = np.array([[6, 1, 0, 0, 3], [1, 4, 0, 0, 5], [0, 0, 2, 0, 0], [0, 0, 0, 0, 1]])
    np.testing.assert_array_equal(evaluation.producers_accuracy(counts), [0.6, 0.4, 1, 0])
    np.testing.assert_array_equal(evaluation.users_accuracy(counts), [6 / 7, 4 / 5, 1, NAN])
    np.testing.assert_array_equal(evaluation.f1(counts), [12 / 17, 8 / 15, 1, 0])
    np.testing.assert_array_equal(evaluation.iou(counts), [6 / 11, 4 / 11, 1, 0])
    assert evaluation.overall_agreement(counts) == 12 / 23


def test_metrics_work_on_stacks_of_counts() -> None:
    counts = np.random.default_rng(0).integers(0, 9, (3, 5, 4, 4))
    for metric, shape in ((evaluation.f1, (3, 5, 4)), (evaluation.overall_agreement, (3, 5))):
        assert metric(counts).shape == shape
        np.testing.assert_array_equal(metric(counts)[1, 2], metric(counts[1, 2]))
    with pytest.raises(ValueError, match="no scheme 'clouds'; there are four, cloud, shadow, valid"):
        evaluation.aggregate_counts(counts, "clouds")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unclassified is 'drop': give one of negative, exclude"):
        evaluation.aggregate_counts(counts, "cloud", "drop")  # type: ignore[arg-type]


@pytest.mark.parametrize("row", LAYERS, ids=lambda row: row.band)
def test_masks_are_the_classes(row: Any) -> None:
    random = np.random.default_rng(1)
    legal = sorted(row.legal) or list(range(101))
    for extra in ([], [7, 99], [65535], [300, 5000]):
        values = random.choice(np.array([*legal, *extra], np.uint16), (2, 9, 11))
        codes = to_classes(values, row.band, 100)
        seen = np.where((codes == U) & (values < 65535), 1, codes) if row.bits else codes  # any other bit of QA60
        expected = [seen == code for code in sorted(row.classes)]
        np.testing.assert_array_equal(list(class_masks(values, row.band, 100)), expected)
        assert set(np.unique(codes)) <= {*row.classes, U}


def test_packing_is_exact_at_every_length() -> None:
    random = np.random.default_rng(2)
    for size in (1, 7, 8, 63, 64, 65, 1000):
        masks = random.random((3, 1, size)) < 0.5
        expected = (masks[:, None] & masks).sum(axis=(-2, -1))
        np.testing.assert_array_equal(
            counting.intersection_counts(counting.pack_masks(masks), counting.pack_masks(masks)), expected
        )


def test_strange_codes_are_refused() -> None:
    ok = np.zeros((3, 3), np.uint8)
    for wrong in (4, 99, 254):
        with pytest.raises(ValueError, match=f"hold {wrong}: give 0 clear"):
            count(ok, np.full((3, 3), wrong, np.uint8))
    with pytest.raises(ValueError, match="hold -1"):
        count(ok, np.full((3, 3), -1, np.int8))  # type: ignore[arg-type]


def test_the_middle_holds_both_its_ends() -> None:
    values = [0.0, np.nextafter(0.1, 0), 0.1, 0.5, 0.9, np.nextafter(0.9, 1), 1.0, NAN]
    row = summarise(pd.DataFrame({"pa": values, "ua": values[::-1], "boa": values}))
    assert list(row.index) == list(COLUMNS)
    for metric in ("pa", "ua"):
        shares = [row[f"{metric}_{share}"] for share in ("low", "middle", "high")]
        assert shares == pytest.approx([200 / 7, 300 / 7, 200 / 7])
    assert row["boa"] == 0.5


def test_each_column_drops_its_own_nan() -> None:
    table = pd.DataFrame({"pa": [0.95, NAN, 0.05, 0.5], "ua": [NAN, NAN, 1.0, 0.0], "boa": [0.6, 0.8, NAN, 0.7]})
    row = summarise(table)
    assert row["boa"] == 0.7
    assert row["pa_low"] == pytest.approx(100 / 3)
    assert (row["ua_low"], row["ua_middle"], row["ua_high"]) == (50, 0, 50)
    assert summarise(table.assign(boa=[0.5, 0.6, NAN, NAN]))["boa"] == 0.55


def test_nothing_defined_gives_nan() -> None:
    assert summarise(pd.DataFrame({"pa": [NAN], "ua": [NAN], "boa": [NAN]})).isna().all()
    assert summarise(pd.DataFrame({"pa": [], "ua": [], "boa": []})).isna().all()


def test_tables_that_cannot_be_summarised() -> None:
    with pytest.raises(KeyError, match="lacks boa, ua; it has pa"):
        summarise(pd.DataFrame({"pa": [0.5]}))
    with pytest.raises(ValueError, match="pa holds 95: give shares from 0 to 1"):
        summarise(pd.DataFrame({"pa": [95.0], "ua": [0.5], "boa": [0.5]}))


@settings(deadline=None)
@given(st.lists(st.one_of(st.floats(0, 1), st.just(NAN), st.sampled_from([0.1, 0.9])), max_size=30))
def test_shares_are_naive_shares(values: list[float]) -> None:
    row = summarise(pd.DataFrame({"pa": values, "ua": values, "boa": values}, dtype=float))
    known = [v for v in values if v == v]
    if not known:
        assert row.isna().all()
        return
    low, high = sum(v < 0.1 for v in known), sum(v > 0.9 for v in known)
    middle = sum(0.1 <= v <= 0.9 for v in known)
    naive = [100 * n / len(known) for n in (low, middle, high)]
    assert list(row["pa_low":"pa_high"]) == pytest.approx(naive)
    assert row["boa"] == pytest.approx(float(np.median(known)))


@settings(deadline=None)
@given(PAIRS)
def test_pa_and_ua_rest_on_patches_with_cloud(pair: tuple[Codes, Codes]) -> None:
    reference, predicted = pair
    both = (reference != U) & (predicted != U)
    cloudy = bool(np.isin(reference, [1, 2]).any())
    for scheme in BINARY:
        counts = evaluation.aggregate_counts(count(reference, predicted), scheme, "exclude")
        made = evaluation.binary_accuracies(counts, np.array(cloudy))
        into = np.array(MEMBERS[scheme], bool)
        truth, said = into[reference[both]], into[predicted[both]]
        assert np.isnan(made["pa"]) == (not cloudy or not truth.any())
        assert np.isnan(made["ua"]) == (not cloudy or not said.any())
        assert np.isnan(made["boa"]) == (not truth.any() or truth.all())


def many() -> pd.DataFrame:
    """Eight patches whose row of table 6 is known."""
    good = [0.95, 0.95, 0.5, 0.05, 0.95, 0.95, 0.5, NAN]
    base = pd.DataFrame({"pa": good, "ua": good[::-1], "boa": [0.9] * 8, "land_cover": [10] * 4 + [20] * 4})
    rows = [("shadow", "sen2cor"), ("cloud", "CD-FCNN-RGBI"), ("cloud", "fmask"), ("cloud", "mine"), ("valid", "fmask")]
    return pd.concat([base.assign(scheme=scheme, layer=name) for scheme, name in rows])


def test_the_order_is_the_papers() -> None:
    table = build_table(many())
    assert list(table.index) == [
        ("cloud", "mine"),
        ("cloud", "fmask"),
        ("cloud", "CD-FCNN-RGBI"),
        ("shadow", "sen2cor"),
        ("valid", "fmask"),
    ]
    assert list(table.columns) == list(COLUMNS)
    assert table.loc[("cloud", "fmask"), "pa_high"] == pytest.approx(400 / 7)
    assert isinstance(table, pd.DataFrame)
    assert type(table * 1) is pd.DataFrame


def test_the_table_prints_two_decimals() -> None:
    table = build_table(many(), notes=["a note"])
    lines = str(table).splitlines()
    assert lines[0].split() == ["BOA", "PA%", "UA%"]
    assert lines[1].split() == ["low", "middle", "high"] * 2
    assert lines[3].split() == ["Fmask", "0.90", "14.29", "28.57", "57.14", "14.29", "28.57", "57.14"]
    assert lines[-1] == "a note"
    assert max(map(len, lines)) <= 80
    assert "Sen2Cor" in table._repr_html_()
    assert '<th colspan="3" style="text-align: center">PA%</th>' in table._repr_html_()


def test_a_table_by_groups() -> None:
    table = build_table(many(), ["land_cover"])
    assert table.index.names == ["land_cover", "scheme", "layer"]
    assert table.loc[(10, "cloud", "fmask"), "pa_high"] == 50
    assert table.loc[(20, "cloud", "fmask"), "pa_high"] == pytest.approx(200 / 3)
    unknown = many().assign(land_cover=[1.0, NAN] * 20)
    assert len(build_table(unknown, ["land_cover"])) == 10
    with pytest.raises(KeyError, match="no column 'x'"):
        build_table(many(), ["x"])


def test_csv_reads_back_in_full_precision() -> None:
    table = build_table(many())
    again = pd.read_csv(io.StringIO(format_table(table, "csv")), index_col=["scheme", "layer"])
    pd.testing.assert_frame_equal(again, pd.DataFrame(table), rtol=1e-15)


def test_markdown_and_latex() -> None:
    table = build_table(many(), notes=["a note"])
    markdown = format_table(table, "markdown").splitlines()
    assert markdown[0] == "|  |  | BOA | PA% low | PA% middle | PA% high | UA% low | UA% middle | UA% high |"
    assert markdown[3] == "|  | Fmask | 0.90 | 14.29 | 28.57 | 57.14 | 14.29 | 28.57 | 57.14 |"
    assert {line.count("|") for line in markdown[:7]} == {10}
    latex = format_table(table, "latex")
    assert r"cloud/no cloud & mine & 0.90 & 14.29" in latex
    assert r"PA\% low" in latex
    assert latex.count(r"\hline") == 5
    assert "% a note" in latex
    with pytest.raises(ValueError, match="no format 'html'; there are table, csv, markdown, latex"):
        format_table(table, "html")  # type: ignore[arg-type]


def test_the_best_values_of_a_block_are_bold() -> None:
    frame = many()
    mine = (frame["layer"] == "mine") & (frame["scheme"] == "cloud")
    table = build_table(frame.assign(boa=frame["boa"].where(~mine, 0.94), pa=frame["pa"].where(~mine, 0.99)))
    rows = format_table(table, "markdown").splitlines()
    assert rows[2] == "| cloud/no cloud | mine | **0.94** | **0.00** | 0.00 | **100.00** | 14.29 | 28.57 | 57.14 |"
    assert "**" not in "".join(rows[3:])
    assert r"mine & \textbf{0.94} & \textbf{0.00} & 0.00" in format_table(table, "latex")
    assert "*" not in format_table(table, "table") + format_table(table, "csv")
    grouped = build_table(frame.assign(boa=frame["boa"].where(~mine, 0.94)), ["land_cover"])
    assert format_table(grouped, "markdown").count("**0.94**") == 2


def test_what_is_undefined_is_left_empty() -> None:
    table = build_table(many().assign(pa=NAN, boa=NAN))
    assert format_table(table, "markdown").splitlines()[3] == "|  | Fmask |  |  |  |  | 14.29 | 28.57 | 57.14 |"


def test_every_class_is_in_one_class_of_each_scheme() -> None:
    for row in CLASSES:
        assert MEMBERS["cloud"][row.code] == row.cloud
        assert MEMBERS["valid"][row.code] == (not row.valid)
        assert MEMBERS["shadow"][row.code] == (row.name == "cloud_shadow")
