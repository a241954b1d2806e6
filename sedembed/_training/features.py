"""Log-mel features of clips: computed when they are asked for, or once into float16 arrays that are memory-mapped."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from sedembed._training.clips import ClipSet
from sedembed._training.distributed import current_processes
from sedembed._training.threads import default_workers, open_threads
from sedembed._utils.files import atomic_file, write_atomic
from sedembed._utils.schema import check_fields, from_table, read_json_file
from sedembed.audio.reader import load_audio
from sedembed.errors import AudioError, DatasetError, InvalidArgumentError
from sedembed.models.base import Backbone
from sedembed.models.frontend import FLOOR, Spectrogram

__all__ = [
    "FeatureStore",
    "UnreadableClipError",
    "count_frames",
    "silence_under",
]

logger = logging.getLogger(__name__)

SHARD_CLIPS = 512
_FORMAT = 1
# The share of unreadable clips counts only after this many were tried.
_ENOUGH = 50


class UnreadableClipError(DatasetError):
    """A clip that cannot be decoded."""


class FeatureStore:
    """Features of the clips of a set, in its order; `open` makes one.

    Attributes
    ----------
    failures : dict
        Index of each clip that could not be decoded to the name of the error and its message. Without a cache it grows
        as clips are asked for.
    """

    def __init__(
        self,
        clips: ClipSet,
        read: Callable[[int], NDArray[np.float32]],
        failures: dict[int, tuple[str, str]],
        front_end: Mapping[str, Any],
        spectrogram: Spectrogram,
        min_share: float,
        cached: bool,
        workers: int,
    ) -> None:
        self.clips = clips
        self.failures = failures
        self.front_end = front_end
        self.spectrogram = spectrogram
        self.cached = cached
        self.workers = workers
        self._read = read
        self._min_share = min_share
        self._tried = np.zeros(len(clips), np.bool_)

    @classmethod
    def open(
        cls,
        clips: ClipSet,
        network: Backbone,
        cache: Path | None = None,
        *,
        workers: int | None = None,
        min_share: float = 0.5,
        progress: bool | None = None,
    ) -> FeatureStore:
        """Open the features of clips.

        Parameters
        ----------
        clips : ClipSet
            Recordings of any rate and format that `sedembed.audio.reader` reads.
        network : Backbone
            Its front end is used, not its weights.
        cache : Path, optional
            Folder for the features as float16, half of 1/32 dB exact within -128 to 128 dB. What is not there yet is
            computed now; interrupted, the same call goes on. None: features are computed whenever they are asked for.
        workers : int, optional
            Threads that decode.
        min_share : float
            Smallest share of the clips that must be readable.
        progress : bool, optional
            Show a bar; by default on a terminal.

        Raises
        ------
        DatasetError
            If the cache is of other clips or another front end, or too few clips can be read.
        StoreError
            If the disk takes no more.
        """
        workers = default_workers() if workers is None else workers
        spectrogram = network.spectrogram
        compute = _FrontEnd(network, clips)
        front_end = network.describe_front_end()
        failures: dict[int, tuple[str, str]] = {}
        if cache is None:
            return cls(clips, compute, failures, front_end, spectrogram, min_share, False, workers)
        shards = _fill(cache, clips, compute, front_end, workers, progress)
        for shard in shards:
            failures.update(shard.failures)
        readable = len(clips) - len(failures)
        if failures and readable < max(1, min_share * len(clips)):
            raise _too_few(len(failures), len(clips), next(iter(failures.values()))[1])

        def read(index: int) -> NDArray[np.float32]:
            return shards[index // SHARD_CLIPS].read(index % SHARD_CLIPS)

        return cls(clips, read, failures, front_end, spectrogram, min_share, True, workers)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Features of one whole clip.

        Parameters
        ----------
        index : int
            From 0.

        Returns
        -------
        ndarray of float32, shape (frames, 64)
            Decibels, as the network's `features` gives them; read-only or not.

        Raises
        ------
        UnreadableClipError
            If the clip cannot be decoded.
        DatasetError
            If too large a share of the clips that were tried cannot be decoded.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} is not among {len(self)}")
        if index not in self.failures:
            try:
                features = self._read(index)
            except (AudioError, OSError) as error:
                self.failures[index] = type(error).__name__, str(error)
                logger.warning("left out: %s (%s)", self.clips.names[index], error)
            else:
                self._tried[index] = True
                return features
        self._tried[index] = True
        failed, tried = len(self.failures), int(self._tried.sum())
        if not self.cached and tried >= _ENOUGH and tried - failed < self._min_share * tried:
            raise _too_few(failed, tried, self.failures[index][1])
        raise UnreadableClipError(f"{self.clips.paths[index]} cannot be decoded: {self.failures[index][1]}")

    def subset(self, clips: ClipSet) -> FeatureStore:
        """Features of some of the clips, found by their names; what is cached stays cached.

        Raises
        ------
        KeyError
            If a clip is not in the store.
        """
        place = {name: index for index, name in enumerate(self.clips.names)}
        rows = [place[name] for name in clips.names]
        failures = {new: self.failures[old] for new, old in enumerate(rows) if old in self.failures}
        return FeatureStore(
            clips,
            lambda index: self._read(rows[index]),
            failures,
            self.front_end,
            self.spectrogram,
            self._min_share,
            self.cached,
            self.workers,
        )


def count_frames(network: Backbone, seconds: float) -> int:
    """Feature frames that the network's front end gives for a sound of so many seconds."""
    samples = max(round(seconds * network.sample_rate), network.min_samples)
    return len(network.features(torch.zeros(samples)))


