"""Sequential self-teaching (SUSTAIN): each stage is taught by the labels and by the networks of the stages before.

Stage 0 trains a network on the labels y. Stage t = 1 … T trains one of the same architecture on

    ȳ_t = α_0·y + Σ_i α_i·p_i,   Σ α = 1,

where p_i are the clip probabilities of the frozen networks of the last m stages. The form is that of Kumar & Ithapu
(2020), "A sequential self teaching approach for improving generalization in sound event recognition"; the numbers are a
reconstruction.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from sedembed._training.clips import ClipSet
from sedembed._training.distributed import current_processes
from sedembed._training.features import FeatureStore
from sedembed._training.loop import Training, predict
from sedembed._training.records import fingerprint
from sedembed._training.settings import TrainConfig
from sedembed._training.soft_labels import read_soft_labels
from sedembed._utils.files import sha256_of, write_atomic
from sedembed._utils.schema import Range, check_fields, from_table, read_json_file
from sedembed.errors import DatasetError, InvalidArgumentError
from sedembed.models.weights import WEIGHTS_FILE, load_network, resolve

__all__ = ["Shares", "SustainConfig", "mix_targets", "run_stages", "stage_probabilities", "stage_seed"]

logger = logging.getLogger(__name__)

SoftLabelsAs = Literal["teacher", "stage-0"]

_RECORD = "stage.json"
_PROBABILITIES = "probabilities.safetensors"
_BLOCK_ROWS = 8192  # rows that are mixed in float64 at once


class Shares(NamedTuple):
    """Who teaches one stage, and how much.

    Attributes
    ----------
    labels : float
        α_0.
    stages : tuple of (int, float)
        Earlier stages and their α, the newest first.
    soft_labels : float
        α of the table of soft labels; 0 without one.
    """

    labels: float
    stages: tuple[tuple[int, float], ...]
    soft_labels: float


@dataclass(frozen=True)
class SustainConfig:
    """Settings of sequential self-teaching; the table `sustain` of a training configuration holds any of them.

    Parameters
    ----------
    stages : int
        T: stages after stage 0. With 0, plain training.
    teachers : int
        m: how many of the stages just before teach a stage. Stage t has min(t, m) teachers.
    alphas : sequence of float, or one such sequence for each stage from 1 to T
        α of the labels, then of the teachers, the newest first, then of the table of soft labels if that is a teacher.
        They are not negative and sum to one. A sequence for one stage has 1 + min(t, m) numbers (and one for the
        table); a sequence for all has 1 + m (and one for the table), and while there are fewer than m stages to learn
        from, the oldest of them takes the shares of those that are not there.
    carry_weights : bool
        A stage begins with the weights of the stage before. False: with new random ones, as in the paper.
    soft_labels : str or None
        Table of soft labels of an outside teacher; see `sedembed._training.soft_labels`.
    soft_labels_as : {"teacher", "stage-0"}
        "teacher": one more teacher of the stages from 1 on. "stage-0": takes the place of the labels in stage 0; later
        stages see the labels.

    Raises
    ------
    ValueError
        If a value is out of its range, or the lengths do not fit each other.
    """

    stages: Annotated[int, Range(0)] = 1
    teachers: Annotated[int, Range(0)] = 1
    alphas: Sequence[Any] = (0.3, 0.7)
    carry_weights: bool = False
    soft_labels: str | None = None
    soft_labels_as: SoftLabelsAs = "teacher"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.soft_labels == "":
            raise InvalidArgumentError("soft_labels must be the path of a table or null, got ''")
        if not isinstance(self.alphas, list | tuple) or not self.alphas:
            raise InvalidArgumentError(
                f"alphas must be a list of numbers, or one such list for each stage, got {self.alphas!r}"
            )
        nested = [isinstance(item, list | tuple) for item in self.alphas]
        if any(nested):
            if not all(nested):
                raise InvalidArgumentError(
                    f"alphas must be numbers, or one list for each stage, not both, got {self.alphas!r}"
                )
            object.__setattr__(self, "alphas", tuple(tuple(item) for item in self.alphas))
            if len(self.alphas) != self.stages:
                raise InvalidArgumentError(
                    f"alphas needs one list for each stage from 1 to {self.stages}, got {len(self.alphas)}"
                )
            for stage, item in enumerate(self._lists, 1):
                self._check(item, min(stage, self.teachers), f"alphas of stage {stage}")
        else:
            object.__setattr__(self, "alphas", tuple(self.alphas))
            self._check(self._lists[0], self.teachers, "alphas")

    @classmethod
    def from_table(cls, values: Mapping[str, Any], where: str = "sustain") -> SustainConfig:
        """Make a configuration of plain values, unknown keys refused; `where` begins the errors."""
        return from_table(cls, values, where)

    @property
    def _lists(self) -> tuple[tuple[float, ...], ...]:
        nested = isinstance(self.alphas[0], tuple)
        return self.alphas if nested else (self.alphas,)  # type: ignore[return-value]

    @property
    def _has_outside_teacher(self) -> bool:
        return self.soft_labels is not None and self.soft_labels_as == "teacher"

    def _check(self, alphas: tuple[float, ...], teachers: int, where: str) -> None:
        expected = 1 + teachers + self._has_outside_teacher
        if len(alphas) != expected:
            table = ", 1 for the table of soft labels" if self._has_outside_teacher else ""
            raise InvalidArgumentError(
                f"{where} needs {expected} numbers (1 for the labels, {teachers} for the teachers{table}), "
                f"got {len(alphas)}"
            )
        for alpha in alphas:
            if type(alpha) not in (int, float) or not 0 <= alpha <= 1:
                raise InvalidArgumentError(f"{where} must be numbers from 0 to 1, got {alpha!r}")
        if abs(math.fsum(alphas) - 1.0) > 1e-6:
            raise InvalidArgumentError(f"{where} must sum to 1, got {list(alphas)}, which sum to {math.fsum(alphas):g}")

    def shares(self, stage: int) -> Shares:
        """Who teaches a stage; stage 0 learns from labels alone."""
        if stage == 0:
            return Shares(1.0, (), 0.0)
        lists = self._lists
        alphas = lists[0] if len(lists) == 1 else lists[stage - 1]
        count = min(stage, self.teachers)
        outside = float(alphas[-1]) if self._has_outside_teacher else 0.0
        of_teachers = list(alphas[1 : len(alphas) - self._has_outside_teacher])
        if count:
            of_teachers[count - 1 :] = [math.fsum(of_teachers[count - 1 :])]
        stages = tuple((stage - 1 - age, float(alpha)) for age, alpha in enumerate(of_teachers))
        return Shares(float(alphas[0]), stages, outside)


def stage_seed(seed: int, stage: int) -> int:
    """Seed of a stage: that of the run for stage 0, another one for each further stage."""
    return seed if stage == 0 else int(np.random.SeedSequence((seed, stage)).generate_state(1)[0])


def mix_targets(
    labels: NDArray[np.float32], alpha: float, teachers: Sequence[tuple[float, NDArray[np.float32]]]
) -> NDArray[np.float32]:
    """Targets of a stage: ``alpha·labels + Σ α_i·p_i``, summed in float64.

    Parameters
    ----------
    labels : ndarray of float32, shape (clips, classes)
        y, in [0, 1].
    alpha : float
        Share of the labels.
    teachers : sequence of (float, ndarray of float32, shape (clips, classes))
        α_i and p_i. A row of NaN, for a clip that a teacher could not read, leaves the labels of that clip unchanged.

    Returns
    -------
    ndarray of float32, shape (clips, classes)
        In [0, 1]; `labels` bit for bit if they have the whole share.
    """
    targets = np.empty(labels.shape, np.float32)
    for start in range(0, len(labels), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        mixed = alpha * labels[rows].astype(np.float64)
        for share, probabilities in teachers:
            if share:
                mixed += share * probabilities[rows].astype(np.float64)
        # Shares may sum to a little more than one.
        targets[rows] = np.where(np.isnan(mixed), labels[rows], mixed.clip(0.0, 1.0))
    return targets


def run_stages(
    config: TrainConfig,
    sustain: SustainConfig,
    train: ClipSet,
    train_features: FeatureStore,
    out: Path,
    *,
    validation: ClipSet | None = None,
    validation_features: FeatureStore | None = None,
    only_stage: int | None = None,
    initial: Path | None = None,
    device: str | torch.device | None = None,
    tensorboard: bool = False,
    progress: bool | None = None,
) -> list[Path]:
    """Train all stages, each in a folder of its own, or continue where an earlier call stopped.

    Parameters
    ----------
    config : TrainConfig
        Of each stage; only the seed differs from stage to stage, see `stage_seed`.
    sustain : SustainConfig
        Stages and their teachers.
    train, train_features
        Clips with their labels, and their features.
    out : Path
        Gets the folders ``stage-0``, ``stage-1``, …; each is a run of `Training` with two more files: ``stage.json``
        says who taught it, ``probabilities.safetensors`` holds what its network says about the training clips.
    validation, validation_features
        Clips that each stage validates on; their labels stay as they are.
    only_stage : int, optional
        Train only this stage; the earlier ones that it needs must be finished.
    initial : Path, optional
        Model directory that stages begin with instead of random weights, unless they carry those of the stage before.
    device, tensorboard, progress
        As `Training` takes them.

    Returns
    -------
    list of Path
        Model directory of each stage that was trained.

    Raises
    ------
    DatasetError
        If a stage that is needed is not finished, a folder holds a stage that was taught otherwise, or the table of
        soft labels does not fit.
    """
    if only_stage is not None and not 0 <= only_stage <= sustain.stages:
        raise InvalidArgumentError(f"Expected only_stage from 0 to {sustain.stages}, got {only_stage}.")
    processes = current_processes()
    soft = None
    if sustain.soft_labels is not None:
        soft = read_soft_labels(Path(sustain.soft_labels), train.names, train.classes)
    first_labels = train.targets if soft is None or sustain.soft_labels_as == "teacher" else soft
    models = []
    for stage in range(sustain.stages + 1) if only_stage is None else (only_stage,):
        folder, shares = _folder(out, stage), sustain.shares(stage)
        carried = stage > 0 and sustain.carry_weights
        start = _folder(out, stage - 1) / "model" if carried else initial
        # A teacher without a share is not asked.
        teachers = [(i, share) for i, share in shares.stages if share]
        for i in sorted({i for i, _ in teachers} | ({stage - 1} if carried else set())):
            _check_finished(out, i, stage)
        taught = [(share, stage_probabilities(out, i, train, train_features, device=device)) for i, share in teachers]
        if soft is not None and shares.soft_labels:
            taught.append((shares.soft_labels, soft))
        labels = train.targets if stage else first_labels
        clips = train.with_targets(mix_targets(labels, shares.labels, taught))
        stage_config = replace(config, seed=stage_seed(config.seed, stage), sustain=None)
        alphas = {"labels": shares.labels, **{f"stage-{i}": share for i, share in shares.stages}}
        record = {
            "stage": stage,
            "seed": stage_config.seed,
            "alphas": {**alphas, "soft_labels": shares.soft_labels},
            "teachers": {f"stage-{i}": _digest(_folder(out, i) / "model") for i, _ in teachers},
            "initial": None if start is None else _digest(start),
            "targets": fingerprint(clips),
        }
        _check_or_write_record(folder, record)
        logger.info("stage %d of %d; shares %s", stage, sustain.stages, alphas)
        training = Training(
            stage_config,
            clips,
            train_features,
            folder,
            validation=validation,
            validation_features=validation_features,
            initial=start,
            device=device,
            tensorboard=tensorboard,
            progress=progress,
        )
        model = training.run()
        if processes.first:
            write_atomic(folder / _RECORD, _to_json({**record, "model": _digest(model)}))
        processes.wait()
        models.append(model)
    return models


def stage_probabilities(
    out: Path, stage: int, train: ClipSet, features: FeatureStore, *, device: str | torch.device | None = None
) -> NDArray[np.float32]:
    """Ask the network of a finished stage about the training clips, once; the answer is kept beside it.

    Parameters
    ----------
    out : Path
        Folder of the run.
    stage : int
        Which stage.
    train, features
        Training clips; each goes through the network whole.
    device : optional
        Where to run the network.

    Returns
    -------
    ndarray of float32, shape (clips, classes)
        Clip probabilities; rows of clips that cannot be read are NaN. What is kept is used only if it comes from these
        weights and these clips.
    """
    folder, processes = _folder(out, stage), current_processes()
    path, shape = folder / _PROBABILITIES, (len(train), len(train.classes))
    origin = {"weights": _digest(folder / "model"), "clips": _fingerprint_names(train)}
    # All processes wait for the first one, so that they come to the same point whoever finds the file.
    kept = _read_probabilities(path, origin, shape) if processes.first else None
    if processes.first and kept is None:
        logger.info("stage %d predicts %d training clips", stage, len(train))
        kept = predict(load_network(resolve(folder / "model")), features, device=device)
        if kept.shape != shape:
            raise DatasetError(
                f"{folder}: expected predictions of shape {shape}, got {kept.shape}. Use the same classes."
            )
        write_atomic(path, to_safetensors({"probabilities": kept}, {"origin": json.dumps(origin)}))
    processes.wait()
    if kept is None:
        kept = _read_probabilities(path, origin, shape)
    if kept is None:
        raise DatasetError(f"{path} was made by the first process, but this one cannot read it. Use a common folder.")
    return kept


def _folder(out: Path, stage: int) -> Path:
    return out / f"stage-{stage}"


def _digest(model: Path) -> str:
    """Sha256 of a model directory's weights; the file holds the configuration, too."""
    return sha256_of(model / WEIGHTS_FILE)


