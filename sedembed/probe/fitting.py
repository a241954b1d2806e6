"""Fits of a linear classifier: one C or many, on all rows or with parts left out, in memory or streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from sedembed.probe.features import Normalization, Normalizer, Rows
from sedembed.probe.solver import Dense, Loss, Solution, Streamed, extrapolate, principal_directions, solve, to_weights

__all__ = ["Fitted", "Labels", "Settings", "Split", "exceeds", "fit_one", "score_path", "scores_of"]

# Ratio of C from one fit to the next on the way to a C that is fitted alone.
_STRIDE = 10.0**0.5
_ROUGH = 1e-3
# Shares of the memory: of rows that are held, with what is computed for each; of a sample of rows that are streamed; of
# the preconditioner; of one block on its way from the disk.
_HELD_SHARE = 0.5
_SAMPLE_SHARE = 0.25
_PRECONDITIONER_SHARE = 0.5
_BLOCK_SHARE = 1 / 16
_FEWEST_BLOCK_ROWS = 256
_SAMPLE_ROWS = 2048
_SAMPLE_PER_CLASS = 16
# A streamed sweep ends after this many values of C without a better score.
_PATIENCE = 2


@dataclass(frozen=True)
class Settings:
    """What all fits of a probe share."""

    normalize: Normalization
    multilabel: bool
    tolerance: float
    max_evaluations: int
    max_memory: int
    device: torch.device
    progress: bool | None


@dataclass(frozen=True)
class Labels:
    """What the rows are.

    Parameters
    ----------
    y : ndarray
        Class indices (N,), or an indicator of bool (N, K).
    classes : int
        K.
    weights : ndarray of float64, shape (N,)
        Weight of each row.
    factors : ndarray of float64, shape (2, K), optional
        Weights of a class where it is absent and where it is present; for class indices only the second row counts.
    """

    y: NDArray[np.int64] | NDArray[np.bool_]
    classes: int
    weights: NDArray[np.float64]
    factors: NDArray[np.float64] | None = None

    def take(self, which: NDArray[np.int64]) -> Labels:
        """Labels of some rows."""
        return Labels(self.y[which], self.classes, self.weights[which], self.factors)

    def targets(self, dtype: np.dtype[np.generic]) -> NDArray[np.floating]:
        """Zeros and ones, (N, K)."""
        found = self.y if self.y.ndim == 2 else self.y[:, None] == np.arange(self.classes)
        return found.astype(dtype)

    def loss_weights(self, dtype: np.dtype[np.generic]) -> NDArray[np.floating]:
        """Weights of the losses, (N, 1) or (N, K)."""
        weights = self.weights[:, None]
        if self.factors is not None:
            weights = weights * (
                np.where(self.y, self.factors[1], self.factors[0])
                if self.y.ndim == 2
                else self.factors[1][self.y][:, None]
            )
        return weights.astype(dtype)


@dataclass(frozen=True)
class Split:
    """Rows to fit on, and rows to score on."""

    train: NDArray[np.int64]
    rows: Rows
    labels: Labels


@dataclass(frozen=True)
class Fitted:
    """A linear classifier of normalised rows."""

    weights: NDArray[np.floating]  # (D, K)
    intercept: NDArray[np.floating]  # (K,)
    normalizer: Normalizer
    evaluations: int
    converged: bool


Score = Callable[[Labels, NDArray[np.floating]], float]
Start = tuple[NDArray[np.floating], NDArray[np.floating]]


def scores_of(fitted: Fitted, rows: Rows) -> NDArray[np.floating]:
    """Scores of rows, (n, K), in the order of the rows."""
    scores = np.empty((len(rows), fitted.weights.shape[1]), rows.dtype)
    for places, block in rows.blocks():
        scores[places] = fitted.normalizer(block) @ fitted.weights + fitted.intercept
    return scores


def exceeds(rows: Rows, labels: Labels, max_memory: int) -> bool:
    """Say whether rows are too many to be held in memory while they are fitted."""
    return len(rows) * _bytes_each(rows, labels) > _HELD_SHARE * max_memory


def _bytes_each(rows: Rows, labels: Labels) -> int:
    """Memory for one row: itself, its targets, its doubts in two orders, and perhaps a weight for each class."""
    by_class = 4 if labels.factors is not None and labels.y.ndim == 2 else 3
    return (rows.size + 2 + by_class * labels.classes) * rows.dtype.itemsize


def _in_blocks(rows: Rows, labels: Labels, settings: Settings) -> Rows:
    """Rows that are read in blocks for which there is memory, with normalised copy, scores and targets."""
    each = (3 * rows.size + 4 * labels.classes) * rows.dtype.itemsize
    most = max(_FEWEST_BLOCK_ROWS, int(_BLOCK_SHARE * settings.max_memory / each))
    return replace(rows, block_rows=min(rows.block_rows, most))


# --- one C ---------------------------------------------------------------------------------------------------------


def fit_one(
    rows: Rows,
    labels: Labels,
    c: float,
    settings: Settings,
    start: Start | None = None,
    basis: torch.Tensor | None = None,
) -> Fitted:
    """Fit all rows with one C, from a start near the solution or from nothing."""
    c = _for_two_rows(c, labels, settings)
    rows = _in_blocks(rows, labels, settings)
    problem = _problem(rows, labels, settings, basis=basis)
    with _bar(settings, None, "fit", rows if isinstance(problem, _OnDisk) else None) as bar:
        if start is not None:
            return problem.finish(problem.solve(c, problem.coordinates(*start), bar))
        path = [torch.zeros(problem.dense.shape, dtype=problem.dense.rows.dtype, device=settings.device)]
        steps = max(0, int(np.ceil(np.log(c / 0.1) / np.log(_STRIDE)))) if c > 0.1 else 0
        evaluations = 0
        for k in range(steps, 0, -1):
            # Warm start along increasing C, on a sample where all rows are too many.
            guess = path[0] if len(path) == 1 else extrapolate(path[1:])
            nearby = solve(problem.dense, c / _STRIDE**k, guess, tolerance=_ROUGH)
            evaluations += nearby.evaluations
            path.append(nearby.coordinates)
        return problem.finish(problem.solve(c, path[0] if len(path) == 1 else extrapolate(path[1:]), bar), evaluations)


# --- many C --------------------------------------------------------------------------------------------------------


def score_path(
    rows: Rows, labels: Labels, splits: Sequence[Split], cs: Sequence[float], score: Score, settings: Settings
) -> tuple[NDArray[np.float64], list[Start | None], torch.Tensor | None]:
    """Score fits with each C on each split.

    Returns
    -------
    scores : ndarray of float64, shape (splits, C)
        NaN where a score is not defined, or the sweep ended before.
    starts : list
        For each C the mean of the solutions, to begin the fit on all rows from.
    basis : Tensor (D, D), optional
        Principal directions of all rows, where the fits shared them.
    """
    cs = [_for_two_rows(c, labels, settings) for c in cs]
    scores = np.full((len(splits), len(cs)), np.nan)
    sums: list[Start | None] = [None] * len(cs)
    rows = _in_blocks(rows, labels, settings)
    splits = [replace(split, rows=_in_blocks(split.rows, labels, settings)) for split in splits]
    sizes = [len(split.train) for split in splits]
    together, basis = 1, None
    # Parts with fewer rows than numbers in a row span spaces of their own.
    if min(sizes) > rows.size and not exceeds(rows, labels, settings.max_memory):
        basis = _problem(rows, labels, settings).basis
        if settings.device.type != "cpu":
            bytes_of_one = max(sizes) * _bytes_each(rows, labels)
            together = max(1, int(_HELD_SHARE * settings.max_memory / bytes_of_one))
    problem: _InMemory | None = None
    groups = [range(i, min(i + together, len(splits))) for i in range(0, len(splits), together)]
    with _bar(settings, len(groups) * len(cs), "choose C", None) as bar:
        for group in groups:
            del problem  # before another takes its place
            problem = _problem(rows, labels, settings, [splits[i].train for i in group], basis)
            path = [torch.zeros(problem.dense.shape, dtype=problem.dense.rows.dtype, device=settings.device)]
            best, behind = -np.inf, 0
            for k, c in enumerate(cs):
                guess = path[0] if len(path) == 1 else extrapolate(path[1:])
                solution = problem.solve(c, guess, None)
                path = [path[0], *path[1:][-2:], solution.coordinates]
                for j, i in enumerate(group):
                    fitted = problem.finish(solution, index=j)
                    scores[i, k] = score(splits[i].labels, scores_of(fitted, splits[i].rows))
                    before = sums[k]
                    part = (fitted.weights / len(splits), fitted.intercept / len(splits))
                    sums[k] = part if before is None else (before[0] + part[0], before[1] + part[1])
                bar.update()
                behind = 0 if scores[group[0], k] > best else behind + 1
                best = max(best, scores[group[0], k])
                if isinstance(problem, _OnDisk) and behind >= _PATIENCE:
                    bar.update(len(cs) - k - 1)
                    break
    return scores, sums, basis


def _for_two_rows(c: float, labels: Labels, settings: Settings) -> float:
    """C that gives two classes the optimum of one penalised row, as scikit-learn has it.

    The rows of two classes are +w/2 and -w/2, and ½‖W‖² is then ¼‖w‖²: half of what is meant.
    """
    return c / 2 if labels.classes == 2 and not settings.multilabel else c


# --- problems ------------------------------------------------------------------------------------------------------


class _InMemory:
    """Problems whose rows are held, in the coordinates of one basis."""

    def __init__(
        self,
        dense: Dense,
        basis: torch.Tensor,
        centres: list[torch.Tensor],
        normalizers: list[Normalizer],
        settings: Settings,
    ) -> None:
        self.dense, self.basis, self.centres, self.normalizers = dense, basis, centres, normalizers
        self.settings = settings

    def solve(self, c: float, start: torch.Tensor, bar: tqdm | None) -> Solution:
        """Minimise."""
        settings = self.settings
        return solve(self.dense, c, start, tolerance=settings.tolerance, max_evaluations=settings.max_evaluations)

    def coordinates(self, weights: NDArray[np.floating], intercept: NDArray[np.floating]) -> torch.Tensor:
        """Coordinates of the weights of rows."""
        w, b = (torch.from_numpy(np.ascontiguousarray(v)).to(self.basis) for v in (weights, intercept))
        # The start is a mean over parts; a class without rows in one of them has no usable intercept there.
        b = torch.where(b > -1e20, b + self.centres[0] @ w, 0.0)
        return torch.cat((self.basis.T @ w, b[None]))[None]

    def finish(self, solution: Solution, evaluations: int = 0, index: int = 0) -> Fitted:
        """Weights of the rows as they are after normalisation."""
        weights, intercept = to_weights(solution.coordinates[index], self.basis, self.centres[index])
        absent = self.dense.absent[index, 0]
        if not self.settings.multilabel:
            # Softmax ignores a constant on all scores; of all equal solutions take the centred one.
            intercept = intercept - intercept[~absent].mean()
        intercept = intercept.masked_fill(absent, -1e30)
        return Fitted(
            weights.cpu().numpy(),
            intercept.cpu().numpy(),
            self.normalizers[index],
            evaluations + solution.evaluations,
            solution.converged,
        )


class _OnDisk(_InMemory):
    """One problem whose rows are read again and again; `dense` is a sample of them."""

    def __init__(
        self,
        dense: Dense,
        basis: torch.Tensor,
        centre: torch.Tensor,
        normalizer: Normalizer,
        settings: Settings,
        rows: Rows,
        labels: Labels,
    ) -> None:
        super().__init__(dense, basis, [centre], [normalizer], settings)
        self.rows, self.labels = rows, labels

    def solve(self, c: float, start: torch.Tensor, bar: tqdm | None) -> Solution:
        settings = self.settings
        near = solve(self.dense, c, start, tolerance=_ROUGH)

        def blocks() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
            for places, block in self.rows.blocks():
                part = self.labels.take(places)
                arrays = self.normalizers[0](block), part.targets(self.rows.dtype), part.loss_weights(self.rows.dtype)
                x, y, w = (torch.from_numpy(array).to(settings.device) for array in arrays)
                yield x, y, w
                if bar is not None:
                    bar.update(len(places))

        def report(gain: float) -> None:
            if bar is not None:
                bar.reset()
                bar.set_postfix_str(f"C {c:.3g}, {gain:.1e} to gain")

        streamed = Streamed(blocks, self.basis, self.centres[0], self.dense)
        return solve(
            streamed,
            c,
            near.coordinates,
            tolerance=settings.tolerance,
            max_evaluations=settings.max_evaluations,
            report=report,
        )


def _problem(
    rows: Rows,
    labels: Labels,
    settings: Settings,
    trains: Sequence[NDArray[np.int64]] | None = None,
    basis: torch.Tensor | None = None,
) -> _InMemory:
    """Make the problem of fitting all rows, or of fitting each of some parts of them."""
    parts = [(rows, labels)] if trains is None else [(rows.take(t), labels.take(t)) for t in trains]
    if len(parts) == 1 and exceeds(*parts[0], settings.max_memory):
        return _on_disk(*parts[0], settings)
    normalizers = [Normalizer.fit(part, settings.normalize, known.weights) for part, known in parts]
    return _InMemory(*_dense(parts, normalizers, settings, basis), normalizers, settings)


def _dense(
    parts: Sequence[tuple[Rows, Labels]],
    normalizers: Sequence[Normalizer],
    settings: Settings,
    basis: torch.Tensor | None = None,
    scale: float = 1.0,
) -> tuple[Dense, torch.Tensor, list[torch.Tensor]]:
    """Read rows, normalised, in the coordinates of a basis; give the problems, the basis and the centres."""
    rows, labels = parts[0]
    height, device = max(len(part) for part, _ in parts), settings.device
    dtype = torch.float64 if rows.dtype == np.float64 else torch.float32
    centres = []
    if basis is None and height < rows.size:  # coordinates are fewer than numbers in a row
        x = torch.empty(height, rows.size, dtype=dtype, device=device)
        centres.append(_load(x, rows, labels, normalizers[0]))
        basis = principal_directions(x)
        stacked = torch.ones(1, height, basis.shape[1] + 1, dtype=dtype, device=device)
        torch.matmul(x, basis, out=stacked[0, :, :-1])
        del x
    else:
        # Rows are read to where their coordinates will be: there is one copy of them.
        stacked = torch.zeros(len(parts), height, rows.size + 1, dtype=dtype, device=device)
        for (part, known), normalizer, place in zip(parts, normalizers, stacked, strict=True):
            own = place[: len(part)]
            centres.append(_load(own[:, :-1], part, known, normalizer))
            own[:, -1] = 1.0
        basis = principal_directions(stacked[0, : len(rows), :-1]) if basis is None else basis
        for place in stacked:
            for block in place.split(rows.block_rows):
                block[:, :-1] = block[:, :-1] @ basis
    first = labels.loss_weights(rows.dtype)
    targets = torch.zeros(len(parts), height, labels.classes, dtype=dtype, device=device)
    weights = torch.zeros(len(parts), height, first.shape[1], dtype=dtype, device=device)
    for i, (part, known) in enumerate(parts):
        targets[i, : len(part)] = torch.from_numpy(known.targets(rows.dtype))
        weights[i, : len(part)] = torch.from_numpy(known.loss_weights(rows.dtype))
    numbers = int(_PRECONDITIONER_SHARE * settings.max_memory / (2 * rows.dtype.itemsize))
    return Dense(stacked, targets, weights, Loss(settings.multilabel), scale, numbers), basis, centres


def _load(x: torch.Tensor, rows: Rows, labels: Labels, normalizer: Normalizer) -> torch.Tensor:
    """Read rows into a matrix, normalise and centre them, and give the centre."""
    for places, block in rows.blocks():
        x[torch.from_numpy(places)] = torch.from_numpy(normalizer(block)).to(x.device)
    centre = _centre(x, labels)
    x -= centre
    return centre


def _on_disk(rows: Rows, labels: Labels, settings: Settings) -> _OnDisk:
    normalizer = Normalizer.fit(rows, settings.normalize, labels.weights)
    wanted = int(_SAMPLE_SHARE * settings.max_memory / _bytes_each(rows, labels))
    which = _sample(labels, min(len(rows), max(wanted, 2 * rows.size, _SAMPLE_ROWS)))
    sample, known = rows.take(which), labels.take(which)
    share = labels.weights.sum() / max(known.weights.sum(), np.finfo(float).tiny)
    dense, basis, centres = _dense([(sample, known)], [normalizer], settings, scale=float(share))
    return _OnDisk(dense, basis, centres[0], normalizer, settings, rows, labels)


def _sample(labels: Labels, size: int) -> NDArray[np.int64]:
    """Rows at random, among them some of every class, in ascending order."""
    rng = np.random.default_rng(0)
    order = rng.permutation(np.flatnonzero(labels.weights > 0))
    chosen = np.zeros(len(labels.weights), bool)
    chosen[order[:size]] = True
    shuffled = labels.y[order]
    for k in range(labels.classes):
        of_class = order[shuffled[:, k] if shuffled.ndim == 2 else shuffled == k]
        chosen[of_class[:_SAMPLE_PER_CLASS]] = True
    return np.flatnonzero(chosen)


def _centre(x: torch.Tensor, labels: Labels) -> torch.Tensor:
    weights = torch.from_numpy(labels.weights).to(x)
    return (weights @ x) / weights.sum().clamp(min=torch.finfo(x.dtype).tiny)


def _bar(settings: Settings, total: int | None, text: str, rows: Rows | None) -> tqdm:
    total = len(rows) if rows is not None else total
    disable = total is None or (None if settings.progress is None else not settings.progress)
    return tqdm(total=total, desc=text, unit=" rows" if rows is not None else "", disable=disable, leave=False)
