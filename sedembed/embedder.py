"""Embedder: recordings or arrays in, vectors and probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sedembed._utils.checks import check_type
from sedembed.detection.detect import detect, detect_blocks, detect_clips, detect_latest
from sedembed.detection.events import DEFAULT_THRESHOLD, Event, EventRules
from sedembed.engine.clips import run_clips
from sedembed.engine.inputs import clip_blocks, is_several, list_clips, naming_clip, stream_blocks
from sedembed.engine.runner import Runner
from sedembed.engine.windows import WINDOW_SECONDS, ClipSum, Hops, WindowResult, refuse_nonfinite
from sedembed.errors import InvalidArgumentError, InvalidWaveformError
from sedembed.models.base import Backbone
from sedembed.models.registry import ModelRecord
from sedembed.models.weights import describe_network
from sedembed.types import AudioInput, Engine, Frames, Normalize, Precision, Tag, Windows

__all__ = ["Embedder"]


class Embedder:
    """A trained network ready to turn sound into vectors; `load_model` makes one.

    Parameters
    ----------
    network : Backbone
        The trained network; left unchanged. `load_network` gives one.
    record : ModelRecord, optional
        What the weights are and where they come from; by default a record of an unsaved network.
    device : str or torch.device, optional
        Where the network runs; by default the first CUDA device, else the CPU.
    precision : {"float32", "bfloat16"}
        Arithmetic of the convolutions; with OpenVINO of the whole network. The front end always runs in float32, and
        with PyTorch also the recurrent layer of TALNet and the layers of WEANet that give probabilities.
    engine : {"torch", "openvino", "auto"}
        What runs the network; see `load_model`.

    Attributes
    ----------
    runner : Runner
        The network made ready on its device; for the library's own use.

    Raises
    ------
    ValueError
        For an unknown precision or a device that is not there.
    """

    def __init__(
        self,
        network: Backbone,
        record: ModelRecord | None = None,
        *,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
        engine: Engine = "torch",
    ) -> None:
        check_type(network, Backbone, "network", "load_network gives one, and load_model a ready Embedder")
        check_type(record, (ModelRecord, type(None)), "record", "leave it out, or pass describe_model(name)")
        record = describe_network(network) if record is None else record
        self.runner = Runner(network, record, device, precision, engine)

    def __repr__(self) -> str:
        engine = "" if self.engine == "torch" else f", engine={self.engine!r}"
        return f"Embedder({self.record.name!r}, device={str(self.device)!r}, precision={self.precision!r}{engine})"

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the front end in Hz; other rates are resampled to it."""
        return self.runner.network.sample_rate

    @property
    def embedding_size(self) -> int:
        """Length of an embedding."""
        return self.runner.network.embedding_size

    @property
    def frame_rate(self) -> float:
        """Frame embeddings per second, in Hz."""
        return self.runner.network.frame_rate

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the sound events, in the order of `tag`."""
        return self.runner.network.labels

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.runner.device

    @property
    def precision(self) -> str:
        """Arithmetic of the convolutions."""
        return self.runner.precision

    @property
    def engine(self) -> str:
        """What runs the network: "torch" or "openvino"."""
        return self.runner.engine

    @property
    def default_normalize(self) -> Normalize:
        """What `LinearProbe` does to these embeddings before its classifier, as the paper does for this network."""
        return self.runner.network.default_normalize

    @property
    def record(self) -> ModelRecord:
        """Source, version, licence, sha256 and measured figures of the weights."""
        return self.runner.record

    def embed(self, x: AudioInput, sample_rate: int | None = None) -> NDArray[np.float32]:
        """Clip embeddings: the frame embeddings pooled over time.

        TALNet averages them; standardising and scaling to unit length, which the paper does next, belong to
        `LinearProbe`. WEANet averages them or takes the maximum of each dimension, as its configuration says, and
        scales the result to unit length. An all-zero embedding is returned as zeros.

        Parameters
        ----------
        x : one clip, or several
            One clip is a path, the bytes of a sound file, a binary file object, an array or tensor of shape (samples,),
            or a mapping of ``array`` and ``sampling_rate`` as Hugging Face data sets have. Several are a list, a tuple,
            an array of shape (clips, samples), or an array, pandas, Polars or Arrow column of paths or clips. Integers
            are scaled by the range of their type; files with several channels are averaged to mono.
        sample_rate : int, optional
            Rate of the arrays in Hz, by default the model's own. Not to be given with sound files, which know theirs.

        Returns
        -------
        ndarray of float32, shape (embedding size,) or (clips, embedding size)
            Singular in, singular out.

        Raises
        ------
        InvalidWaveformError
            For NaN or Inf, empty, complex or wrongly shaped input, for a sound so loud that the network gives NaN or
            infinity, or for `sample_rate` together with a sound file.
        AudioDecodeError
            For a file that cannot be read as sound.
        FileNotFoundError
            For a path that leads to nothing.
        """
        return self._map(x, sample_rate, lambda clip: clip.embedding, probabilities=False)

    def tag(self, x: AudioInput, sample_rate: int | None = None) -> NDArray[np.float32]:
        """Probability of each sound event in each clip, pooled over time as in training.

        Of a clip of 15 s or more it is the highest that any part has: parts are of about 10 s, and each goes through
        the network by itself, since short events are overlooked in minutes of other sound (measured).

        Parameters
        ----------
        x, sample_rate
            As for `embed`.

        Returns
        -------
        ndarray of float32, shape (classes,) or (clips, classes)
            In the order of `labels`.

        Raises
        ------
        InvalidWaveformError, AudioDecodeError, FileNotFoundError
            As for `embed`.
        """
        return self._map(x, sample_rate, lambda clip: clip.probabilities, probabilities=True)

    def embed_frames(self, x: AudioInput, sample_rate: int | None = None) -> Frames:
        """Frame embeddings of one clip.

        Parameters
        ----------
        x : one clip
            As for `embed`.
        sample_rate : int, optional
            As for `embed`.

        Returns
        -------
        Frames
            Embeddings (frames, embedding size) and the centres of the frames in seconds.

        Raises
        ------
        InvalidWaveformError, AudioDecodeError, FileNotFoundError
            As for `embed`; also for several clips at once.
        """
        if is_several(x):
            raise InvalidWaveformError(
                "embed_frames takes one clip, a path or a 1-D array, because clips differ in length; got several: "
                "call it once for each"
            )
        results = self._results([x], sample_rate, probabilities=False, numbered=False)
        frames = [refuse_nonfinite(result.frames) for _, result in results]
        times = [self.runner.frame_times(len(part), number * WINDOW_SECONDS) for number, part in enumerate(frames)]
        return Frames(np.concatenate(frames), np.concatenate(times))

    def embed_windows(
        self, x: AudioInput, sample_rate: int | None = None, window: float = 5.0, hop: float | None = None
    ) -> Windows:
        """Embed each window of one clip.

        Each vector is the one that `embed` gives for the samples of the window alone.

        Parameters
        ----------
        x : path, or array or tensor of shape (samples,)
            One clip of any length; memory does not grow with that of a file, but for the result.
        sample_rate : int, optional
            As for `embed`.
        window : float
            Length of a window in seconds, at most 60.
        hop : float, optional
            From the start of one window to that of the next in seconds; by default `window`.

        Returns
        -------
        Windows
            Embeddings (n, embedding size), and start and end (n,) in seconds. All windows have the same length: the
            last one ends with the clip, so it may overlap the one before it by more. A clip shorter than a window is
            one window.

        Raises
        ------
        InvalidWaveformError, AudioDecodeError, FileNotFoundError
            As for `embed`; also for several clips at once.
        ValueError
            For a window or a hop out of range.
        """
        hops = Hops.check(window, hop, self.runner.shortest_window)
        if is_several(x):
            raise InvalidWaveformError(
                "embed_windows takes one clip, a path or a 1-D array, because clips differ in length; got several: "
                "call it once for each"
            )
        windows = self.runner.hops(clip_blocks(x, sample_rate, self.sample_rate), hops)
        vectors, places = list[NDArray[np.float32]](), list[tuple[float, float]]()

        def waves(_: int) -> Iterator[NDArray[np.float32]]:
            for samples, start, end, _last in windows:
                places.append((start, end))
                yield samples

        for _, result in run_clips(self.runner, 1, waves):
            pooled = self.runner.new_sum()
            pooled.add(result)
            vectors.append(pooled.embedding)
        start, end = np.array(places, np.float64).T
        return Windows(np.stack(vectors), start, end)

    @overload
    def top_tags(
        self, x: list[Any] | tuple[Any, ...], sample_rate: int | None = None, k: int = 5
    ) -> list[list[Tag]]: ...

    @overload
    def top_tags(self, x: AudioInput, sample_rate: int | None = None, k: int = 5) -> list[Tag]: ...

    def top_tags(self, x: AudioInput, sample_rate: int | None = None, k: int = 5) -> list[Tag] | list[list[Tag]]:
        """Name the most likely sound events of each clip.

        Parameters
        ----------
        x, sample_rate
            As for `embed`.
        k : int
            How many to name.

        Returns
        -------
        list of Tag, or for several clips a list of such lists
            Label and probability, as `tag` gives it; the most likely first, equal ones in the order of `labels`.

        Raises
        ------
        InvalidWaveformError, AudioDecodeError, FileNotFoundError
            As for `embed`.
        ValueError
            For `k` that is no whole number of at least 1.
        """
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise InvalidArgumentError(f"k must be a whole number of at least 1, got {k!r}.")
        probabilities = self.tag(x, sample_rate)
        found = [
            [Tag(self.labels[event], float(row[event])) for event in np.argsort(-row, kind="stable")[:k]]
            for row in np.atleast_2d(probabilities)
        ]
        return found if probabilities.ndim == 2 else found[0]

    def stream(
        self,
        blocks: Iterable[ArrayLike],
        sample_rate: int,
        window: float | None = None,
        hop: float | None = None,
    ) -> Iterator[Frames]:
        """Frame embeddings of a sound that arrives in blocks, in bounded memory.

        Parameters
        ----------
        blocks : iterable of array-like, shape (any,)
            Consecutive samples, as from a microphone or a reader; blocks of any length.
        sample_rate : int
            Rate of the blocks in Hz.
        window, hop : float, optional
            Every `hop` seconds the last `window` seconds go through the network, so that a result is at most a hop
            late; both are rounded to frames. With one of them the other is ten seconds for the window, or the window
            for the hop.

        Yields
        ------
        Frames
            One for each window of 60 s, times running on from the start of the stream. Joined, they are what
            `embed_frames` gives for the whole sound. With a window or a hop, one for each hop: the frames that are new,
            each once. They differ a little from those of `embed_frames`, which know more of what follows them.

        Raises
        ------
        InvalidWaveformError
            For a block that breaks the rules of `embed`, or a stream without samples.
        InvalidArgumentError
            For a window or a hop of no length or above 60 s, or a hop longer than the window.
        """
        incoming = stream_blocks(blocks, sample_rate, self.sample_rate)
        if window is not None or hop is not None:
            return self.runner.stream_latest(self.runner.latest_windows(incoming, window, hop))
        return self.runner.stream(self.runner.windows(incoming))

    @overload
    def detect(
        self,
        x: list[Any] | tuple[Any, ...],
        sample_rate: int | None = None,
        threshold: float | Mapping[str, float] | ArrayLike = DEFAULT_THRESHOLD,
        *,
        labels: str | Iterable[str] | None = None,
        median: float = 0.3,
        min_duration: float = 0.0,
        max_gap: float = 0.2,
    ) -> list[list[Event]]: ...

    @overload
    def detect(
        self,
        x: AudioInput,
        sample_rate: int | None = None,
        threshold: float | Mapping[str, float] | ArrayLike = DEFAULT_THRESHOLD,
        *,
        labels: str | Iterable[str] | None = None,
        median: float = 0.3,
        min_duration: float = 0.0,
        max_gap: float = 0.2,
    ) -> list[Event]: ...

    def detect(
        self,
        x: AudioInput,
        sample_rate: int | None = None,
        threshold: float | Mapping[str, float] | ArrayLike = DEFAULT_THRESHOLD,
        *,
        labels: str | Iterable[str] | None = None,
        median: float = 0.3,
        min_duration: float = 0.0,
        max_gap: float = 0.2,
    ) -> list[Event] | list[list[Event]]:
        """Sound events with onset and offset.

        The probability of each sound in each frame is median-filtered. Frames at or above the threshold are active, and
        runs of active frames are events. Events of a sound with short gaps between them are merged; what is then too
        short is dropped. Sounds longer than 10 s are cut into windows of 10 s, the length that the networks were
        trained on, which overlap by 2 s (WEANet: 10.24 s and 1.92 s, multiples of its frames); events continue across
        them. Memory does not grow with the length of a file.

        Parameters
        ----------
        x, sample_rate
            As for `embed`.
        threshold : float, mapping from label to float, or array-like of shape (classes,)
            Probability from which on a frame is active, from 0 to 1. Sounds that a mapping does not name keep the
            default. That is 0.3 because the packaged TALNet, trained with linear softmax pooling, stays low where it
            is unsure: in the 13 recordings of ``examples/sounds`` 0.3 names 32 sounds, one of them wrong (an alarm
            clock for a telephone); 0.5 leaves 17 and misses bell, engine, helicopter and telephone; 0.2 adds 11, three
            of them wrong (music in a bell, water and a pump for an engine).
        labels : str or iterable of str, optional
            Sounds to look for, in upper or lower case; by default all.
        median : float
            Length of the median filter in seconds, rounded to frames and up to an odd number of them; 0 is none. The
            track is mirrored at its ends, as `scipy.ndimage.median_filter` does.
        min_duration : float
            Shortest event in seconds.
        max_gap : float
            Longest gap in seconds over which two events of one sound become one.

        Returns
        -------
        list of Event, or for several clips a list of such lists
            Sorted by onset. A frame stands for the 1 / `frame_rate` seconds, from a multiple of them on, that hold its
            centre in `Frames.times`; an event begins with its first frame and ends with its last, at the latest with
            the clip. A frame is 0.1 s for TALNet and 0.32 s for WEANet. The first frame of WEANet also stands for the
            0.32 s before it, and the last one for all up to the end of the clip. With WEANet the default median is one
            frame, and the default gap none. The probability is the highest of the filtered track.

        Raises
        ------
        InvalidWaveformError, AudioDecodeError, FileNotFoundError
            As for `embed`.
        ValueError
            For a label that the model does not know, or an option out of its range.
        """
        rules = EventRules.check(self.labels, self.frame_rate, threshold, labels, median, min_duration, max_gap)
        if not is_several(x):
            return detect(self.runner, clip_blocks(x, sample_rate, self.sample_rate), rules)[0]
        clips = list_clips(x)

        def blocks(index: int) -> Iterator[NDArray[np.float32]]:
            with naming_clip(index, len(clips)):
                yield from clip_blocks(clips[index], sample_rate, self.sample_rate)

        return detect_clips(self.runner, len(clips), blocks, rules)

    def detect_stream(
        self,
        blocks: Iterable[ArrayLike],
        sample_rate: int,
        threshold: float | Mapping[str, float] | ArrayLike = DEFAULT_THRESHOLD,
        *,
        labels: str | Iterable[str] | None = None,
        median: float = 0.3,
        min_duration: float = 0.0,
        max_gap: float = 0.2,
        window: float | None = None,
        hop: float | None = None,
    ) -> Iterator[Event]:
        """Sound events of a sound that arrives in blocks, in bounded memory.

        Parameters
        ----------
        blocks, sample_rate
            As for `stream`.
        threshold, labels, median, min_duration, max_gap
            As for `detect`.
        window, hop : float, optional
            As for `stream`.

        Yields
        ------
        Event
            Once it is over, up to 10 s later. Sorted, they are what `detect` gives for the whole sound. With a window
            or a hop, at most a hop after it is decided, which is half the median and the longest gap after its end;
            each once.

        Raises
        ------
        InvalidWaveformError
            As for `stream`.
        ValueError
            As for `detect`.
        """
        rules = EventRules.check(self.labels, self.frame_rate, threshold, labels, median, min_duration, max_gap)
        incoming = stream_blocks(blocks, sample_rate, self.sample_rate)
        if window is not None or hop is not None:
            pieces = detect_latest(self.runner, self.runner.latest_windows(incoming, window, hop), rules)
        else:
            pieces = detect_blocks(self.runner, incoming, rules)
        return (event for events, _ in pieces for event in events)

    # --- clips -----------------------------------------------------------------------------------------------------

    def _windows(self, clip: AudioInput, sample_rate: int | None) -> Iterator[NDArray[np.float32]]:
        return self.runner.windows(clip_blocks(clip, sample_rate, self.sample_rate))

    def _map(
        self,
        x: AudioInput,
        sample_rate: int | None,
        take: Callable[[ClipSum], NDArray[np.float32]],
        *,
        probabilities: bool,
    ) -> NDArray[np.float32]:
        if not is_several(x):
            return take(next(self._sums([x], sample_rate, probabilities, numbered=False)))
        clips = list_clips(x)
        found = []
        for index, clip in enumerate(self._sums(clips, sample_rate, probabilities, numbered=True)):
            with naming_clip(index, len(clips)):
                found.append(take(clip))
        return np.stack(found)

    def _sums(
        self, clips: Sequence[AudioInput], sample_rate: int | None, probabilities: bool, *, numbered: bool
    ) -> Iterator[ClipSum]:
        sums = [self.runner.new_sum() for _ in clips]
        for index, result in self._results(clips, sample_rate, probabilities, numbered=numbered):
            sums[index].add(result)
        yield from sums

    def _results(
        self, clips: Sequence[AudioInput], sample_rate: int | None, probabilities: bool, *, numbered: bool
    ) -> Iterator[tuple[int, WindowResult]]:
        """Results of the windows of clips, each with the index of its clip; those of one clip in order."""

        def windows(index: int) -> Iterator[NDArray[np.float32]]:
            with naming_clip(index, len(clips)) if numbered else nullcontext():
                for window in self._windows(clips[index], sample_rate):
                    yield from self.runner.parts(window) if probabilities else [window]

        if len(clips) > 1:
            yield from run_clips(self.runner, len(clips), windows, probabilities=probabilities)
            return
        only = windows(0)
        begin = list(islice(only, 2))
        if len(begin) == 1:  # nothing to share among workers
            yield 0, self.runner.run([self.runner.features(begin[0])], probabilities=probabilities)[0]
        else:
            yield from run_clips(self.runner, 1, lambda _: chain(begin, only), probabilities=probabilities)