def silence_under(features: NDArray[np.float32], spectrogram: Spectrogram) -> float:
    """Decibels that the front end gives for silence in the window of these features."""
    return max(10.0 * float(np.log10(FLOOR)), float(features.max()) - spectrogram.top_db)


class _FrontEnd:
    """Decodes a clip and computes its features."""

    def __init__(self, network: Backbone, clips: ClipSet) -> None:
        self._network, self._paths = network, clips.paths

    def __call__(self, index: int) -> NDArray[np.float32]:
        waveform, _ = load_audio(self._paths[index], self._network.sample_rate)
        short = self._network.min_samples - len(waveform)
        if short > 0:
            waveform = np.pad(waveform, (0, short))
        with torch.inference_mode():
            return self._network.features(torch.from_numpy(waveform)).numpy()


# --- the cache -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Index:
    """What the index of a shard holds: frames of each clip, and error and message of each unreadable one."""

    frames: tuple[int, ...]
    failures: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_fields(self)
        if min(self.frames, default=0) < 0:
            raise InvalidArgumentError("frames must not be negative")


class _Shard:
    """Features of up to 512 clips end to end in one file, and an index beside it, which is written last."""

    def __init__(self, cache: Path, number: int, clips: int) -> None:
        self.file = cache / f"features-{number:05d}.npy"
        self.index = self.file.with_suffix(".json")
        self.first = number * SHARD_CLIPS
        self.count = min(SHARD_CLIPS, clips - self.first)
        self.failures: dict[int, tuple[str, str]] = {}
        self._rows: NDArray[np.float16] | None = None
        self._starts: NDArray[np.int64] = np.zeros(0, np.int64)

    def open(self) -> None:
        """Map the file; DatasetError if file and index do not fit each other."""
        try:
            index = from_table(_Index, read_json_file(self.index), self.index.name)
            frames = np.array(index.frames, np.int64)
            rows = np.load(self.file, mmap_mode="r")
            if rows.dtype != np.float16 or rows.ndim != 2 or len(rows) != frames.sum() or len(frames) != self.count:
                raise InvalidArgumentError("file and index do not fit each other")
            self.failures = {self.first + int(i): (error, text) for i, (error, text) in index.failures.items()}
        except (OSError, ValueError, TypeError, OverflowError) as error:
            raise DatasetError(
                f"{self.file} or {self.index.name} is damaged ({error}). Delete both and run the same command again."
            ) from error
        self._rows = rows
        self._starts = np.concatenate(([0], np.cumsum(frames)))

    def read(self, place: int) -> NDArray[np.float32]:
        assert self._rows is not None
        return self._rows[self._starts[place] : self._starts[place + 1]].astype(np.float32)

    def compute(self, compute: Callable[[int], NDArray[np.float32]], pool: ThreadPoolExecutor, advance: Any) -> None:
        """Write both files, each complete or not at all."""

        def attempt(index: int) -> NDArray[np.float16] | tuple[str, str]:
            try:
                return compute(index).astype(np.float16)
            except (AudioError, OSError) as error:
                return type(error).__name__, str(error)

        done: list[NDArray[np.float16]] = []
        frames: list[int] = []
        failures: dict[int, tuple[str, str]] = {}
        for place, result in enumerate(pool.map(attempt, range(self.first, self.first + self.count))):
            if isinstance(result, tuple):
                failures[place] = result
                frames.append(0)
            else:
                done.append(result)
                frames.append(len(result))
            advance(1)
        rows = np.concatenate(done) if done else np.zeros((0, 1), np.float16)
        with atomic_file(self.file) as opened:
            np.save(opened, rows)
        with atomic_file(self.index) as opened:
            opened.write(json.dumps({"frames": frames, "failures": failures}).encode(errors="surrogatepass"))