def _fingerprint_names(clips: ClipSet) -> str:
    return hashlib.sha256(json.dumps([clips.names, clips.classes]).encode()).hexdigest()


def _read_record(folder: Path) -> dict[str, Any] | None:
    path = folder / _RECORD
    if not path.exists():
        return None
    try:
        return read_json_file(path, DatasetError)
    except DatasetError as error:
        raise DatasetError(f"{path} is damaged. Delete {folder} to train the stage anew. ({error})") from error


def _find_problem(folder: Path, record: Mapping[str, Any] | None) -> str | None:
    """Say what is wrong with the model of a finished stage, after the name of its file; None if nothing is."""
    if record is None or not (folder / "model" / WEIGHTS_FILE).exists():
        return "is not there"
    if record.get("model") is None:
        return "is not finished"
    if record["model"] != _digest(folder / "model"):
        return "is another one than its training ended with"
    return None


def _check_finished(out: Path, stage: int, wanted: int) -> None:
    """Refuse to go on unless the model of a stage is the one that its training ended with."""
    folder = _folder(out, stage)
    problem = _find_problem(folder, _read_record(folder))
    if problem is not None:
        raise DatasetError(
            f"Stage {wanted} needs the model of stage {stage}, but {folder / 'model' / WEIGHTS_FILE} {problem}. "
            f"Train stage {stage} first."
        )


