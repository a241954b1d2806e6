"""From what a caller gives, a clip or a stream, to blocks of samples at the network's rate."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sedembed.audio.reader import AudioReader, as_clips, as_waveform, check_sample_rate, resample_blocks
from sedembed.errors import AudioError, InvalidWaveformError
from sedembed.types import AudioInput

__all__ = ["clip_blocks", "list_clips", "naming_clip", "stream_blocks"]


def clip_blocks(clip: AudioInput, sample_rate: int | None, target_rate: int) -> Iterator[NDArray[np.float32]]:
    """Yield the samples of one clip, a path or an array, in mono at `target_rate`."""
    if isinstance(clip, (str, os.PathLike)):
        if sample_rate is not None:
            raise InvalidWaveformError(
                f"sample_rate={sample_rate} was given with the path {os.fspath(clip)!r}; a file knows its own "
                "rate: leave sample_rate out"
            )
        with AudioReader(Path(clip), sample_rate=target_rate) as reader:
            yield from reader.blocks()
        return
    waveform = as_waveform(clip)
    rate = target_rate if sample_rate is None else check_sample_rate(sample_rate)
    yield from resample_blocks([waveform], rate, target_rate)


def stream_blocks(blocks: Iterable[ArrayLike], sample_rate: int, target_rate: int) -> Iterator[NDArray[np.float32]]:
    """Yield the samples of a stream of blocks at `target_rate`; empty blocks are skipped.

    Raises
    ------
    InvalidWaveformError
        For a block that breaks the rules, or a stream without samples.
    """
    rate = check_sample_rate(sample_rate)
    checked = (as_waveform(block) for block in blocks if np.size(block))
    empty = True
    for block in resample_blocks(checked, rate, target_rate):
        empty = False
        yield block
    if empty:
        raise InvalidWaveformError("expected at least one sample in the stream, got none: check where it comes from")


def list_clips(x: AudioInput) -> list[Any]:
    """Clips of an input that holds several.

    Raises
    ------
    InvalidWaveformError
        If there is none.
    """
    clips = as_clips(x)
    if not clips:
        raise InvalidWaveformError("expected at least one clip, got an empty list")
    return clips


@contextmanager
def naming_clip(index: int, clips: int) -> Iterator[None]:
    """Say in the errors of a clip which one it is."""
    try:
        yield
    except AudioError as error:
        raise type(error)(f"clip {index} of {clips}: {error}") from error
