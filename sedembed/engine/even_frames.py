"""Frame embeddings at even distances over a sound of any length, as the benchmarks of others want them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sedembed.engine.runner import Runner
from sedembed.engine.windows import refuse_nonfinite
from sedembed.errors import InvalidArgumentError

__all__ = ["even_frames"]


def even_frames(
    runner: Runner, waves: Sequence[NDArray[np.float32]], hop: float | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Frame embeddings of sounds of one length, at even distances.

    `Embedder.embed_frames` cuts a long sound every 60 s, and the frames of WEANet are then 0.96 s instead of 0.32 s
    apart at a cut. Here a window begins where the frames of the window before it end, so windows overlap as far as is
    needed. Up to 60 s and without `hop`, both give the same.

    Parameters
    ----------
    runner : Runner
        The network.
    waves : sequence of ndarray of float32, shape (samples,)
        Sounds of one length at the rate of the network.
    hop : float, optional
        Seconds from frame to frame, a whole fraction of the network's own distance, which is the default. For a hop of
        1/n of it the network runs n times, on the sound from 0, 1, … hops on.

    Returns
    -------
    embeddings : ndarray of float32, shape (sounds, frames, embedding size)
        In the order of time.
    times : ndarray of float64, shape (frames,)
        Centres of the frames in seconds.

    Raises
    ------
    InvalidArgumentError
        For sounds of several lengths, or a hop that is no whole fraction of the network's.
    InvalidWaveformError
        For a sound for which the network gives NaN or infinity.
    """
    network = runner.network
    lengths = {len(wave) for wave in waves}
    if len(lengths) != 1:
        raise InvalidArgumentError(f"Expected sounds of one length, got {sorted(lengths)} samples; cut or pad them.")
    period = 1 / network.frame_rate
    passes = 1 if hop is None else max(1, round(period / hop)) if hop > 0 else 0
    if hop is not None and (passes == 0 or abs(passes * hop - period) > 1e-6):
        raise InvalidArgumentError(
            f"Expected a hop that divides the network's own {period:g} s, such as {period / 2:g} or {period / 4:g} s, "
            f"got {hop!r}."
        )
    shifts = [round(number * period * network.sample_rate / passes) for number in range(passes)]
    # A sound that is shorter than a shift has no samples for that pass.
    found = [_one_pass(runner, [wave[shift:] for wave in waves]) for shift in shifts if shift < min(lengths)]
    times = np.concatenate(
        [
            network.first_frame_time + shift / network.sample_rate + np.arange(embeddings.shape[1]) * period
            for shift, embeddings in zip(shifts, found, strict=False)
        ]
    )
    order = np.argsort(times, kind="stable")
    return np.concatenate(found, axis=1)[:, order], times[order]


def _one_pass(runner: Runner, waves: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Frames at the network's own distance, shape (sounds, frames, embedding size)."""
    network = runner.network
    minimum, samples, step = network.min_samples, len(waves[0]), network.sample_rate / network.frame_rate
    # As long as a window may be, and such that no frame reaches beyond its end.
    size = minimum + round((runner.window_samples - minimum) // step * step)
    parts, start = [], 0
    while True:
        # A rest that is too short for a window of its own stays with the window before it.
        end = start + size if samples - start >= runner.window_samples + minimum else max(samples, start + minimum)
        windows = [np.pad(wave[start:end], (0, max(0, end - samples))) for wave in waves]
        results = runner.run([runner.features(window) for window in windows])
        part = refuse_nonfinite(np.stack([result.frames for result in results]))
        parts.append(part)
        if end >= samples:
            return np.concatenate(parts, axis=1)
        start += round(part.shape[1] * step)