def _check_or_write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write who teaches a new stage; refuse one that was begun otherwise, or finished with other weights."""
    earlier = _read_record(folder)
    if earlier is None:
        if not current_processes().first:
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / _RECORD, _to_json({**record, "model": None}))
        return
    other = [name for name, value in record.items() if earlier.get(name) != value]
    if other:
        raise DatasetError(
            f"{folder} was begun with other {', '.join(other)} than now (see {_RECORD}). Use the settings and data of "
            "that run, or delete the folder to train the stage anew."
        )
    problem = None if earlier.get("model") is None else _find_problem(folder, earlier)
    if problem is not None:
        raise DatasetError(
            f"The stage in {folder} is finished, but its {WEIGHTS_FILE} {problem}. Put the right file back, or delete "
            "the folder to train the stage anew."
        )


def _read_probabilities(path: Path, origin: dict[str, str], shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """Read what an earlier call kept; None if it is not there, damaged, or of other weights or clips."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as stream:
            same = json.loads((stream.metadata() or {}).get("origin", "null")) == origin
            kept = stream.get_tensor("probabilities") if same else None
    except (SafetensorError, OSError, ValueError) as error:
        logger.warning("%s is damaged (%s) and made anew", path, error)
        return None
    if kept is None or kept.shape != shape:
        logger.warning("%s is of other weights or clips and made anew", path)
        return None
    return np.asarray(kept, np.float32)


def _to_json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"
