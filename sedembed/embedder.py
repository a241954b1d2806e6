"""Embedder: recordings or arrays in, vectors and probabilities out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sedembed.audio.reader import AudioReader, as_clips, as_waveform, check_sample_rate, is_several, resample_blocks
from sedembed.detection.detect import detect, detect_blocks
from sedembed.detection.events import DEFAULT_THRESHOLD, Event, EventRules
from sedembed.engine.windows import WINDOW_SECONDS, ClipSum, WindowResult, iter_windows, plan_batches
from sedembed.errors import AudioError, InvalidWaveformError
from sedembed.labels import load_labels
from sedembed.models import talnet, weanet
from sedembed.models.weanet import WEANet
from sedembed.models.weights import Network, load_network, resolve

if TYPE_CHECKING:
    from sedembed.models.registry import ModelRecord

__all__ = ["Embedder", "Frames", "Precision", "embed", "load_model"]

Precision = Literal["float32", "bfloat16"]
AudioInput = Any  # a path, an array-like, a tensor, or a list of these: `sedembed.audio.reader` tells them apart

MAX_BATCH = 16
_BUFFERED_WINDOWS = 64

_T = TypeVar("_T")


class Frames(NamedTuple):
    """Frame embeddings of a clip or of one window of a stream.

    Attributes
    ----------
    embeddings : ndarray of float32, shape (frames, embedding size)
        One vector a frame, as the network gives it: of no certain length, also where clip embeddings are of unit
        length. A frame of TALNet stands for 0.1 s; one of WEANet spans 0.96 s and begins 0.32 s after
        the one before.
    times : ndarray of float64, shape (frames,)
        Centre of each frame in seconds from the start of the clip.
    """

    embeddings: NDArray[np.float32]
    times: NDArray[np.float64]


class Embedder:
    """A trained network ready to turn sound into vectors; `load_model` makes one.

    Parameters
    ----------
    network : TALNet or WEANet
        The trained network; left unchanged.
    record : ModelRecord
        What the weights are and where they come from.
    device : str or torch.device, optional
        Where the network runs; by default the first CUDA device, else the CPU.
    precision : {"float32", "bfloat16"}
        Arithmetic of the convolutions. The front end, the recurrent layer of TALNet and the layers of WEANet that
        give probabilities always run in float32.

    Raises
    ------
    ValueError
        For an unknown precision or a device that is not there.
    """

    def __init__(
        self,
        network: Network,
        record: ModelRecord,
        *,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
    ) -> None:
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        self._device = _pick_device(device)
        self._precision = precision
        self._record = record
        self._labels = (
            load_labels() if network.config.classes == 527 else tuple(map(str, range(network.config.classes)))
        )
        convolutions = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._network: Network
        if isinstance(network, WEANet):
            self._network = weanet.prepare(network, self._device, convolutions)
        else:
            self._network = talnet.prepare(network, self._device, convolutions)

    def __repr__(self) -> str:
        return f"Embedder({self._record.name!r}, device={str(self._device)!r}, precision={self._precision!r})"

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the front end in Hz; other rates are resampled to it."""
        return self._network.sample_rate

    @property
    def embedding_size(self) -> int:
        """Length of an embedding."""
        return self._network.embedding_size

    @property
    def frame_rate(self) -> float:
        """Frame embeddings per second, in Hz."""
        return self._network.frame_rate

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the sound events, in the order of `tag`."""
        return self._labels

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self._device

    @property
    def precision(self) -> str:
        """Arithmetic of the convolutions."""
        return self._precision

    @property
    def record(self) -> ModelRecord:
        """Source, version, licence, sha256 and measured figures of the weights."""
        return self._record

    def embed(self, x: AudioInput, sample_rate: int | None = None) -> NDArray[np.float32]:
        """Clip embeddings: the frame embeddings pooled over time.

        TALNet averages them; standardising and scaling to unit length, which the paper does next, belong to
        `LinearProbe`. WEANet averages them or takes the maximum of each dimension, as its configuration says, and
        scales the result to unit length; that of a sound to which no unit of the network answers stays zero.

        Parameters
        ----------
        x : path, array or tensor of shape (samples,), or several of these
            One clip, or several as a list, a tuple, or an array of shape (clips, samples). Integers are scaled by the
            range of their type; files with several channels are averaged to mono.
        sample_rate : int, optional
            Rate of the arrays in Hz, by default the model's own. Not to be given with paths, which know theirs.

        Returns
        -------
        ndarray of float32, shape (embedding size,) or (clips, embedding size)
            Singular in, singular out.

        Raises
        ------
        InvalidWaveformError
            For NaN or Inf, empty, complex or wrongly shaped input, or `sample_rate` together with a path.
        AudioDecodeError
            For a file that cannot be read as sound.
        FileNotFoundError
            For a path that leads to nothing.
        """
        return self._map(x, sample_rate, lambda clip: clip.embedding, probabilities=False)

    def tag(self, x: AudioInput, sample_rate: int | None = None) -> NDArray[np.float32]:
        """Probability of each sound event in each clip, pooled over time as in training.

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
        x : path, or array or tensor of shape (samples,)
            One clip.
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
        windows = list(self._stream(self._windows(x, sample_rate)))
        return Frames(
            np.concatenate([window.embeddings for window in windows]),
            np.concatenate([window.times for window in windows]),
        )

    def stream(self, blocks: Iterable[ArrayLike], sample_rate: int) -> Iterator[Frames]:
        """Frame embeddings of a sound that arrives in blocks, in bounded memory.

        Parameters
        ----------
        blocks : iterable of array-like, shape (any,)
            Consecutive samples, as from a microphone or a reader; blocks of any length.
        sample_rate : int
            Rate of the blocks in Hz.

        Yields
        ------
        Frames
            One for each window of 60 s, times running on from the start of the stream. Joined, they are what
            `embed_frames` gives for the whole sound.

        Raises
        ------
        InvalidWaveformError
            For a block that breaks the rules of `embed`, or a stream without samples.
        """
        return self._stream(iter_windows(self._incoming(blocks, sample_rate), *self._window_sizes))

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
    ) -> list[Any]:
        """Sound events with their begin and end.

        The probability of each sound in each frame is median-filtered; frames from the threshold on are active; runs
        of active frames are events; events of a sound with short gaps between them become one; what is then too short
        is dropped. Sounds longer than 10 s are heard in windows of 10 s, the length that the networks were trained on,
        which overlap by 2 s (WEANet: 10.24 s and 1.92 s, multiples of its frames); events run on across them. Memory
        does not grow with the length of a file.

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
            Sounds to look for; by default all.
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
            the clip. Those are 0.1 s for TALNet and 0.32 s for WEANet, whose first frame hears, and stands for, the
            0.32 s before it too, and whose last one stands for all up to the end of the clip; so its default median
            is that of one frame, and its default gap none. The probability is the highest of the filtered track.

        Raises
        ------
        InvalidWaveformError, AudioDecodeError, FileNotFoundError
            As for `embed`.
        ValueError
            For a label that the model does not know, or an option out of its range.
        """
        rules = EventRules.check(self.labels, self.frame_rate, threshold, labels, median, min_duration, max_gap)
        if not is_several(x):
            return detect(self, x, sample_rate, rules)[0]
        clips = _several(x)
        events = []
        for index, clip in enumerate(clips):
            with _clip_named(index, len(clips)):
                events.append(detect(self, clip, sample_rate, rules)[0])
        return events

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
    ) -> Iterator[Event]:
        """Sound events of a sound that arrives in blocks, in bounded memory.

        Parameters
        ----------
        blocks, sample_rate
            As for `stream`.
        threshold, labels, median, min_duration, max_gap
            As for `detect`.

        Yields
        ------
        Event
            Once it is over, up to 10 s later. Sorted, they are what `detect` gives for the whole sound.

        Raises
        ------
        InvalidWaveformError
            As for `stream`.
        ValueError
            As for `detect`.
        """
        rules = EventRules.check(self.labels, self.frame_rate, threshold, labels, median, min_duration, max_gap)
        pieces = detect_blocks(self, self._incoming(blocks, sample_rate), rules)
        return (event for events, _ in pieces for event in events)

    # --- shared with embed_folder ----------------------------------------------------------------------------------

    @property
    def _window_sizes(self) -> tuple[int, int]:
        """Length of a window and shortest input, in samples."""
        return round(WINDOW_SECONDS * self.sample_rate), self._network.min_samples

    @property
    def _max_batch_frames(self) -> int:
        """Most feature frames, padding included, of a batch of MAX_BATCH windows."""
        return self._network.max_batch_frames

    def _clip_sum(self) -> ClipSum:
        """Empty sum that makes a clip's embedding and probabilities as this network does."""
        network = self._network
        return ClipSum(network.pools_by_maximum, network.embedding_maximum, network.unit_length)

    def _features(self, window: NDArray[np.float32]) -> torch.Tensor:
        """Front end of one window on the CPU; safe to call from several threads."""
        with torch.inference_mode():
            return self._network.features(torch.from_numpy(window))

    def _run(
        self, features: Sequence[torch.Tensor], probabilities: bool = False, max_items: int = MAX_BATCH
    ) -> list[WindowResult]:
        """Run windows through the network in batches of similar length; results in the order given."""
        results: list[WindowResult | None] = [None] * len(features)
        max_frames = self._max_batch_frames * max_items // MAX_BATCH
        for batch in plan_batches([len(item) for item in features], max_items, max_frames):
            for index, result in zip(batch, self._run_batch([features[i] for i in batch], probabilities), strict=True):
                results[index] = result
        return [result for result in results if result is not None]

    @torch.inference_mode()
    def _run_batch(self, features: Sequence[torch.Tensor], probabilities: bool) -> list[WindowResult]:
        lengths = [len(item) for item in features]
        equal = min(lengths) == max(lengths)
        padded = torch.nn.utils.rnn.pad_sequence(list(features), batch_first=True).to(self._device)
        # TF32 would make CUDA differ from the CPU in the third digit.
        with torch.backends.cudnn.flags(allow_tf32=False):
            output = self._network(padded, None if equal else torch.tensor(lengths, device=self._device))
            terms = self._network.pool_terms(output) if probabilities else None
        frames = output.frames.cpu().numpy()
        valid = [frames.shape[1]] * len(features) if output.lengths is None else output.lengths.tolist()
        if terms is None:
            return [WindowResult(frames[i, :n]) for i, n in enumerate(valid)]
        numerators, denominators = (term.double().cpu().numpy() for term in terms)
        return [WindowResult(frames[i, :n], (numerators[i], denominators[i])) for i, n in enumerate(valid)]

    def _frame_times(self, frames: int, start: float) -> NDArray[np.float64]:
        return start + self._network.first_frame_time + np.arange(frames) / self.frame_rate

    @torch.inference_mode()
    def _frame_probabilities(self, features: torch.Tensor) -> NDArray[np.float32]:
        """Probability of each event in each frame of one window, (frames, classes)."""
        with torch.backends.cudnn.flags(allow_tf32=False):
            return np.asarray(self._network(features[None].to(self._device)).probabilities[0].float().cpu())

    # --- clips -----------------------------------------------------------------------------------------------------

    def _blocks(self, clip: AudioInput, sample_rate: int | None) -> Iterator[NDArray[np.float32]]:
        if isinstance(clip, (str, os.PathLike)):
            if sample_rate is not None:
                raise InvalidWaveformError(
                    f"sample_rate={sample_rate} was given with the path {os.fspath(clip)!r}; a file knows its own "
                    "rate: leave sample_rate out"
                )
            with AudioReader(Path(clip), sample_rate=self.sample_rate) as reader:
                yield from reader.blocks()
            return
        waveform = as_waveform(clip)
        rate = self.sample_rate if sample_rate is None else check_sample_rate(sample_rate)
        yield from resample_blocks([waveform], rate, self.sample_rate)

    def _incoming(self, blocks: Iterable[ArrayLike], sample_rate: int) -> Iterator[NDArray[np.float32]]:
        rate = check_sample_rate(sample_rate)
        checked = (as_waveform(block) for block in blocks if np.size(block))
        empty = True
        for block in resample_blocks(checked, rate, self.sample_rate):
            empty = False
            yield block
        if empty:
            raise InvalidWaveformError(
                "expected at least one sample in the stream, got none: check where it comes from"
            )

    def _windows(self, clip: AudioInput, sample_rate: int | None) -> Iterator[NDArray[np.float32]]:
        return iter_windows(self._blocks(clip, sample_rate), *self._window_sizes)

    def _stream(self, windows: Iterable[NDArray[np.float32]]) -> Iterator[Frames]:
        for number, window in enumerate(windows):
            embeddings = self._run([self._features(window)])[0].frames
            yield Frames(embeddings, self._frame_times(len(embeddings), number * WINDOW_SECONDS))

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
        clips = _several(x)
        return np.stack([take(clip) for clip in self._sums(clips, sample_rate, probabilities, numbered=True)])

    def _sums(
        self, clips: Sequence[AudioInput], sample_rate: int | None, probabilities: bool, *, numbered: bool
    ) -> Iterator[ClipSum]:
        sums = [self._clip_sum() for _ in clips]
        pending: list[tuple[int, torch.Tensor]] = []

        def flush() -> None:
            for (index, _), result in zip(pending, self._run([f for _, f in pending], probabilities), strict=True):
                sums[index].add(result)
            pending.clear()

        for index, clip in enumerate(clips):
            with _clip_named(index, len(clips)) if numbered else nullcontext():
                for window in self._windows(clip, sample_rate):
                    pending.append((index, self._features(window)))
                    if len(pending) >= _BUFFERED_WINDOWS:
                        flush()
        flush()
        yield from sums


