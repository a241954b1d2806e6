"""Runner: a network made ready on a device; windows in, frame embeddings and probabilities out.

What embedding, tagging, detection and analysis of clips, streams and folders share: features → batches → results.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from sedembed._utils.isolation import isolated, one_thread_after_fork
from sedembed._utils.machine import warn_of_slow_bfloat16
from sedembed._utils.memory import give_back_memory
from sedembed.engine.openvino import OpenVINONetwork, choose_engine
from sedembed.engine.transfer import to_device, to_host
from sedembed.engine.windows import (
    LATEST_SECONDS,
    PART_SECONDS,
    WINDOW_SECONDS,
    ClipSum,
    Hops,
    WindowResult,
    iter_hops,
    iter_latest,
    iter_windows,
    plan_batches,
    refuse_nonfinite,
)
from sedembed.errors import InvalidArgumentError
from sedembed.models.base import Backbone, NetworkOutput
from sedembed.models.registry import ModelRecord
from sedembed.types import Engine, Frames, Precision

__all__ = ["MAX_BATCH", "Runner", "pick_device"]

MAX_BATCH = 16

# So many times larger are batches where memory is not shared among workers.
_DEVICE_BATCH = 16

# Seconds to which windows are padded.
_ROUNDED = (0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 18, 22, 26, 30, 36, 43, 51, 60, 61)


class Runner:
    """A network made ready to run on a device.

    Parameters
    ----------
    network : Backbone
        In evaluation mode; left unchanged.
    record : ModelRecord
        What the weights are and where they come from.
    device : str or torch.device, optional
        Where the network runs; by default the first CUDA device, else the CPU.
    precision : {"float32", "bfloat16"}
        Arithmetic of the convolutions; with OpenVINO of the whole network.
    engine : {"torch", "openvino", "auto"}
        What runs the network; see `choose_engine`.

    Raises
    ------
    ValueError
        For an unknown precision or engine, or a device that is not there or not the engine's.
    MissingPackageError
        If the engine is not installed.
    """

    def __init__(
        self,
        network: Backbone,
        record: ModelRecord,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
        engine: Engine = "torch",
    ) -> None:
        if str(precision) == "tf32":
            raise InvalidArgumentError(
                "Expected precision 'float32' or 'bfloat16', got 'tf32': it is not offered, as a GPU's vectors would "
                "differ from a CPU's in the third digit; 'bfloat16' is the faster choice."
            )
        if not isinstance(precision, str) or precision not in get_args(Precision):
            raise InvalidArgumentError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        if not isinstance(engine, str) or engine not in get_args(Engine):
            raise InvalidArgumentError(f"engine must be one of {', '.join(get_args(Engine))}, got {engine!r}")
        self.record = record
        self.device = pick_device("cpu" if device is None and engine == "openvino" else device)
        self.precision = precision
        self.engine = choose_engine(engine, network, self.device, precision)
        if precision == "bfloat16" and self.engine == "torch":
            warn_of_slow_bfloat16(self.device)
        one_thread_after_fork()
        with isolated(self.device):
            self.network = network.prepare(self.device, torch.bfloat16 if precision == "bfloat16" else torch.float32)
        give_back_memory()  # what loading and preparing took for a while
        self._lengths = sorted({self.network.frame_count(round(s * self.network.sample_rate)) for s in _ROUNDED})
        self._forward: Callable[[torch.Tensor, torch.Tensor | None], NetworkOutput] = (
            self.network if self.engine == "torch" else OpenVINONetwork(network, precision)
        )
        self._forward_frames = self.network.forward_frames if self.engine == "torch" else self._frames_of_all

    @property
    def window_samples(self) -> int:
        """Length of a window in samples; longer clips are cut."""
        return round(WINDOW_SECONDS * self.network.sample_rate)

    @property
    def max_batch_frames(self) -> int:
        """Most feature frames, padding included, of a batch of MAX_BATCH windows."""
        return self.network.max_batch_frames * (1 if self.device.type == "cpu" else _DEVICE_BATCH)

    def windows(self, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Cut a sound, given in blocks at the network's own rate, into windows."""
        return iter_windows(blocks, self.window_samples, self.network.min_samples)

    def parts(self, window: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Cut a window into equal parts of about ten seconds, for its probabilities; one below 15 s stays whole."""
        count = max(1, round(len(window) / (PART_SECONDS * self.network.sample_rate)))
        ends = [round(number * len(window) / count) for number in range(count + 1)]
        return [window[start:end] for start, end in itertools.pairwise(ends)]

    @property
    def shortest_window(self) -> float:
        """Shortest input of the network in seconds."""
        return self.network.min_samples / self.network.sample_rate

    def hops(
        self, blocks: Iterable[NDArray[np.float32]], hops: Hops
    ) -> Iterator[tuple[NDArray[np.float32], float, float, bool]]:
        """Cut a sound into windows that get a vector each.

        Yields
        ------
        window : ndarray of float32, shape (samples,)
            A sound shorter than the network's shortest input is padded with zeros.
        start, end : float
            Seconds from the start of the sound.
        last : bool
            Whether the sound ends with it.
        """
        rate, minimum = self.network.sample_rate, self.network.min_samples
        for window, start, last in iter_hops(blocks, *hops.samples(rate)):
            padded = np.pad(window, (0, max(0, minimum - len(window))))
            yield padded, start / rate, (start + len(window)) / rate, last

    def features(self, window: NDArray[np.float32]) -> torch.Tensor:
        """Features of one window, on the CPU, shape (feature frames, bins); safe to call from several threads."""
        with torch.inference_mode(), isolated():
            return self.network.features(torch.from_numpy(window))

    def new_sum(self) -> ClipSum:
        """Empty sum that pools the windows of a clip as this network does."""
        network = self.network
        return ClipSum(network.embedding_maximum, network.unit_length)

    def run(
        self, features: Sequence[torch.Tensor], *, probabilities: bool = False, max_items: int = MAX_BATCH
    ) -> list[WindowResult]:
        """Run windows through the network in batches of similar length.

        Parameters
        ----------
        features : sequence of torch.Tensor, shape (feature frames, bins) each
            What `features` gave.
        probabilities : bool
            Also pool the probabilities of the events.
        max_items : int
            Most windows in a batch.

        Returns
        -------
        list of WindowResult
            In the order given.
        """
        results: list[WindowResult | None] = [None] * len(features)
        for batch in self.plan([len(item) for item in features], max_items):
            found = self.submit([features[i] for i in batch], probabilities=probabilities)()
            for index, result in zip(batch, found, strict=True):
                results[index] = result
        return [result for result in results if result is not None]

    def plan(self, lengths: Sequence[int], max_items: int = MAX_BATCH) -> list[list[int]]:
        """Group windows of similar length, given in feature frames, into batches for `submit`: lists of indices."""
        rounded = [self._round(length) for length in lengths]
        batches = plan_batches(rounded, max_items, self.max_batch_frames * max_items // MAX_BATCH)
        return [part for batch in batches for part in _split(batch)]

    def _round(self, frames: int) -> int:
        """Length to which a window is padded: few different ones, because PyTorch keeps kernels for each."""
        place = bisect.bisect_left(self._lengths, frames)
        return self._lengths[place] if place < len(self._lengths) else frames

    def _pad(self, features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pad windows to one length; the second value says how long each is, if any is shorter."""
        lengths = [len(item) for item in features]
        longest = self._round(max(lengths))
        padded = features[0].new_zeros((len(features), longest, features[0].shape[1]))
        for row, item in zip(padded, features, strict=True):
            row[: len(item)] = item
        valid = None if min(lengths) == longest else to_device(torch.tensor(lengths, device="cpu"), self.device)
        return to_device(padded, self.device), valid

    @torch.inference_mode()
    def submit(
        self, features: Sequence[torch.Tensor], *, probabilities: bool = False
    ) -> Callable[[], list[WindowResult]]:
        """Start the network on one batch of windows; safe to call from several threads.

        Parameters
        ----------
        features, probabilities
            As for `run`.

        Returns
        -------
        callable
            Waits for the results and gives them, in the order of `features`. On a CPU they are there at once.
        """
        padded, lengths = self._pad(features)
        with isolated(self.device):
            if probabilities:
                output = self._forward(padded, lengths)
                found, lengths, pooled = output.frames, output.lengths, [self.network.pool(output)]
            else:
                (found, lengths), pooled = self._forward_frames(padded, lengths), []

        some = [found, *pooled]
        copied = to_host(some if lengths is None else [*some, lengths])

        def finish() -> list[WindowResult]:
            frames, *others = (tensor.numpy() for tensor in copied())
            valid = [frames.shape[1]] * len(frames) if lengths is None else others.pop().tolist()
            if not others:
                return [WindowResult(frames[i, :n]) for i, n in enumerate(valid)]
            return [WindowResult(frames[i, :n], others[0][i]) for i, n in enumerate(valid)]

        return finish

    def _frames_of_all(
        self, padded: torch.Tensor, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        output = self._forward(padded, lengths)
        return output.frames, output.lengths

    def stream(self, windows: Iterable[NDArray[np.float32]]) -> Iterator[Frames]:
        """Frame embeddings of consecutive windows, with times from the start of the first one."""
        for number, window in enumerate(windows):
            embeddings = refuse_nonfinite(self.run([self.features(window)])[0].frames)
            yield Frames(embeddings, self.frame_times(len(embeddings), number * WINDOW_SECONDS))

    def latest_windows(
        self, blocks: Iterable[NDArray[np.float32]], window: float | None, hop: float | None
    ) -> Iterator[tuple[NDArray[np.float32], int, int]]:
        """Windows of a stream that end a hop apart, in whole frames; see `iter_latest`.

        Parameters
        ----------
        blocks : iterable of ndarray of float32
            At the network's own rate.
        window : float, optional
            Longest window in seconds; by default ten, as in training, or the hop if that is longer.
        hop : float, optional
            Seconds from one end to the next; by default the window.

        Raises
        ------
        InvalidArgumentError
            If they are no lengths, or the hop is longer than the window.
        """
        longest = max(LATEST_SECONDS, hop or 0.0) if window is None else window
        hop = longest if hop is None else hop
        for name, value in (("window", longest), ("hop", hop)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value <= WINDOW_SECONDS:
                raise InvalidArgumentError(
                    f"Expected a {name} in seconds, above 0 and at most {WINDOW_SECONDS:g}, got {value!r}."
                )
        if hop > longest:
            raise InvalidArgumentError(
                f"Expected a hop of at most the window, {longest:g} s, got {hop:g} s: what is between would be lost."
            )
        rate = self.network.frame_rate
        frame = round(self.network.sample_rate / rate)
        frames = max(1, round(hop * rate))
        return iter_latest(blocks, max(frames, math.ceil(longest * rate - 1e-6)) * frame, frames * frame, frame)

    def stream_latest(self, windows: Iterable[tuple[NDArray[np.float32], int, int]]) -> Iterator[Frames]:
        """Frame embeddings of what is new in each of the windows that `latest_windows` gives."""
        network, following = self.network, 0
        frame = round(network.sample_rate / network.frame_rate)
        for wave, start, end in windows:
            padded = np.pad(wave, (0, max(0, network.min_samples - len(wave))))
            embeddings = refuse_nonfinite(self.run([self.features(padded)])[0].frames)
            times = self.frame_times(len(embeddings), start / network.sample_rate)
            new = slice(max(0, following - start // frame), int((times < end / network.sample_rate).sum()))
            if new.start < new.stop:
                following = start // frame + new.stop
                yield Frames(embeddings[new], times[new])

    def frame_times(self, frames: int, start: float) -> NDArray[np.float64]:
        """Centres, in seconds, of the frames of a window that starts at `start`."""
        return start + self.network.first_frame_time + np.arange(frames) / self.network.frame_rate

    @torch.inference_mode()
    def frame_probabilities(self, features: torch.Tensor) -> NDArray[np.float32]:
        """Probability of each event in each frame of one window, shape (frames, classes)."""
        padded, lengths = self._pad([features])
        with isolated(self.device):
            output = self._forward(padded, lengths)
        valid = None if output.lengths is None else int(output.lengths[0])
        return np.asarray(output.probabilities[0, :valid].float().cpu())


def _split(batch: list[int]) -> Iterator[list[int]]:
    """Parts of 1, 2, 4, 8 ... windows: the fewer sizes of batches, the fewer kernels PyTorch keeps."""
    while batch:
        size = 1 << (len(batch).bit_length() - 1)
        yield batch[:size]
        batch = batch[size:]


def pick_device(device: str | torch.device | None) -> torch.device:
    """Device of a name, by default the first CUDA device, else the CPU.

    Raises
    ------
    ValueError
        For a name that PyTorch does not know, or a device that is not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"Expected a device such as 'cpu' or 'cuda:0', got {device!r}.") from error
    if picked.type == "mps":
        raise InvalidArgumentError(
            "Expected a CPU or a CUDA device, got 'mps': the networks were never run on Apple's GPU, which lacks the "
            "float64 that pooling needs; choose 'cpu'."
        )
    try:
        torch.ones(1, device=picked).cpu()
    except Exception as error:  # each kind of device has errors of its own
        raise InvalidArgumentError(
            f"Expected a device that PyTorch can use on this machine, got {str(device)!r}; choose 'cpu'."
        ) from error
    return picked
