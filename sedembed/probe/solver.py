"""Linear classifiers at their optimum, several problems at once, by preconditioned L-BFGS.

Minimised for each problem, as scikit-learn does: C · Σᵢ sᵢ · loss(yᵢ, W xᵢ + b) + ½‖W‖², with b not penalised; the
loss is softmax cross-entropy, or a logistic loss for each class on its own. The variables are coordinates along the
principal directions of the data. In these coordinates the Hessian of a class is close to a diagonal plus a low-rank
term from the most uncertain samples. Its inverse, by Woodbury's formula, replaces the initial multiple of the identity
in L-BFGS. A few steps then do what took hundreds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

__all__ = [
    "Dense",
    "Loss",
    "Objective",
    "Solution",
    "Streamed",
    "extrapolate",
    "principal_directions",
    "solve",
    "to_weights",
]

_MEMORY = 8  # steps that L-BFGS remembers
# Rows for each class that the preconditioner holds; of all classes not many more than there are rows, as it would then
# cost more than a pass over these.
_DOUBTFUL_ROWS = 48
_FEWEST_DOUBTFUL_ROWS = 16
_DOUBTFUL_SHARE = 1.5
_PRECONDITIONER_NUMBERS = 1 << 26  # most numbers in it
_PIECE = 8192  # rows whose scores are held at once
_CLASSES = 64  # of the preconditioner, that are scaled at once
# The score of a class that no row has: exp of it is zero, and it stays finite in sums.
_NEVER = -1e30
# Steps without improvement after which machine precision counts as reached.
_PATIENCE = 3

# A step s, the change y of the gradient, the same preconditioned, and 1 / (s·y).
Step = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class Loss:
    """Softmax cross-entropy, or one logistic loss for each class.

    Parameters
    ----------
    multilabel : bool
        Classes are independent.
    """

    def __init__(self, multilabel: bool) -> None:
        self.multilabel = multilabel

    def __call__(
        self, scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the losses over rows, float64 (...,), and its gradient by the scores (..., n, K).

        Parameters
        ----------
        scores : Tensor (..., n, K)
            Overwritten.
        targets : Tensor (..., n, K)
            Zeros and ones.
        weights : Tensor (..., n, 1), or (..., n, K) for classes that are independent
        """
        if self.multilabel:
            losses = torch.nn.functional.softplus(scores) - targets * scores
            probabilities = scores.sigmoid_()
        else:
            scores -= scores.amax(-1, keepdim=True)
            losses = -(targets * scores).sum(-1, keepdim=True)
            probabilities = scores.exp_()
            sums = probabilities.sum(-1, keepdim=True)
            losses += sums.log()
            probabilities /= sums
        value = (losses * weights).sum((-2, -1), dtype=torch.float64)
        return value, probabilities.sub_(targets).mul_(weights)

    def doubt(self, scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Second derivative of the loss by each score: p (1 - p), weighted; shape (..., n, K)."""
        p = scores.sigmoid() if self.multilabel else scores.softmax(-1)
        return (1 - p).mul_(p).mul_(weights)


class Objective(ABC):
    """Losses of P problems as a function of coordinates (P, J + 1, K), the last row being the intercepts."""

    shape: tuple[int, int, int]

    @abstractmethod
    def __call__(self, coordinates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sums of the losses, without C and penalty, float64 (P,), and their gradient (P, J + 1, K)."""

    @abstractmethod
    def preconditioner(self, coordinates: torch.Tensor, c: float) -> Preconditioner:
        """Make the approximate inverse of the Hessian there."""


class Preconditioner:
    """Inverse of, for each class, a diagonal plus the outer products of some rows.

    Parameters
    ----------
    diagonal : Tensor (P, K, J)
    rows : Tensor (P, K, m, J)
    """

    def __init__(self, diagonal: torch.Tensor, rows: torch.Tensor) -> None:
        self.diagonal, self.rows = diagonal, rows
        # Products of a row with a matrix as it lies in memory are much the fastest, so it is kept both ways.
        self.columns = rows.mT.contiguous()
        inner = rows.new_empty((*rows.shape[:3], rows.shape[2]))
        for a in range(0, rows.shape[1], _CLASSES):
            some = slice(a, a + _CLASSES)
            torch.matmul(rows[:, some] / diagonal[:, some, None], self.columns[:, some], out=inner[:, some])
        inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
        self.factor = torch.linalg.cholesky(inner)

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        """Apply to a gradient (P, J, K)."""
        scaled = gradient.mT / self.diagonal
        inner = torch.cholesky_solve(torch.matmul(scaled[:, :, None], self.columns).mT, self.factor)
        return (scaled - torch.matmul(inner.mT, self.rows)[:, :, 0] / self.diagonal).mT.contiguous()


class Dense(Objective):
    """Problems of one size with their rows in memory.

    Parameters
    ----------
    rows : Tensor (P, n, J + 1)
        Coordinates of the rows, the last column ones.
    targets : Tensor (P, n, K)
    weights : Tensor (P, n, 1), or (P, n, K) for classes that are independent
        Zero for rows that only fill up.
    loss : Loss
    scale : float
        Multiplies the losses: for rows that stand for more of their kind.
    max_numbers : int
        Most numbers in the rows of the preconditioner, which holds them twice.
    """

    def __init__(
        self,
        rows: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        loss: Loss,
        scale: float = 1.0,
        max_numbers: int = _PRECONDITIONER_NUMBERS,
    ) -> None:
        self.rows, self.targets, self.weights, self.loss = rows, targets, weights * scale, loss
        self.max_numbers = min(max_numbers, _PRECONDITIONER_NUMBERS)
        self.shape = (rows.shape[0], rows.shape[2], targets.shape[2])
        present = [(self.weights[:, some] * targets[:, some]).sum(1, keepdim=True) for some in self._pieces()]
        # The best intercept of a class without rows is minus infinity; it is left out instead.
        self.absent = torch.stack(present).sum(0) <= 0

    def _pieces(self) -> Iterator[slice]:
        for start in range(0, self.rows.shape[1], _PIECE):
            yield slice(start, start + _PIECE)

    def scores(self, coordinates: torch.Tensor, some: slice) -> torch.Tensor:
        """Scores of some of the rows, (P, n, K)."""
        return torch.matmul(self.rows[:, some], coordinates).masked_fill_(self.absent, _NEVER)

    def __call__(self, coordinates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Value of the objective and its gradient."""
        value = torch.zeros(self.shape[0], dtype=torch.float64, device=coordinates.device)
        gradient = torch.zeros_like(coordinates)
        for some in self._pieces():
            part, by_scores = self.loss(self.scores(coordinates, some), self.targets[:, some], self.weights[:, some])
            value += part
            gradient.baddbmm_(self.rows[:, some].mT, by_scores)
        return value, gradient

    def preconditioner(self, coordinates: torch.Tensor, c: float) -> Preconditioner:
        """Approximate inverse Hessian at these coordinates."""
        problems, size, classes = self.shape
        count = self.rows.shape[1]
        doubt = self.rows.new_empty((problems, count, classes))
        for some in self._pieces():
            doubt[:, some] = self.loss.doubt(self.scores(coordinates, some), self.weights[:, some])
        wanted = min(_DOUBTFUL_ROWS, max(_FEWEST_DOUBTFUL_ROWS, int(_DOUBTFUL_SHARE * count / classes)))
        held = min(wanted, count, max(1, self.max_numbers // (problems * classes * size)))
        top, where = doubt.mT.topk(held)
        rest = doubt.scatter_(1, where.mT, 0.0)
        diagonal = self.rows.new_zeros((problems, classes, size))
        for some in self._pieces():
            diagonal.baddbmm_(rest[:, some].mT, self.rows[:, some].square(), alpha=c)
        diagonal[..., :-1] += 1.0
        # The intercept of a class without uncertain samples has no curvature.
        diagonal[..., -1].clamp_(min=1e-3)
        problem = torch.arange(problems, device=where.device)[:, None, None]
        return Preconditioner(diagonal, self.rows[problem, where].mul_(top.mul_(c).sqrt_()[..., None]))


class Streamed(Objective):
    """One problem whose rows come in blocks, all of them at every evaluation.

    Parameters
    ----------
    blocks : callable
        Gives an iterator of rows (n, D), targets (n, K), weights (n, 1) or (n, K).
    basis : Tensor (D, J)
        Its columns are the directions that coordinates refer to.
    centre : Tensor (D,)
        Taken off the rows.
    sample : Dense
        Rows in memory that stand for all, in the same basis, for the preconditioner.
    """

    def __init__(
        self,
        blocks: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]],
        basis: torch.Tensor,
        centre: torch.Tensor,
        sample: Dense,
    ) -> None:
        self.blocks, self.basis, self.centre, self.sample = blocks, basis, centre, sample
        self.shape = sample.shape

    def __call__(self, coordinates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Value of the objective and its gradient."""
        weights, intercept = to_weights(coordinates[0], self.basis, self.centre)
        value = torch.zeros(1, dtype=torch.float64, device=coordinates.device)
        gradient, by_intercept = torch.zeros_like(weights), torch.zeros_like(intercept)
        for rows, targets, row_weights in self.blocks():
            scores = torch.addmm(intercept, rows, weights).masked_fill_(self.sample.absent[0], _NEVER)
            part, by_scores = self.sample.loss(scores, targets, row_weights)
            value += part
            gradient.addmm_(rows.T, by_scores)
            by_intercept += by_scores.sum(0)
        gradient -= torch.outer(self.centre, by_intercept)
        return value, torch.cat((self.basis.T @ gradient, by_intercept[None]))[None]

    def preconditioner(self, coordinates: torch.Tensor, c: float) -> Preconditioner:
        """Approximate inverse Hessian at these coordinates."""
        return self.sample.preconditioner(coordinates, c)


def to_weights(
    coordinates: torch.Tensor, basis: torch.Tensor, centre: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (D, K) and intercepts (K,) for rows as they are, from coordinates (J + 1, K)."""
    weights = basis @ coordinates[:-1]
    return weights, coordinates[-1] - centre @ weights


def principal_directions(rows: torch.Tensor) -> torch.Tensor:
    """Orthonormal basis (D, J) of the span of the rows (n, D), by the smaller of the two Gram matrices."""
    directions: torch.Tensor
    if rows.shape[0] >= rows.shape[1]:
        directions = torch.linalg.eigh(rows.T @ rows)[1]
        return directions
    # By way of an orthonormal basis, however rounded the directions of the small matrix are, those of the rows are at
    # right angles. Directions that no row has do no harm.
    basis, coordinates = torch.linalg.qr(rows.T)
    directions = basis @ torch.linalg.eigh(coordinates @ coordinates.T)[1]
    return directions


def extrapolate(path: Sequence[torch.Tensor]) -> torch.Tensor:
    """Guess the next of the solutions for values of C in equal ratios: the parabola through the last three."""
    if len(path) > 2:
        return 3.0 * path[-1] - 3.0 * path[-2] + path[-3]
    return 2.0 * path[-1] - path[-2] if len(path) == 2 else path[-1].clone()


@dataclass(frozen=True)
class Solution:
    """Where `solve` ended."""

    coordinates: torch.Tensor  # (P, J + 1, K)
    objective: torch.Tensor  # C · losses + ½‖W‖², float64 (P,)
    evaluations: int
    converged: bool


def solve(
    objective: Objective,
    c: float,
    start: torch.Tensor,
    *,
    tolerance: float = 1e-6,
    max_evaluations: int = 200,
    report: Callable[[float], None] | None = None,
) -> Solution:
    """Minimise P problems together.

    Parameters
    ----------
    objective : Objective
        Their losses.
    c : float
        Weight of the losses.
    start : Tensor (P, J + 1, K)
        Where to begin; a solution for a nearby C saves most of the steps.
    tolerance : float
        A problem is solved when a Newton step by the preconditioner would gain less than this share of its objective,
        or of ten times its penalty if that is less.
    max_evaluations : int
        Of losses and gradient, each a pass over the rows.
    report : callable, optional
        Called after each evaluation with the share still to gain, in the worst of the problems.

    Returns
    -------
    Solution
        The best coordinates found. `converged` is also true where the arithmetic can tell no further gain.
    """
    evaluations = 0

    def half_squares(at: torch.Tensor) -> torch.Tensor:
        return 0.5 * at[:, :-1].square().sum((1, 2), dtype=torch.float64)

    def evaluate(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal evaluations
        evaluations += 1
        value, gradient = objective(at)
        gradient *= c
        gradient[:, :-1] += at[:, :-1]
        return c * value + half_squares(at), gradient

    point = start.clone()
    precondition = objective.preconditioner(point, c)
    value, gradient = evaluate(point)
    aimed = precondition(gradient)
    grain = 0.1 * torch.finfo(point.dtype).eps if point.dtype == torch.float32 else 8 * torch.finfo(point.dtype).eps
    steps: list[Step] = []
    at_limit = torch.zeros(len(point), dtype=torch.bool, device=point.device)
    least, idle = torch.full_like(value, torch.inf), torch.zeros_like(at_limit, dtype=torch.int64)
    while True:
        gain = 0.5 * _dot(gradient, aimed)
        # With a strong penalty most of the objective is constant, and its value does not show convergence.
        done = at_limit | (gain <= tolerance * torch.minimum(value, 10.0 * half_squares(point)))
        if report is not None:
            report(float((gain / value.clamp(min=1e-300)).max()))
        if done.all() or evaluations >= max_evaluations:
            return Solution(point, value, evaluations, bool(done.all()))
        direction = _two_loops(gradient, aimed, steps)
        slope = _dot(direction, gradient)
        length = torch.where(done, 0.0, 1.0).to(slope)
        while True:
            trial = torch.add(point, length.to(point.dtype)[:, None, None] * direction)
            new_value, new_gradient = evaluate(trial)
            enough = new_value <= value + 1e-4 * length * slope + grain * value
            if enough.all() or evaluations >= max_evaluations or float(length.max()) < 1e-6:
                break
            # Step to the minimum of the parabola through the known values, within bounds.
            bend = 2.0 * (new_value - value - length * slope)
            shorter = torch.where(bend > 0, -slope * length.square() / bend, 0.5 * length)
            length = torch.where(enough, length, torch.minimum(torch.maximum(shorter, 0.1 * length), 0.5 * length))
        if not enough.all():
            trial = torch.where(enough[:, None, None], trial, point)
            new_gradient = torch.where(enough[:, None, None], new_gradient, gradient)
            new_value = torch.where(enough, new_value, value)
        new_aimed = precondition(new_gradient)
        # Where the objective is at machine precision, the gradient decides whether to go on.
        least = torch.minimum(least, gain)
        better = (value - new_value > grain * value) | (_dot(new_gradient, new_aimed) < least)
        idle = torch.where(done | better, 0, idle + 1)
        at_limit |= ~enough | (idle >= _PATIENCE)
        moved, turned = trial - point, new_gradient - gradient
        product = _dot(moved, turned)
        inverse = torch.where(product > 0, 1.0 / product, 0.0).to(point.dtype)[:, None, None]
        steps.append((moved, turned, new_aimed - aimed, inverse))
        del steps[:-_MEMORY]
        point, value, gradient, aimed = trial, new_value, new_gradient, new_aimed


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum((1, 2), dtype=torch.float64)


def _two_loops(gradient: torch.Tensor, aimed: torch.Tensor, steps: Sequence[Step]) -> torch.Tensor:
    """L-BFGS direction of each problem (Nocedal & Wright 2006, algorithm 7.4).

    The preconditioner is linear, so what it makes of the vector in the middle follows from what it made of its parts.
    """
    q, result = gradient.clone(), aimed.clone()
    shares = []
    for moved, turned, turned_aimed, inverse in reversed(steps):
        share = inverse * (moved * q).sum((1, 2), keepdim=True)
        q -= share * turned
        result -= share * turned_aimed
        shares.append(share)
    if steps:
        # The last step gives the scale of the preconditioner.
        _, turned, turned_aimed, inverse = steps[-1]
        scale = inverse * (turned * turned_aimed).sum((1, 2), keepdim=True)
        result /= torch.where(inverse > 0, scale, 1.0).clamp(1e-3, 1e3)
    for (moved, turned, _, inverse), share in zip(steps, reversed(shares), strict=True):
        result += (share - inverse * (turned * result).sum((1, 2), keepdim=True)) * moved
    return result.neg_()
