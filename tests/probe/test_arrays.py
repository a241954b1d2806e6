"""Vectors and labels in every form that people hold them in, and the row that is wrong."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MultiLabelBinarizer

from sedembed import LinearProbe
from sedembed.errors import InvalidArgumentError, SedembedError
from sedembed.probe.arrays import to_labels, to_vectors
from tests.probe.probe_helpers import blobs, multilabel


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    x, y = blobs(60, 5, 3)
    return x.astype(np.float32), np.array(["bark", "meow", "rain"])[y]


def fit(x: Any, y: Any, **options: Any) -> LinearProbe:
    return LinearProbe(C=1.0, progress=False).fit(x, y, **options)


class TestVectors:
    def test_tensors(self, data):
        x, y = data
        expected = fit(x, y)
        for tensor in (torch.from_numpy(x), torch.from_numpy(x).requires_grad_(True)):
            np.testing.assert_array_equal(fit(tensor, y).coef_, expected.coef_)
            np.testing.assert_array_equal(expected.predict_proba(tensor), expected.predict_proba(x))
        for narrow in (torch.bfloat16, torch.float16):
            tensor = torch.from_numpy(x).to(narrow)
            np.testing.assert_array_equal(fit(tensor, y).coef_, fit(tensor.float().numpy(), y).coef_)

    def test_columns(self, data):
        x, y = data
        expected = {wide: fit(x.astype(wide), y).coef_ for wide in (np.float32, np.float64)}
        columns = [list(x), tuple(map(torch.from_numpy, x)), x.tolist()]
        with contextlib.suppress(ImportError):
            import pandas

            frame = pandas.DataFrame({"embedding": list(x), "label": y}, index=range(100, 160))
            columns.append(frame["embedding"])
        with contextlib.suppress(ImportError):
            import polars

            columns.append(polars.Series(x))
            columns.append(polars.Series(x.tolist()))
        for column in columns:
            found = fit(column, y).coef_  # of float64 from lists of numbers
            np.testing.assert_allclose(found, expected[found.dtype.type], rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize(
        ("x", "sentence"),
        [
            ([[1.0, 2.0], [1.0]], r"2 numbers in row 0 and 1 in row 1; embed all"),
            ([np.zeros(2), None], r"vector of numbers in every row, got None in row 1"),
            ([np.zeros(2), "a"], r"got 'a' in row 1"),
            ([[0.0, 1.0], [[1.0], [1.0, 2.0]]], r"ragged list in row 1"),
            (torch.zeros(4, 2).to_sparse(), r"dense tensor"),
        ],
    )
    def test_refused(self, x, sentence):
        with pytest.raises(InvalidArgumentError, match=sentence):
            to_vectors(x)


class TestLabels:
    def test_columns(self, data):
        x, y = data
        expected = fit(x, y)
        columns: list[Any] = [y.tolist(), y.astype(object), np.array(y, dtype=np.dtypes.StringDType())]
        with contextlib.suppress(ImportError):
            import pandas

            series = pandas.Series(y, index=range(100, 160))
            columns += [series, series.astype("category"), series.astype("string"), series.astype(object)]
        with contextlib.suppress(ImportError):
            import polars

            columns.append(polars.Series(y))
        for column in columns:
            probe = fit(x, column)
            assert probe.classes_.tolist() == ["bark", "meow", "rain"]
            assert probe.predict(x).tolist() == expected.predict(x).tolist()

    def test_numbers(self, data):
        x = data[0]
        numbers = np.arange(60) % 3
        expected = fit(x, numbers)
        columns: list[Any] = [torch.from_numpy(numbers), numbers.tolist(), numbers.astype(object)]
        with contextlib.suppress(ImportError):
            import pandas

            columns += [pandas.Series(numbers), pandas.Series(numbers, dtype="Int64")]
        for column in columns:
            probe = fit(x, column)
            assert probe.classes_.dtype == np.int64
            np.testing.assert_array_equal(probe.coef_, expected.coef_)

    @pytest.mark.parametrize(
        ("gap", "shown"),
        [(None, "None"), (float("nan"), "nan"), (np.datetime64("NaT", "D"), "NaT")],
        ids=["none", "nan", "nat"],
    )
    def test_a_gap(self, data, gap, shown):
        x, y = data
        labels = [*y[:7].tolist(), gap, *y[8:].tolist()]
        for column in (labels, np.array(labels, object)):
            with pytest.raises(
                InvalidArgumentError, match=rf"every row in y, got .*{shown}.* in row 7; leave such rows out"
            ):
                fit(x, column)

    def test_gaps_of_pandas(self, data):
        pandas = pytest.importorskip("pandas", reason="pandas is not installed")
        x, y = data
        for kind in ("string", "category", object):
            labels = pandas.Series(y, dtype=kind)
            labels[7] = None
            with pytest.raises(InvalidArgumentError, match="in row 7; leave such rows out"):
                fit(x, labels)

    @pytest.mark.parametrize(
        ("labels", "sentence"),
        [
            (["a", 1] * 30, r"one type in y, got 'a' in row 0 and 1 in row 1; make them texts"),
            ([True, 2] * 30, r"got True in row 0 and 2 in row 1"),
            ([["a"], ["a", "b"]] * 30, r"one label a row in y, got \['a'\] in row 0; .*MultiLabelBinarizer"),
            ([["a", "b"], ["a", "c"]] * 30, r"MultiLabelBinarizer"),
            ([b"a", b"b"] * 30, r"got bytes; decode them"),
            ([{"a"}, {"b"}] * 30, r"MultiLabelBinarizer"),
            (np.where(np.arange(60) == 7, np.nan, 1.0), r"got nan in row 7"),
            (["a"] * 59, r"inconsistent numbers of samples"),
            ("a", "need a store"),
        ],
    )
    def test_refused(self, data, labels, sentence):
        with pytest.raises(InvalidArgumentError, match=sentence):
            fit(data[0], labels)

    def test_the_cure_works(self, data):
        labels = [["a"], ["a", "b"], []] * 20
        probe = fit(data[0], MultiLabelBinarizer().fit_transform(labels))
        assert probe.multilabel_

    def test_an_indicator_of_other_numbers(self):
        x, y = multilabel(60, 5, 3)
        for wrong in (2 * y, 2 * y.astype(int) - 1, 2.0 * y):
            with pytest.raises(
                InvalidArgumentError, match=r"indicator of zeros and ones as y, got .* in row \d+, column"
            ):
                fit(x, wrong)
        with pytest.raises(InvalidArgumentError, match="as the validation labels"):
            LinearProbe(progress=False).fit(x, y, validation=(x, 2 * y))
        np.testing.assert_array_equal(fit(x, y.astype(float)).coef_, fit(x, y).coef_)


class TestOtherArguments:
    @pytest.mark.parametrize("name", ["groups", "folds"])
    def test_a_value_for_each_row_also_where_c_is_given(self, data, name):
        for wrong, sentence in (([0] * 3, "one value a row"), ([None] * 60, "got None in row 0"), ("a", "one value")):
            with pytest.raises(InvalidArgumentError, match=sentence):
                fit(*data, **{name: wrong})

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"sample_weight": np.full(60, np.nan)}, "got nan in row 0"),
            ({"sample_weight": "heavy"}, "one value a row"),
            ({"model": "talnet"}, r"loaded model or a store, got 'talnet'; pass load_model"),
            ({"validation": 3}, "pair of vectors and labels"),
            ({"validation": (np.zeros((2, 5), np.float32), [1, 2])}, "type of y"),
        ],
    )
    def test_refused(self, data, options, sentence):
        with pytest.raises(InvalidArgumentError, match=sentence):
            LinearProbe(progress=False).fit(*data, **options)

    @pytest.mark.parametrize(
        "options",
        [
            *({"C": c} for c in (True, "1", 0, -1, np.nan, np.inf, None, [1.0])),
            *({"Cs": cs} for cs in (5, "12", [], [2, 1], [True])),
            *({"tol": t} for t in ("x", 0, -1, np.nan, True)),
            *({"max_iter": n} for n in (0, "x", None)),
            *({"class_weight": w} for w in ("heavy", 3, {"bark": -1}, {"bark": np.nan}, {"bark": "x"})),
            *({"cv": cv} for cv in (1, "5", 2.5, True, None)),
            *({"random_state": s} for s in (-1, "x", 1.5)),
            *({"device": d} for d in ("xla", "meta", "toaster")),
            *({"metric": m} for m in (3, "f1", ["map"])),
            {"normalize": ["l2"]},
        ],
        ids=str,
    )
    def test_parameters(self, data, options):
        with pytest.raises(SedembedError) as caught:
            LinearProbe(progress=False, **options).fit(*data)
        assert isinstance(caught.value, ValueError)

    def test_cuda_where_there_is_none(self, data):
        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
        with pytest.raises(InvalidArgumentError, match="'cuda'"):
            LinearProbe(C=1.0, device="cuda", progress=False).fit(*data)


# --- rules, by hypothesis ------------------------------------------------------------------------------------------

LABEL = st.one_of(
    st.text(max_size=3),
    st.integers(-3, 3),
    st.booleans(),
    st.floats(),
    st.none(),
    st.lists(st.text(max_size=2), max_size=2),
    st.binary(max_size=2),
    st.dates(),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(LABEL, min_size=1, max_size=6), st.sampled_from([list, tuple, lambda y: np.array([*y, 0], object)[:-1]])
)
def test_labels_are_kept_or_refused(labels: list[Any], form: Any):
    """No label changes its type or value, and no error is one of NumPy."""
    try:
        found = to_labels(form(labels))
    except SedembedError:
        return
    assert len(found) == len(labels)
    if found.ndim == 1:
        for before, after in zip(labels, found.tolist(), strict=True):
            assert after == before
            assert isinstance(after, str) == isinstance(before, str)
            assert isinstance(after, bool) == isinstance(before, bool)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=3),
            LABEL,
            st.just(np.ones(2)),
        ),
        min_size=2,
        max_size=5,
    ),
)
def test_vectors_are_taken_or_refused(rows: list[Any]):
    try:
        LinearProbe(C=1.0, progress=False).fit(rows, np.arange(len(rows)) % 2)
    except SedembedError as error:
        assert isinstance(error, (ValueError, TypeError))  # noqa: PT017
