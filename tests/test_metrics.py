"""Every metric against loops in plain Python floats, on random, tied and degenerate scores, and scikit-learn."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from sedembed.metrics import check_name, compute, per_class

INDEX_ONLY = ["accuracy", "macro_accuracy", "top1", "top2", "top5"]
EITHER = ["map", "mauc", "d_prime", "lwlrap"]


# --- references: lists of floats, no numpy, other algorithms ---------------------------------------------------------


def reference_found(k: int, label: int, row: list[float]) -> bool:
    ranking = sorted(range(len(row)), key=lambda c: (-row[c], c))
    return label in ranking[:k]


def reference_average_precision(truth: list[bool], column: list[float]) -> float:
    """Sum over the distinct thresholds of precision times gain in recall."""
    positives = sum(truth)
    if not positives:
        return math.nan
    total = recall = 0.0
    for threshold in sorted(set(column), reverse=True):
        retrieved = [true for true, score in zip(truth, column, strict=True) if score >= threshold]
        total += sum(retrieved) / len(retrieved) * (sum(retrieved) / positives - recall)
        recall = sum(retrieved) / positives
    return total


def reference_auc(truth: list[bool], column: list[float]) -> float:
    """Share of pairs in the right order."""
    above = [score for true, score in zip(truth, column, strict=True) if true]
    below = [score for true, score in zip(truth, column, strict=True) if not true]
    if not above or not below:
        return math.nan
    return sum((a > b) + (a == b) / 2 for a in above for b in below) / (len(above) * len(below))


def reference_d_prime(area: float) -> float:
    if math.isnan(area):
        return area
    return math.sqrt(2) * NormalDist().inv_cdf(area) if 0 < area < 1 else math.copysign(math.inf, area - 0.5)


def reference_label_precisions(truth: list[list[bool]], scores: list[list[float]]) -> list[list[float]]:
    """For each class the precisions at its rank, in the clips it is a true label of."""
    precisions: list[list[float]] = [[] for _ in scores[0]]
    for true, row in zip(truth, scores, strict=True):
        for c in range(len(row)):
            if true[c]:
                above = [d for d in range(len(row)) if row[d] >= row[c]]
                precisions[c].append(sum(true[d] for d in above) / len(above))
    return precisions


def mean(values: list[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return math.fsum(kept) / len(kept) if kept else math.nan


def reference(name: str, y: NDArray[Any], scores: NDArray[Any]) -> tuple[float, list[float]]:
    """Overall and per class; NaN where not defined."""
    rows = [[float(score) for score in row] for row in scores]
    classes = range(scores.shape[1])
    if name in INDEX_ONLY:
        k = int(name[3:]) if name.startswith("top") else 1
        found = [reference_found(k, int(label), row) for label, row in zip(y, rows, strict=True)]
        recalls = [mean([float(f) for label, f in zip(y, found, strict=True) if label == c]) for c in classes]
        return mean(recalls) if name == "macro_accuracy" else mean([float(f) for f in found]), recalls
    truth = [[bool(y[i] == c) if y.ndim == 1 else bool(y[i, c]) for c in classes] for i in range(len(rows))]
    if name == "lwlrap":
        precisions = reference_label_precisions(truth, rows)
        return mean([p for of_class in precisions for p in of_class]), [mean(of_class) for of_class in precisions]
    function = reference_average_precision if name == "map" else reference_auc
    values = [function([true[c] for true in truth], [row[c] for row in rows]) for c in classes]
    if name == "d_prime":
        return reference_d_prime(mean(values)), [reference_d_prime(value) for value in values]
    return mean(values), values


def make_scores(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[Any]:
    if kind == "constant":
        return np.full(shape, 0.25)
    if kind == "two values":
        return rng.integers(0, 2, shape).astype(np.float32)
    scores = rng.standard_normal(shape)
    return {
        "random": scores,
        "float32": scores.astype(np.float32),
        "float16": scores.astype(np.float16),
        "tied": np.round(scores, 0),
        "signed zeros": np.where(scores > 0, 0.0, -0.0),
        "huge": scores * 1e300,
    }[kind]


KINDS = ["random", "float32", "float16", "tied", "two values", "constant", "signed zeros", "huge"]


class TestAgainstLoops:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("name", INDEX_ONLY + EITHER)
    def test_class_indices(self, name, kind):
        rng = np.random.default_rng(KINDS.index(kind))
        # Class 6 never occurs; class 5 holds most clips.
        y = rng.choice(7, 60, p=[0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 0.0])
        scores = make_scores(kind, (60, 7), rng)
        overall, classes = reference(name, y, scores)
        assert compute(name, y, scores) == pytest.approx(overall, rel=1e-12, abs=1e-14)
        np.testing.assert_allclose(per_class(name, y, scores), classes, rtol=1e-12, atol=1e-14)
        assert math.isnan(classes[6])

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("name", EITHER)
    def test_indicator(self, name, kind):
        rng = np.random.default_rng(100 + KINDS.index(kind))
        y = rng.random((50, 8)) < 0.3
        y[:, 2], y[:, 5], y[::9] = False, True, False  # a class without positives, one of positives, clips without
        y[::9, 5] = True
        scores = make_scores(kind, (50, 8), rng)
        overall, classes = reference(name, y, scores)
        assert compute(name, y, scores) == pytest.approx(overall, rel=1e-12, abs=1e-14)
        np.testing.assert_allclose(per_class(name, y, scores), classes, rtol=1e-12, atol=1e-14)

    def test_lwlrap_of_several_blocks(self):
        rng = np.random.default_rng(1)
        y, scores = rng.random((20, 60_000)) < 1e-4, rng.random((20, 60_000), np.float32)
        once = compute("lwlrap", y, scores)
        parts = [(compute("lwlrap", y[i : i + 5], scores[i : i + 5]), y[i : i + 5].sum()) for i in range(0, 20, 5)]
        assert once == pytest.approx(sum(value * count for value, count in parts) / y.sum(), rel=1e-12)


class TestAgainstScikitLearn:
    @pytest.fixture(params=["random", "tied"])
    def multi_label(self, request):
        rng = np.random.default_rng(3)
        return rng.random((300, 20)) < 0.2, make_scores(request.param, (300, 20), rng)

    @pytest.fixture(params=["random", "tied"])
    def multi_class(self, request):
        rng = np.random.default_rng(4)
        return rng.integers(0, 10, 300), make_scores(request.param, (300, 10), rng)

    def test_multi_label(self, multi_label):
        y, scores = multi_label
        assert compute("map", y, scores) == pytest.approx(sklearn_metrics.average_precision_score(y, scores))
        assert compute("mauc", y, scores) == pytest.approx(sklearn_metrics.roc_auc_score(y, scores))
        expected = sklearn_metrics.label_ranking_average_precision_score(y, scores, sample_weight=y.sum(axis=1))
        assert compute("lwlrap", y, scores) == pytest.approx(expected)

    def test_multi_class(self, multi_class):
        y, scores = multi_class
        best = scores.argmax(axis=1)
        assert compute("accuracy", y, scores) == sklearn_metrics.accuracy_score(y, best)
        assert compute("macro_accuracy", y, scores) == pytest.approx(sklearn_metrics.balanced_accuracy_score(y, best))
        one_hot = np.eye(10)[y]
        assert compute("map", y, scores) == pytest.approx(sklearn_metrics.average_precision_score(one_hot, scores))

    def test_top_k_without_ties(self):
        rng = np.random.default_rng(5)
        y, scores = rng.integers(0, 10, 300), rng.standard_normal((300, 10))
        for k in (1, 3, 9):
            assert compute(f"top{k}", y, scores) == pytest.approx(
                sklearn_metrics.top_k_accuracy_score(y, scores, k=k, labels=np.arange(10))
            )


class TestTies:
    def test_top_k_prefers_the_lowest_index_as_argmax_does(self):
        scores = np.array([[0.5, 0.5, 0.5, 0.1]] * 4)
        y = np.arange(4)
        assert per_class("top1", y, scores).tolist() == [1.0, 0.0, 0.0, 0.0]
        assert per_class("top2", y, scores).tolist() == [1.0, 1.0, 0.0, 0.0]
        assert per_class("top3", y, scores).tolist() == [1.0, 1.0, 1.0, 0.0]

    @pytest.mark.parametrize("kind", KINDS)
    def test_top1_is_accuracy(self, kind):
        rng = np.random.default_rng(6)
        y, scores = rng.integers(0, 5, 200), make_scores(kind, (200, 5), rng)
        assert compute("top1", y, scores) == compute("accuracy", y, scores) == (scores.argmax(axis=1) == y).mean()

    def test_order_of_clips_does_not_matter(self):
        rng = np.random.default_rng(7)
        y, scores = rng.random((80, 6)) < 0.3, rng.integers(0, 3, (80, 6)).astype(float)
        order = rng.permutation(80)
        for name in EITHER:
            assert compute(name, y[order], scores[order]) == pytest.approx(compute(name, y, scores), rel=1e-12)

    def test_equal_scores_everywhere(self):
        rng = np.random.default_rng(8)
        y, scores = rng.random((2000, 30)) < 0.1, np.zeros((2000, 30), np.float32)
        np.testing.assert_allclose(per_class("map", y, scores), y.mean(axis=0), rtol=1e-12)
        assert per_class("mauc", y, scores).tolist() == [0.5] * 30
        assert compute("d_prime", y, scores) == 0.0


class TestDegenerate:
    @pytest.mark.parametrize("name", [*INDEX_ONLY, "map", "lwlrap"])
    def test_one_clip(self, name):
        assert compute(name, np.array([1]), np.array([[0.1, 0.9, 0.0]])) == 1.0

    def test_perfect_and_worst(self):
        y = np.arange(6) % 3
        best, worst = np.eye(3)[y], -np.eye(3)[y]
        for name in (*INDEX_ONLY, "map", "mauc", "lwlrap"):
            assert compute(name, y, best) == 1.0
        assert compute("accuracy", y, worst) == compute("mauc", y, worst) == 0.0
        assert compute("d_prime", y, best) == math.inf
        assert compute("d_prime", y, worst) == -math.inf

    def test_k_of_all_classes_and_more(self):
        y, scores = np.array([0, 1, 2]), np.random.default_rng(9).random((3, 3))
        assert compute("top3", y, scores) == compute("top20", y, scores) == 1.0

    def test_a_class_of_positives_only_has_no_area(self):
        y, scores = np.array([[True, True], [True, False]]), np.array([[0.1, 0.9], [0.2, 0.3]])
        assert compute("mauc", y, scores) == 1.0
        assert np.isnan(per_class("mauc", y, scores)[0])
        assert np.isnan(per_class("d_prime", y, scores)[0])
        assert per_class("map", y, scores).tolist() == [1.0, 1.0]

    @pytest.mark.parametrize("name", EITHER)
    def test_no_positives_at_all(self, name):
        y, scores = np.zeros((4, 3), bool), np.random.default_rng(0).random((4, 3))
        assert np.isnan(per_class(name, y, scores)).all()
        with pytest.raises(ValueError, match=r"no class has .* score more clips together"):
            compute(name, y, scores)

    @pytest.mark.parametrize("name", ["mauc", "d_prime"])
    def test_no_negatives(self, name):
        with pytest.raises(ValueError, match="both positive and negative"):
            compute(name, np.ones((4, 3)), np.random.default_rng(0).random((4, 3)))

    def test_macro_accuracy_leaves_out_absent_classes(self):
        y = np.array([0, 0, 0, 2])
        scores = np.eye(4)[[0, 0, 1, 2]]
        assert compute("macro_accuracy", y, scores) == pytest.approx((2 / 3 + 1) / 2)
        assert compute("accuracy", y, scores) == 0.75

    def test_integer_scores_and_indicators_of_any_number_type(self):
        y, scores = np.array([[1, 0], [0, 1], [1, 1]]), np.array([[3, 1], [0, 2], [1, 1]])
        expected = compute("map", y.astype(bool), scores.astype(float))
        for dtype in (np.int8, np.uint8, np.float32, np.float64):
            assert compute("map", y.astype(dtype), scores) == expected


class TestRefusals:
    Y, SCORES = np.array([0, 1, 2, 1]), np.random.default_rng(0).random((4, 3))

    @pytest.mark.parametrize(
        "name", ["", "Accuracy", "top0", "top-1", "top", "top05", "top5 ", "f1", "mAP", None, 5, ["map"]]
    )
    def test_unknown_names_list_the_known_ones(self, name):
        for call in (
            check_name,
            lambda n: compute(n, self.Y, self.SCORES),
            lambda n: per_class(n, self.Y, self.SCORES),
        ):
            with pytest.raises(ValueError, match=r"accuracy, macro_accuracy, map, mauc, d_prime, lwlrap, or top5"):
                call(name)

    @pytest.mark.parametrize("name", [*INDEX_ONLY, *EITHER, "top10", "top527"])
    def test_known_names(self, name):
        check_name(name)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("name", INDEX_ONLY + EITHER)
    def test_scores_that_are_not_finite(self, name, value):
        scores = self.SCORES.copy()
        scores[2, 1] = value
        with pytest.raises(ValueError, match=r"finite, got .* at row 2, column 1; check the embeddings"):
            compute(name, self.Y, scores)

    @pytest.mark.parametrize(
        ("y", "scores", "cure"),
        [
            (np.zeros(3, int), np.zeros((4, 3)), r"shape \(4,\) or .* \(4, 3\).*same clips and classes"),
            (np.zeros((4, 2), bool), np.zeros((4, 3)), r"\(4, 3\) to fit the scores, got shape \(4, 2\)"),
            (np.zeros((3, 4), bool), np.zeros((4, 3)), "got shape"),
            (np.zeros((4, 3, 1), bool), np.zeros((4, 3)), "got shape"),
            (np.zeros(4, int), np.zeros(4), r"\(N, C\).*column_stack"),
            (np.zeros(4, int), np.zeros((4, 3), complex), r"numbers of shape \(N, C\)"),
            (np.zeros(4, int), np.full((4, 3), "a"), r"numbers of shape \(N, C\)"),
            (np.zeros(4, int), np.zeros((4, 3), bool), r"numbers of shape \(N, C\)"),
            (np.zeros(0, int), np.zeros((0, 3)), "at least one clip"),
            (np.zeros((4, 0), bool), np.zeros((4, 0)), "one class"),
            (np.array([0, 1, 3, 0]), np.zeros((4, 3)), r"0 to 2.*got 3; .*searchsorted"),
            (np.array([0, -1, 2, 0]), np.zeros((4, 3)), r"got -1; .*searchsorted"),
            (np.array([0.0, 1.0, 2.0, 0.0]), np.zeros((4, 3)), r"integers.*got float64; .*searchsorted"),
            (np.array(["dog", "cat", "cow", "dog"]), np.zeros((4, 3)), "must hold integers"),
            (np.array([True, False, True, False]), np.zeros((4, 3)), "must hold integers"),
            (np.full((4, 3), 0.5), np.zeros((4, 3)), "zeros and ones.*binarise"),
            (np.full((4, 3), 2), np.zeros((4, 3)), "zeros and ones.*binarise"),
            (np.full((4, 3), np.nan), np.zeros((4, 3)), "zeros and ones.*binarise"),
            (np.full((4, 3), "1"), np.zeros((4, 3)), "zeros and ones.*binarise"),
        ],
    )
    def test_arrays_that_do_not_fit(self, y, scores, cure):
        for function in (compute, per_class):
            with pytest.raises(ValueError, match=cure):
                function("map", y, scores)

    @pytest.mark.parametrize("name", INDEX_ONLY)
    def test_accuracy_of_an_indicator(self, name):
        for function in (compute, per_class):
            with pytest.raises(ValueError, match=r"one class index a clip.*argmax\(axis=1\)"):
                function(name, np.eye(3, dtype=bool), np.eye(3))

    def test_arguments_are_left_alone(self):
        rng = np.random.default_rng(0)
        y, scores = rng.random((20, 4)) < 0.4, rng.random((20, 4))
        before = y.copy(), scores.copy()
        for name in EITHER:
            per_class(name, y, scores)
            compute(name, y, scores)
        np.testing.assert_array_equal(y, before[0])
        np.testing.assert_array_equal(scores, before[1])
