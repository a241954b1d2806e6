"""Rows of a probe and of a network's event layer, in one space: compared with each other and drawn on a plane."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from sedembed.errors import AudioError, InvalidArgumentError, ProbeError, StoreError

if TYPE_CHECKING:
    from sedembed.embedder import Embedder
    from sedembed.probe.probe import LinearProbe
    from sedembed.store.store import EmbeddingStore

__all__ = [
    "LARGE",
    "ClassRows",
    "Correlation",
    "Distance",
    "EventRows",
    "Plane",
    "class_rows",
    "comparable_rows",
    "correlate",
    "estimate_event_rows",
    "event_rows",
    "project_2d",
    "standardise_rows",
    "to_points",
]

logger = logging.getLogger(__name__)

Distance = Literal["cosine", "euclidean", "correlation"]
Correlation = Literal["scaled", "literal"]
Matrix = NDArray[np.float64]

LARGE = 0.2  # from here on the paper calls a cosine large
FEW_CLASSES = 5  # t-SNE of fewer points says nothing
MOST_RECORDINGS = 2000  # enough, with cross-validated shrinkage, for the 1024 or 2048 coefficients of an event
_FEWEST_RECORDINGS = 20
_SHRINKAGE = np.logspace(-1, 5, 13)
_PROBABILITY_FLOOR = 1e-7
_NOTHING = 1e-6  # length of a row, compared with the longest, that is rounding


@dataclass(frozen=True)
class ClassRows:
    """What a probe learned: a row of weights for each class.

    Attributes
    ----------
    names : tuple of str
        The classes.
    rows : ndarray of float64, shape (C, D)
        Weights on the standardised vector.
    scale : ndarray of float64, shape (D,)
        Deviation by which the probe divides each dimension first; ones where it does not standardise.
    left_out : tuple of str
        Classes whose row is zero, as it is where a class had no examples.
    """

    names: tuple[str, ...]
    rows: Matrix
    scale: NDArray[np.float64]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class EventRows:
    """Directions of a network's sound events in the space of its raw embeddings.

    Attributes
    ----------
    names : tuple of str
        The events.
    rows : ndarray of float64, shape (E, D)
        The logit of an event grows along its row.
    recordings : int
        Recordings they were estimated from; 0 for rows that are the network's own weights.
    explained : float
        Median over the events of the share of a logit's variance that an estimated row predicts in recordings left
        out of its fit; 1 for the network's own weights.
    """

    names: tuple[str, ...]
    rows: Matrix
    recordings: int = 0
    explained: float = 1.0


class Plane(NamedTuple):
    """Rows drawn as points.

    Attributes
    ----------
    points : ndarray of float64, shape (C, 2)
        One point a row.
    method : {"t-SNE", "PCA"}
        How they came to be.
    perplexity : float or None
        Of t-SNE.
    """

    points: Matrix
    method: str
    perplexity: float | None


def class_rows(probe: LinearProbe) -> ClassRows:
    """Take the rows out of a fitted probe, leaving out classes of which it learned nothing.

    Raises
    ------
    ProbeError
        If fewer than two classes are left.
    """
    rows = np.asarray(probe.coef_, np.float64)
    names = np.array([str(name) for name in probe.classes_])
    norms = np.linalg.norm(rows - rows.mean(1, keepdims=True), axis=1)
    kept = norms > _NOTHING * max(norms.max(initial=0.0), np.finfo(float).tiny)
    if kept.sum() < 2:
        raise ProbeError(
            f"expected a probe that learned something about two classes or more, got {int(kept.sum())} of {len(names)} "
            "whose weights are not all equal; fit it on more classes or more examples"
        )
    return ClassRows(tuple(names[kept]), rows[kept], np.asarray(probe.scale_, np.float64), tuple(names[~kept]))


def event_rows(embedder: Embedder) -> EventRows:
    """Read the rows of the layer that turns a network's embedding into sound events.

    TALNet has one. Between WEANet's embedding (2048 numbers, of B5) and its last layer (1024 numbers, of B7) lie two
    layers with ReLUs: no row of B8 is a direction among the embeddings.

    Raises
    ------
    ProbeError
        For a network whose embedding does not feed its event layer; `estimate_event_rows` serves it.
    """
    network = embedder.runner.network
    if not network.embedding_feeds_events:
        raise ProbeError(
            f"the embedding of a {type(network).__name__} does not feed its event layer, so the layer has no rows in "
            "the space of the probe; give --store STORE, a store of this model whose recordings are still in place, "
            "and the rows are estimated from them"
        )
    return EventRows(embedder.labels, network.event_layer.weight.detach().cpu().double().numpy())


def estimate_event_rows(
    embedder: Embedder, store: EmbeddingStore, *, most: int = MOST_RECORDINGS, seed: int = 0
) -> EventRows:
    """Estimate the rows of a network's events without its layers: ridge regression of event logits on embeddings.

    The network tags the store's recordings; for each event the logit of its clip probability is regressed on the
    standardised vectors of the store, with the shrinkage that predicts recordings left out best.

    Parameters
    ----------
    embedder : Embedder
        The network that made the store.
    store : EmbeddingStore
        Its recordings must still be where they were embedded.
    most : int
        Use no more recordings than this, drawn without replacement.
    seed : int
        Of that draw.

    Raises
    ------
    StoreError
        If the store is of other weights, or too few of its recordings can be read.
    """
    from sklearn.linear_model import RidgeCV
    from tqdm import tqdm

    from sedembed.engine.provenance import sha256_of_model

    here, made_with = sha256_of_model(embedder.runner), store.run["settings"]["model_sha256"]
    if made_with != here:
        raise StoreError(
            f"{store.directory} holds vectors of other weights (sha256 {made_with[:12]}) than those of "
            f"{embedder.record.name!r} (sha256 {here[:12]}); embed its folder again with this model"
        )
    folder = Path(store.run["folder"])
    chosen = np.sort(np.random.default_rng(seed).permutation(len(store))[:most])
    used, tags, problem = [], [], ""
    for row in tqdm(chosen, unit="file", desc="tagging", disable=None):
        try:
            tags.append(embedder.tag(folder / store.paths[row]))
        except (AudioError, OSError) as error:
            problem = f"{store.paths[row]}: {error}"
            logger.warning("left out: %s", problem)
        else:
            used.append(row)
    if len(used) < _FEWEST_RECORDINGS:
        raise StoreError(
            f"expected at least {_FEWEST_RECORDINGS} readable recordings of {store.directory} in {folder}, got "
            f"{len(used)}{f' ({problem})' if problem else ''}; give a larger store whose recordings are in place"
        )
    p = np.clip(np.stack(tags).astype(np.float64), _PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR)
    logits = np.log(p) - np.log1p(-p)
    vectors = store.vectors[used].astype(np.float64)
    scale = _deviation(vectors)
    ridge = RidgeCV(_SHRINKAGE, alpha_per_target=True).fit((vectors - vectors.mean(0)) / scale, logits)
    variance = logits.var(0)
    explained = 1 + ridge.best_score_[variance > 0] / variance[variance > 0]  # the score is minus the squared error
    return EventRows(embedder.labels, ridge.coef_ / scale, len(used), float(np.median(explained)))


def standardise_rows(rows: Matrix) -> Matrix:
    """Each row minus its mean, divided by its deviation and by sqrt(D): unit length, zero for a row of equal numbers.

    The product of two such rows is the cosine of mean-variance-normalised rows.
    """
    centred = rows - rows.mean(1, keepdims=True)
    centred[np.ptp(rows, axis=1) == 0] = 0.0
    return _unit(centred)


def correlate(classes: ClassRows, events: EventRows, form: Correlation = "scaled") -> Matrix:
    """Cosine between mean-variance-normalised class rows and event rows.

    Parameters
    ----------
    classes : ClassRows
        Weights on the standardised vector.
    events : EventRows
        Weights on the raw vector.
    form : {"scaled", "literal"}
        "scaled" compares the two as functions of one vector: a probe weighs (x - mean) / scale and an event layer
        weighs x, so an event row is multiplied by the scale. Scaling to unit length and offsets do not change
        directions. "literal" is what the paper says and nothing else: the rows as they are.

    Returns
    -------
    ndarray of float64, shape (C, E)
        In [-1, 1].

    Raises
    ------
    ProbeError
        If the two were made for embeddings of different length.
    """
    if classes.rows.shape[1] != events.rows.shape[1]:
        raise ProbeError(
            f"the probe was fitted on vectors of {classes.rows.shape[1]} numbers, the embeddings of this model have "
            f"{events.rows.shape[1]}; give the model whose vectors the probe was fitted on"
        )
    product: Matrix = standardise_rows(classes.rows) @ standardise_rows(comparable_rows(classes, events, form)).T
    return product.clip(-1.0, 1.0)


def comparable_rows(classes: ClassRows, events: EventRows, form: Correlation) -> Matrix:
    """Event rows as `correlate` compares them with class rows, before they are normalised.

    Raises
    ------
    InvalidArgumentError
        For an unknown form.
    """
    if form not in get_args(Correlation):
        raise InvalidArgumentError(f"correlation must be one of {', '.join(get_args(Correlation))}, got {form!r}")
    return events.rows * classes.scale if form == "scaled" else events.rows


def to_points(rows: Matrix, distance: Distance) -> Matrix:
    """Points whose Euclidean distances order rows as `distance` does; squared and halved they are cosine distances."""
    if distance == "euclidean":
        return rows
    return _unit(rows) if distance == "cosine" else standardise_rows(rows)


def project_2d(rows: Matrix, distance: Distance, *, perplexity: float | None = None, seed: int = 0) -> Plane:
    """Draw rows as points of a plane, by t-SNE, or by principal components where they are fewer than five.

    Parameters
    ----------
    rows : ndarray of float64, shape (C, D)
        At least two.
    distance : {"cosine", "euclidean", "correlation"}
        Between rows.
    perplexity : float, optional
        At least 1 and below C; by default 30, or (C - 1) / 3 where that is less.
    seed : int
        Of t-SNE, which hardly heeds it: it begins from the principal components.

    Raises
    ------
    ValueError
        For a perplexity or seed out of its range.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if not 0 <= seed < 2**32:
        raise InvalidArgumentError(f"the seed must be from 0 to 4294967295, got {seed}")
    count = len(rows)
    points = to_points(rows, distance)
    if count < FEW_CLASSES:
        found = PCA(min(2, count - 1), svd_solver="full").fit_transform(points)
        return Plane(np.pad(found, ((0, 0), (0, 2 - found.shape[1]))), "PCA", None)
    if perplexity is None:
        perplexity = min(30.0, (count - 1) / 3)
    if not 1 <= perplexity < count:
        raise InvalidArgumentError(
            f"perplexity must be at least 1 and below the number of classes, {count}, got {perplexity:g}; "
            "leave it out for one that fits"
        )
    # One thread: sums over several come out in another order each time, and t-SNE enlarges that.
    with threadpool_limits(1):
        model = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        return Plane(model.fit_transform(points).astype(np.float64), "t-SNE", float(perplexity))


def _unit(rows: Matrix) -> Matrix:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def _deviation(vectors: Matrix) -> NDArray[np.float64]:
    deviation = vectors.std(0)
    return np.where(deviation > 0, deviation, 1.0)