def _several(x: AudioInput) -> list[Any]:
    clips = as_clips(x)
    if not clips:
        raise InvalidWaveformError("expected at least one clip, got an empty list")
    return clips


@contextmanager
def _clip_named(index: int, clips: int) -> Iterator[None]:
    """Say in the errors of a clip which one it is."""
    try:
        yield
    except AudioError as error:
        raise type(error)(f"clip {index} of {clips}: {error}") from error


def _pick_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"expected a device such as 'cpu' or 'cuda:0', got {device!r}") from error
    if picked.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but PyTorch sees no CUDA device here; use device='cpu'")
    return picked


def load_model(
    name: str | os.PathLike[str] = "talnet",
    device: str | torch.device | None = None,
    precision: Precision = "float32",
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Embedder:
    """Load a network with its weights.

    Parameters
    ----------
    name : str or path
        A name from `list_models`, a directory or ``.safetensors`` file, or ``"hf://org/repo[@revision]"``.
    device : str or torch.device, optional
        Where the network runs; by default the first CUDA device, else the CPU.
    precision : {"float32", "bfloat16"}
        Arithmetic of the convolutions; the default is exact.
    cache_dir : path, optional
        Where downloads are kept, by default the hub's own cache.
    local_files_only : bool
        Never open a connection.

    Returns
    -------
    Embedder
        Ready to embed.

    Raises
    ------
    ModelNotFoundError
        For an unknown name or a path that leads to nothing.
    WeightsError
        For weights that are damaged or do not fit.
    DownloadError, OfflineError
        For weights that could not be fetched, or are not here while offline.
    ValueError
        For an unknown precision or a device that is not there.
    """
    resolved = resolve(name, cache_dir=cache_dir, local_files_only=local_files_only)
    return Embedder(load_network(resolved), resolved.record, device=device, precision=precision)


_default_models: dict[str, Embedder] = {}


def embed(x: AudioInput, sample_rate: int | None = None, model: str | Embedder = "talnet") -> NDArray[np.float32]:
    """Embed clips with a model that is loaded on first use and kept.

    Parameters
    ----------
    x, sample_rate
        As for `Embedder.embed`.
    model : str or Embedder
        What `load_model` takes, or a loaded model.

    Returns
    -------
    ndarray of float32, shape (embedding size,) or (clips, embedding size)
        Clip embeddings.

    Raises
    ------
    AudioError, ModelNotFoundError, WeightsError, DownloadError
        As for `Embedder.embed` and `load_model`.
    """
    if isinstance(model, str):
        if model not in _default_models:
            _default_models[model] = load_model(model)
        model = _default_models[model]
    return model.embed(x, sample_rate)
