"""LinearProbe against scikit-learn, by the checks of scikit-learn, and in a user's hands."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import sedembed
from sedembed import LinearProbe
from sedembed.errors import ProbeError
from tests.probe.probe_helpers import blobs, multilabel


@parametrize_with_checks([LinearProbe(progress=False)])
def test_scikit_learn_checks(estimator, check):
    with warnings.catch_warnings():
        # The checks fit rows of noise, of one row a class, and of labels in a column.
        warnings.simplefilter("ignore")
        check(estimator)


class TestScikitLearn:
    def test_clone_pipeline_grid_and_cross_validation(self):
        x, y = blobs(120, 8, 3)
        names = np.array(["bark", "meow", "rain"])[y]
        probe = clone(LinearProbe(C=3.0, normalize="l2", progress=False)).set_params(C=2.0)
        assert probe.get_params()["C"] == 2.0
        pipeline = make_pipeline(StandardScaler(), probe).fit(x, names)
        assert set(pipeline.predict(x)) == {"bark", "meow", "rain"}
        grid = GridSearchCV(LinearProbe(progress=False), {"C": [0.1, 10.0], "normalize": ["l2", "none"]}, cv=2)
        assert grid.fit(x, names).best_score_ > 0.4
        assert cross_val_score(LinearProbe(C=1.0, progress=False), x, names, cv=3).mean() > 0.5

    def test_several_labels_in_cross_validation(self):
        x, y = multilabel(120, 8, 3)
        assert cross_val_score(LinearProbe(C=1.0, progress=False), x, y, cv=3, scoring="f1_macro").mean() > 0.5


@pytest.fixture(scope="module")
def store(untrained_embedder, write_sounds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    write_sounds(folder, {f"{k}/{i}.wav": 0.3 for k in "abc" for i in range(6)})
    return sedembed.embed_folder(folder, folder / "store", untrained_embedder, progress=False)


class TestStore:
    def test_labels_by_path(self, store, tmp_path, untrained_embedder):
        labelled = store.paths[1:]
        (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{p},{p[0]}\n" for p in reversed(labelled)))
        probe = LinearProbe(C=10.0, progress=False).fit(store, tmp_path / "labels.csv")
        by_hand = LinearProbe(C=10.0, progress=False).fit(store.vectors[1:], np.array([p[0] for p in labelled]))
        np.testing.assert_allclose(probe.predict_proba(store), by_hand.predict_proba(store.vectors), atol=1e-5)
        assert probe.model_["name"] == untrained_embedder.record.name
        assert by_hand.model_ is None

    def test_several_labels_by_path(self, store, tmp_path):
        lines = [f"{p},{p[0]};x" if i % 2 else f"{p},{p[0]}" for i, p in enumerate(store.paths)]
        (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(lines))
        probe = LinearProbe(C=10.0, progress=False).fit(store, tmp_path / "labels.csv")
        assert probe.multilabel_
        assert probe.classes_.tolist() == ["a", "b", "c", "x"]
        assert probe.predict(store).shape == (18, 4)

    def test_streamed_from_the_shards(self, store):
        y = np.array([p[0] for p in store.paths])
        inside = LinearProbe(C=1.0, progress=False).fit(store, y)
        streamed = LinearProbe(C=1.0, max_memory=1, progress=False).fit(store, y)
        np.testing.assert_allclose(streamed.predict_proba(store), inside.predict_proba(store.vectors), atol=1e-3)
        validated = LinearProbe(max_memory=1, progress=False).fit(store, y, validation=(store, y))
        assert max(validated.scores_.values()) > 0.5

    def test_labels_without_a_vector_are_told(self, store, tmp_path):
        lines = "".join(f"{p},{p[0]}\n" for p in store.paths)
        (tmp_path / "labels.csv").write_text(f"path,label\n{lines}gone.wav,a\n")
        with pytest.warns(UserWarning, match="gone.wav"):
            LinearProbe(C=1.0, progress=False).fit(store, tmp_path / "labels.csv")

    def test_vectors_of_another_model_are_refused(self, store, tmp_path, untrained_embedder):
        y = np.array([p[0] for p in store.paths])
        probe = LinearProbe(C=1.0, progress=False).fit(store, y)
        probe.check_model(untrained_embedder)
        other = sedembed.open_store(store.directory)
        other.run["settings"]["model_sha256"] = "0" * 64
        with pytest.raises(ProbeError, match=r"sha256.*fit a new probe"):
            probe.predict(other)
        with pytest.raises(ProbeError, match="00000000"):
            LinearProbe(progress=False).fit(store, y, validation=(other, y))
        with pytest.raises(ProbeError):
            probe.check_model(sedembed.load_model("talnet"))

    def test_arrays_can_carry_their_model(self, store, untrained_embedder):
        y = np.array([p[0] for p in store.paths])
        probe = LinearProbe(C=1.0, progress=False).fit(store.vectors, y, model=untrained_embedder)
        assert probe.model_ == LinearProbe(C=1.0, progress=False).fit(store, y).model_


class TestRefusals:
    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"C": 0}, "positive number"),
            ({"C": "best"}, "positive number"),
            ({"Cs": []}, "positive"),
            ({"Cs": [1.0, 0.1]}, "ascend"),
            ({"normalize": "standardise"}, r"standardize\+l2, l2, none"),
            ({"metric": "f1"}, "lwlrap"),
            ({"tol": 0.0}, "tol"),
            ({"cv": 1}, "at least 2 parts"),
            ({"class_weight": "even"}, "balanced"),
        ],
    )
    def test_parameters(self, parameters, message):
        x, y = blobs(30, 4, 3)
        with pytest.raises(ValueError, match=message):
            LinearProbe(progress=False, **parameters).fit(x, y)

    def test_labels(self, store):
        x, y = blobs(30, 4, 3)
        probe = LinearProbe(progress=False)
        with pytest.raises(ValueError, match="one class"):
            probe.fit(x, np.zeros(30))
        with pytest.raises(ValueError, match="indicator"):
            probe.fit(x, np.stack([y, y], 1))
        with pytest.raises(ValueError, match="all zeros or all ones"):
            probe.fit(x, np.zeros((30, 3), int))
        with pytest.raises(ValueError, match="needs one class a row"):
            LinearProbe(metric="accuracy", progress=False).fit(x, np.eye(3, dtype=int)[y])
        with pytest.raises(ValueError, match="CSV need a store"):
            probe.fit(x, "labels.csv")
        with pytest.raises(ValueError, match=r"store\.paths"):
            probe.fit(store, y[:5])
        with pytest.raises(ValueError, match="give one of"):
            probe.fit(x, y, groups=y, folds=y)
        with pytest.raises(ValueError, match="one value a row"):
            probe.fit(x, y, folds=y[:4])
        with pytest.raises(ValueError, match="at least 2 values"):
            probe.fit(x, y, folds=np.zeros(30))
        with pytest.raises(ValueError, match=r"pair"):
            probe.fit(x, y, validation=x)
        with pytest.raises(ValueError, match="class 7"):
            probe.fit(x, y, validation=(x, np.full(30, 7)))
        with pytest.raises(ValueError, match="4 numbers and these have 3"):
            probe.fit(x, y, validation=(x[:, :3], y))
        with pytest.raises(ValueError, match="zero"):
            probe.fit(x, y, np.zeros(30))

    def test_sparse_labels_are_refused_clearly(self):
        sparse = pytest.importorskip("scipy.sparse")
        x, y = multilabel(30, 4, 3)
        with pytest.raises((TypeError, ValueError), match=r"sparse.*toarray"):
            LinearProbe(C=1.0, progress=False).fit(x, sparse.csr_matrix(y))

    def test_too_few_rows_to_choose_by(self):
        with pytest.warns(UserWarning, match="C = 1 is taken"):
            assert LinearProbe(progress=False).fit(np.eye(2), [0, 1]).C_ == 1.0


class TestTwoClasses:
    """One row of weights is penalised, not two: the optimum is that of LogisticRegression with the same C."""

    @pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
    def test_breast_cancer(self, C: float):
        from sklearn.datasets import load_breast_cancer
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        X, y = load_breast_cancer(return_X_y=True)
        probe = LinearProbe(C, normalize="none").fit(StandardScaler().fit_transform(X), y)
        known = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(StandardScaler().fit_transform(X), y)
        scaled = StandardScaler().fit_transform(X)
        np.testing.assert_allclose(probe.predict_proba(scaled), known.predict_proba(scaled), atol=1e-5)
        np.testing.assert_allclose(
            probe.coef_[1] - probe.coef_[0], known.coef_[0], atol=1e-4 * np.abs(known.coef_).max()
        )

    def test_weights_of_rows_and_a_chosen_c(self):
        from sklearn.datasets import load_breast_cancer
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        X, y = load_breast_cancer(return_X_y=True)
        X, weights = StandardScaler().fit_transform(X), np.random.default_rng(0).uniform(0, 2, len(y))
        probe = LinearProbe("auto", normalize="none", Cs=[0.001, 0.1, 10.0]).fit(X, y, sample_weight=weights)
        known = LogisticRegression(C=probe.C_, tol=1e-10, max_iter=10_000).fit(X, y, sample_weight=weights)
        np.testing.assert_allclose(probe.predict_proba(X), known.predict_proba(X), atol=1e-5)