def _fill(
    cache: Path,
    clips: ClipSet,
    compute: Callable[[int], NDArray[np.float32]],
    front_end: Mapping[str, Any],
    workers: int,
    progress: bool | None,
) -> Sequence[_Shard]:
    processes = current_processes()
    digest = hashlib.sha256("\0".join(clips.names).encode(errors="surrogateescape")).hexdigest()
    described = {"format": _FORMAT, "front_end": dict(front_end), "clips": len(clips), "names": digest}
    if processes.first:
        _check_or_write(cache, described)
    processes.wait()
    shards = [_Shard(cache, number, len(clips)) for number in range(-(-len(clips) // SHARD_CLIPS))]
    missing = [shard for shard in shards if not shard.index.exists()]
    # Otherwise one process could read what another has just written.
    processes.wait()
    own = processes.share(missing)
    disable = (not progress) if progress is not None else None
    if own:
        with (
            open_threads(workers) as pool,
            tqdm(
                total=sum(shard.count for shard in own),
                desc="features",
                unit="clip",
                disable=disable if processes.first else True,
            ) as bar,
        ):
            for shard in own:
                shard.compute(compute, pool, bar.update)
    processes.wait()
    for shard in shards:
        shard.open()
    return shards


def _check_or_write(cache: Path, described: dict[str, Any]) -> None:
    """Refuse a cache of other clips or another front end; write what a new one is of."""
    file = cache / "cache.json"
    if not file.exists():
        if cache.exists() and any(not entry.name.startswith(".") for entry in cache.iterdir()):
            raise DatasetError(f"{cache} holds something other than features. Choose an empty folder.")
        cache.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(described, indent=2) + "\n")
        return
    try:
        found = read_json_file(file)
    except ValueError as error:
        raise DatasetError(f"{file} is damaged. Delete the folder or choose another one. ({error})") from error
    if found != described:
        other = [key for key in described if found.get(key) != described[key]]
        raise DatasetError(
            f"{cache} holds features of other clips or of another front end ({', '.join(other)} differ). Choose "
            "another folder, or delete it."
        )


def _too_few(failed: int, tried: int, message: str) -> DatasetError:
    return DatasetError(
        f"{failed} of {tried} clips cannot be decoded, one of them because: {message} Install what is missing, fetch "
        "the clips again, or lower min_share."
    )
