"""LinearProbe: a linear classifier on embeddings, as a scikit-learn estimator."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from sedembed._utils.isolation import one_thread_after_fork
from sedembed.engine.runner import pick_device
from sedembed.errors import InvalidArgumentError, InvalidTypeError
from sedembed.probe.arrays import check_indicator, raising_our_own, refusing_extremes, to_labels, to_vectors
from sedembed.probe.checks import DEFAULT_CS, check_parameters, refuse_other_model
from sedembed.probe.features import Normalization, Normalizer, Rows
from sedembed.probe.fitting import Fitted, Labels, Settings, Split, exceeds, fit_one, score_path, scores_of
from sedembed.probe.inputs import (
    Scorer,
    StoreLabels,
    check_large,
    class_factors,
    identity,
    is_large,
    one_a_row,
    recordings_of,
    row_weights,
    validation_labels,
    widened,
)
from sedembed.probe.saving import SavedMixin
from sedembed.probe.splits import fold_splits, inner_splits
from sedembed.probe.torch_head import ProbeHead
from sedembed.store.store import EmbeddingStore

if TYPE_CHECKING:
    from sedembed.embedder import Embedder
    from sedembed.probe.evaluation import Evaluation

__all__ = ["LinearProbe"]

_TOLERANCE, _TOLERANCE_FLOAT64 = 1e-6, 1e-20


class LinearProbe(SavedMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A linear classifier on embeddings, with the normalisation of the paper and a C that tunes itself.

    Softmax cross-entropy if each row has one class, independent logistic losses if y is an indicator matrix; the
    penalty is ½‖W‖² against C times the sum of the losses, and the intercept is free, as in
    `sklearn.linear_model.LogisticRegression`, whose optimum it reaches.

    Parameters
    ----------
    C : float or "auto"
        Weight of the losses. "auto" tries `Cs` and keeps the one with the best validation score; among equal scores
        the smallest.
    normalize : {"standardize+l2", "l2", "none"}
        What is done to each vector first: standardise each dimension by the training rows, then scale to unit length
        (the paper's chain for TALNet), unit length only (for WEANet), or nothing.
    metric : str, optional
        Score by which C is chosen: "accuracy", "macro_accuracy", "top5" (any k), "map", "mauc", "d_prime", "lwlrap". By
        default "accuracy", and "map" for several labels a row.
    Cs : sequence of float, optional
        Values to try, best in ascending equal ratios; by default eleven from 0.1 to 10 000.
    cv : int, splitter or iterable of (train, test)
        Inner split for choosing C, where `fit` is given neither validation data nor folds. An int is the number of
        parts, stratified by class; groups stay together. Rows that exceed the memory are split once.
    class_weight : dict or "balanced", optional
        Weight of each class in the loss. With several labels for a row it applies to the positives; "balanced" then
        gives positives and negatives of a class the same total weight.
    tol : float, optional
        Relative tolerance on the objective; by default 1e-6, and machine precision for vectors of float64. The fits
        that choose C always use 1e-6.
    max_iter : int
        Most passes over the rows, for each C.
    max_memory : int
        Bytes that a fit may hold, beside the vectors that the caller holds: vectors of float32 or float64, and what is
        computed for each. Larger sets are streamed from disk (`numpy.memmap` or a store) in every pass, to the same
        optimum. Some forty copies of the weights, and 2 D rows, are held in any case.
    device : str or torch.device, optional
        Where to compute; by default the CPU.
    random_state : int
        Of the inner split.
    progress : bool, optional
        Show a progress bar; by default if stderr is a terminal.

    Attributes
    ----------
    classes_ : ndarray, shape (C,)
        Names of the classes, sorted; for an indicator without names their numbers.
    coef_, intercept_ : ndarray, shapes (C, D) and (C,)
        For vectors after normalisation. Two classes have a row each: minus and plus half of the one row that
        scikit-learn has.
    mean_, scale_ : ndarray of float64, shape (D,)
        Statistics of the standardisation; zeros and ones without it.
    C_ : float
        The C of the fit.
    scores_ : dict of float to float
        Validation score of each C that was tried; empty for a fixed C.
    multilabel_ : bool
        Whether rows have any number of classes.
    model_ : dict or None
        Name, version, sha256 and front end version of the model of the vectors, if they came from a store or
        with ``model=``.
    n_iter_ : int
        Passes over the rows of the final fit.
    n_features_in_ : int
        D.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(60, 8)), np.repeat(["cat", "dog", "rain"], 20)
    >>> X[:20, 0] += 4; X[20:40, 1] += 4
    >>> probe = LinearProbe(progress=False).fit(X, y)
    >>> probe.predict_proba(X).shape, probe.score(X, y) > 0.9
    ((60, 3), True)
    """

    def __init__(
        self,
        C: float | str = "auto",
        *,
        normalize: Normalization = "standardize+l2",
        metric: str | None = None,
        Cs: Sequence[float] | None = None,
        cv: Any = 5,
        class_weight: Mapping[Any, float] | str | None = None,
        tol: float | None = None,
        max_iter: int = 300,
        max_memory: int = 1 << 30,
        device: str | torch.device | None = None,
        random_state: int = 0,
        progress: bool | None = None,
    ) -> None:
        self.C = C
        self.normalize = normalize
        self.metric = metric
        self.Cs = Cs
        self.cv = cv
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.max_memory = max_memory
        self.device = device
        self.random_state = random_state
        self.progress = progress

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    # --- fit ------------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: ArrayLike | EmbeddingStore,
        y: ArrayLike | StoreLabels | str | os.PathLike[str] | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        validation: tuple[Any, Any] | None = None,
        groups: ArrayLike | None = None,
        folds: ArrayLike | None = None,
        model: Embedder | None = None,
    ) -> LinearProbe:
        """Fit to vectors and their labels.

        Parameters
        ----------
        X : array (N, D), numpy.memmap or EmbeddingStore
            Vectors, finite. float64 is computed in float64, all else in float32.
        y : array (N,) or (N, C), or path
            Classes, numbers or strings; or an indicator of zeros and ones; or, with a store, a CSV with the columns
            ``path,label``, several labels separated by ``;``; or "folder": the class of a recording is the first
            folder of its path. Rows of the store without a label are left out. In a store with windows, each window
            has the label of its recording, or a CSV ``path,start,end,label`` (seconds) labels parts: a window has the
            label of a part if they share half of the window or half of the part.
        sample_weight : array (N,), optional
            Weight of each row in the statistics, the losses and the validation accuracy.
        validation : (X, y), optional
            Rows that choose C; they are not fitted.
        groups : array (N,), optional
            Rows of one group stay together in the inner split. N counts all rows of `X`, also those without a label. By
            default, windows of one recording stay together.
        folds : array (N,), optional
            Choose C by leaving out the rows of each value in turn.
        model : Embedder, optional
            Where an array of vectors came from, to be kept with the probe.

        Returns
        -------
        LinearProbe
            Itself.

        Raises
        ------
        ValueError
            For parameters or arrays that cannot be used; the message says what was expected.
        ProbeError
            For labels that do not fit the store, or validation vectors of another model.
        """
        check_parameters(self)
        one_thread_after_fork()
        rows, y = self._check_rows(to_vectors(X), y)
        # With a table of labels, the other arguments have values for all rows of the store.
        count = len(X) if isinstance(X, EmbeddingStore) else len(rows)
        sample_weight = one_a_row("sample_weight", sample_weight, count)
        known = self._encode(rows, y, sample_weight)
        self.model_ = identity(X) if isinstance(X, EmbeddingStore) else None if model is None else identity(model)
        settings = self._settings()
        metric = self.metric or ("map" if self.multilabel_ else "accuracy")
        if self.multilabel_ and (metric.endswith("accuracy") or metric.startswith("top")):
            raise InvalidArgumentError(
                f"metric {metric!r} needs one class a row, and y has several; choose map, mauc, d_prime or lwlrap"
            )
        if sum(given is not None for given in (validation, groups, folds)) > 1:
            raise InvalidArgumentError("give one of validation, groups and folds; each says how to choose C")
        if isinstance(X, EmbeddingStore) and validation is None and groups is None and folds is None:
            # Windows of one recording are alike: on both sides of a split, they would make a C look good.
            groups = recordings_of(X, np.arange(count) if rows.chosen is None else rows.chosen)
        # Also where C is given, and nothing is chosen by them.
        groups, folds = one_a_row("groups", groups, count), one_a_row("folds", folds, count)
        chosen, start, basis = self.C, None, None
        self.scores_: dict[float, float] = {}
        if self.C == "auto":
            if isinstance(y, StoreLabels):
                groups = None if groups is None else groups[y.rows]
                folds = None if folds is None else folds[y.rows]
            cs = [float(c) for c in (DEFAULT_CS if self.Cs is None else self.Cs)]
            splits = self._splits(rows, known, validation, groups, folds)
            if splits:
                with refusing_extremes():
                    scores, starts, basis = score_path(rows, known, splits, cs, Scorer(metric), settings)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)  # of a C that no split has a score for
                    means = np.nanmean(scores, axis=0)
                self.scores_ = {c: float(mean) for c, mean in zip(cs, means, strict=True) if not np.isnan(mean)}
            if self.scores_:
                best = int(np.nanargmax(means))
                chosen, start = cs[best], starts[best]
            else:
                chosen = 1.0
                warnings.warn(
                    "C = 1 is taken: the rows to choose it by are too few, or none of their classes has the examples "
                    f"that {metric} needs",
                    UserWarning,
                    stacklevel=2,
                )
        self.C_ = float(cast(float, chosen))
        if self.tol is None and rows.dtype == np.float64:
            settings = replace(settings, tolerance=_TOLERANCE_FLOAT64)
        with refusing_extremes():
            fitted = fit_one(rows, known, self.C_, settings, start, basis)
        self._keep(fitted, known)
        return self

    def _keep(self, fitted: Fitted, known: Labels) -> None:
        intercept = fitted.intercept.copy()
        # A class that no row has: as likely as half a row among them all.
        intercept[intercept < -1e29] = -math.log(2 * len(known.y) + 1)
        self.coef_ = np.ascontiguousarray(fitted.weights.T)
        self.intercept_ = intercept
        self.mean_, self.scale_ = fitted.normalizer.mean, fitted.normalizer.scale
        self.n_iter_ = fitted.evaluations
        if not fitted.converged:
            warnings.warn(
                f"the fit stopped after max_iter={self.max_iter} passes, short of tol; raise max_iter or tol",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _settings(self) -> Settings:
        return Settings(
            self.normalize,
            self.multilabel_,
            _TOLERANCE if self.tol is None else float(self.tol),
            int(self.max_iter),
            int(self.max_memory),
            pick_device("cpu" if self.device is None else self.device),
            self.progress,
        )

    def _check_rows(self, X: Any, y: Any) -> tuple[Rows, Any]:
        """Rows to fit on, and their labels."""
        if isinstance(X, EmbeddingStore):
            self.n_features_in_ = X.embedding_size
            if isinstance(y, (str, os.PathLike)):
                y = StoreLabels.read(y, X)
            if isinstance(y, StoreLabels):
                return Rows(X, y.rows), y
            if y is None:
                raise InvalidArgumentError(
                    "requires y to be passed: an array of labels, or the path of a CSV of path,label"
                )
            y = to_labels(y)
            if len(X) != len(y):
                raise InvalidArgumentError(
                    f"the store has {len(X)} rows and y {len(y)}; give y in the order of store.paths, or "
                    "the path of a CSV of path,label"
                )
            return Rows(X), y
        if isinstance(y, (str, os.PathLike)):
            raise InvalidArgumentError("labels from a CSV need a store as X, whose paths they name; got an array")
        if is_large(X, self.max_memory):
            if y is None:
                raise InvalidArgumentError("requires y to be passed, but the target y is None")
            check_large(X)
            self.n_features_in_ = X.shape[1]
            y = to_labels(y)
            if len(X) != len(y):
                raise InvalidArgumentError(f"X has {len(X)} rows and y {len(y)}; give as many labels as vectors")
            return Rows(X), y
        if y is not None and not hasattr(y, "toarray"):
            y = to_labels(y)
        with raising_our_own():
            X, y = validate_data(
                self, widened(X), y, dtype=(np.float64, np.float32), multi_output=True, ensure_min_samples=2, order="C"
            )
        return Rows(X), y

    def _encode(self, rows: Rows, y: Any, sample_weight: ArrayLike | None) -> Labels:
        """Turn labels into numbers; sets `classes_` and `multilabel_`."""
        if isinstance(y, StoreLabels):
            if sample_weight is not None:
                sample_weight = np.asarray(sample_weight)[y.rows]
            names, y = y.classes, y.y
        else:
            names = None
            if hasattr(y, "toarray"):
                raise InvalidTypeError("sparse labels are not supported; give a dense indicator: y.toarray()")
            with raising_our_own():
                check_classification_targets(y)
        self.multilabel_ = y.ndim == 2 and (y.shape[1] > 1 or y.dtype == np.bool_)
        factors = None
        if self.multilabel_:
            if names is None and type_of_target(y) != "multilabel-indicator":
                raise InvalidArgumentError(
                    f"y of shape {y.shape} must be an indicator of zeros and ones, one column a class; "
                    "for one class a row give shape (N,)"
                )
            check_indicator(y)
            y = y.astype(bool)
            self.classes_ = np.arange(y.shape[1]) if names is None else names
            if not y.any() or y.all():
                raise InvalidArgumentError("y is all zeros or all ones; a classifier needs both kinds of examples")
        else:
            y = column_or_1d(y, warn=True)
            self.classes_, y = np.unique(y, return_inverse=True)
            if len(self.classes_) < 2:
                raise InvalidArgumentError(
                    f"needs rows of at least 2 classes, but y has only one class: {self.classes_.tolist()[0]!r}"
                )
        count = len(rows)
        weights = np.ones(count) if sample_weight is None else row_weights(sample_weight, count)
        if self.class_weight is not None:
            factors = class_factors(self.class_weight, self.classes_, y, weights)
        return Labels(y, len(self.classes_), weights, factors)

    def _splits(self, rows: Rows, known: Labels, validation: Any, groups: Any, folds: Any) -> list[Split]:
        """Parts to choose C by."""
        everything = np.arange(len(rows))
        if validation is not None:
            held, labels = self._validation(validation)
            return [Split(everything, held, labels)]
        if folds is not None:
            pairs = fold_splits(folds)
        else:
            once = exceeds(rows, known, self.max_memory)
            pairs = inner_splits(known, groups, self.cv, once=once, random_state=self.random_state)
        return [Split(train, rows.take(test), known.take(test)) for train, test in pairs]

    def _validation(self, validation: Any) -> tuple[Rows, Labels]:
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise InvalidArgumentError("validation must be a pair of vectors and labels, (X, y)")
        X, y = validation
        if isinstance(X, EmbeddingStore) and isinstance(y, (str, os.PathLike, StoreLabels)):
            known = self.classes_ if self.multilabel_ else None
            named = y if isinstance(y, StoreLabels) else StoreLabels.read(y, X, known)
            rows, y = self._rows_like(X).take(named.rows), named.y
        else:
            rows, y = self._rows_like(to_vectors(X)), to_labels(y, "the validation labels")
        return rows, validation_labels(y, len(rows), self.classes_, multilabel=self.multilabel_)

    # --- use ------------------------------------------------------------------------------------------------------

    def decision_function(self, X: ArrayLike | EmbeddingStore) -> NDArray[np.floating]:
        """Scores before softmax or sigmoid.

        Parameters
        ----------
        X : array (N, D), numpy.memmap or EmbeddingStore
            Vectors of the kind that was fitted.

        Returns
        -------
        ndarray of float, shape (N, C)
            For two classes that exclude each other shape (N,), that of the second less that of the first.

        Raises
        ------
        ProbeError
            For a store made with another model or version.
        """
        scores = self._scores(X)
        if len(self.classes_) == 2 and not self.multilabel_:
            difference: NDArray[np.floating] = scores[:, 1] - scores[:, 0]
            return difference
        return scores

    def predict_proba(self, X: ArrayLike | EmbeddingStore) -> NDArray[np.float64]:
        """Probability of each class: softmax, or for an indicator a sigmoid each.

        Parameters
        ----------
        X
            As for `decision_function`.

        Returns
        -------
        ndarray of float64, shape (N, C)
            In the order of `classes_`.
        """
        scores = torch.from_numpy(self._scores(X).astype(np.float64, copy=False))
        result: NDArray[np.float64] = (scores.sigmoid() if self.multilabel_ else scores.softmax(1)).numpy()
        return result

    def predict(self, X: ArrayLike | EmbeddingStore) -> NDArray[Any]:
        """Most likely class of each row, or an indicator of those more likely than not.

        Parameters
        ----------
        X
            As for `decision_function`.

        Returns
        -------
        ndarray, shape (N,) of classes, or int (N, C)
        """
        scores = self._scores(X)
        if self.multilabel_:
            return (scores > 0).astype(int)
        predicted: NDArray[Any] = self.classes_[scores.argmax(1)]
        return predicted

    def _scores(self, X: Any) -> NDArray[np.floating]:
        check_is_fitted(self)
        X = to_vectors(X)
        if not isinstance(X, EmbeddingStore) and not is_large(X, self.max_memory):
            with raising_our_own():
                X = validate_data(self, widened(X), reset=False, dtype=(np.float64, np.float32), order="C")
        rows = self._rows_like(X)
        normalizer = Normalizer(self.normalize, self.mean_, self.scale_)
        weights, intercept = (np.ascontiguousarray(v).astype(rows.dtype) for v in (self.coef_.T, self.intercept_))
        return scores_of(Fitted(weights, intercept, normalizer, 0, True), rows)

    def _rows_like(self, X: Any) -> Rows:
        """Rows of vectors, after checking that they are of the kind that was fitted."""
        if isinstance(X, EmbeddingStore):
            self.check_model(X)
        elif is_large(X, self.max_memory):
            check_large(X)
        else:
            X = np.asarray(X)
            if X.ndim != 2:
                raise InvalidArgumentError(f"expected vectors of shape (N, {self.n_features_in_}), got shape {X.shape}")
        rows = Rows(X)
        if rows.size != self.n_features_in_:
            raise InvalidArgumentError(
                f"the probe was fitted on vectors of {self.n_features_in_} numbers and these have {rows.size}; use the "
                "same model"
            )
        return rows

    def check_model(self, vectors: EmbeddingStore | Embedder) -> None:
        """Check that vectors are of the model that the probe was fitted on.

        Parameters
        ----------
        vectors : EmbeddingStore or Embedder
            Where they come from.

        Raises
        ------
        ProbeError
            If its version, weights or front end differ. A probe fitted on plain arrays knows no model and passes.
        """
        refuse_other_model(getattr(self, "model_", None), vectors)

    def evaluate(
        self,
        X: ArrayLike | EmbeddingStore,
        y: ArrayLike | StoreLabels | str | os.PathLike[str],
        *,
        folds: int | ArrayLike = 5,
        groups: ArrayLike | None = None,
    ) -> Evaluation:
        """Estimate by cross-validation how well a probe with these parameters does on recordings it has not seen.

        In each fold a new probe is fitted on all other folds; if C is "auto", C is chosen within these, by an inner
        split, so the rows that score it have no say in it. This probe itself stays as it is.

        Parameters
        ----------
        X, y
            As for `fit`.
        folds : int or array (N,)
            Number of folds, drawn by `random_state` and stratified by class where rows have one; or the fold of each
            row. Inner splits then leave out the other folds in turn.
        groups : array (N,), optional
            Rows of one group are in one fold; by default windows of one recording. N counts all rows of `X`.

        Returns
        -------
        Evaluation
            Score with a 95 % interval, tables by class and by fold, confusion matrix, the probabilities of every row by
            a probe that was not fitted on it; `.plot()`.

        Raises
        ------
        ValueError
            As for `fit`, and if there are too few rows or groups for the folds.
        """
        from sedembed.probe.evaluation import cross_validate

        return cross_validate(self, X, y, folds, groups)

    def to_torch(self) -> ProbeHead:
        """Make a module of the same function, to be trained further or joined to a network.

        Returns
        -------
        ProbeHead
            Maps embeddings (B, D) to scores (B, C); weights and intercepts are parameters, the normalisation is fixed.
        """
        check_is_fitted(self)
        return ProbeHead(self.coef_, self.intercept_, self.mean_, self.scale_, self.normalize)

    # --- files ----------------------------------------------------------------------------------------------------
