"""From what a caller gives, a clip or a stream, to blocks of samples at the network's rate."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sedembed.audio import reader
from sedembed.audio.reader import AudioReader, as_clips, as_waveform, check_sample_rate, resample_blocks
from sedembed.errors import AudioError, InvalidWaveformError
from sedembed.types import AudioInput

__all__ = ["clip_blocks", "is_several", "list_clips", "local_file", "naming_clip", "stream_blocks"]

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_SUFFIX = re.compile(r"\.\w{1,8}")
_RATES = ("sampling_rate", "sample_rate")


def clip_blocks(clip: AudioInput, sample_rate: int | None, target_rate: int) -> Iterator[NDArray[np.float32]]:
    """Yield the samples of one clip in mono at `target_rate`.

    A clip is a path, the bytes of a sound file, a binary file object, samples, or a mapping of ``array`` and
    ``sampling_rate``.
    """
    if isinstance(clip, Mapping):
        clip, sample_rate = _from_mapping(clip, sample_rate)
    if isinstance(clip, (bytes, bytearray, memoryview)):
        clip = io.BytesIO(clip)
    is_file = not isinstance(clip, type) and callable(getattr(clip, "read", None))
    if is_file or isinstance(clip, (str, os.PathLike)):
        if sample_rate is not None:
            given = "a sound file" if is_file else f"the path {os.fspath(clip)!r}"
            raise InvalidWaveformError(
                f"sample_rate={sample_rate} was given with {given}; a file knows its own rate: leave sample_rate out"
            )
        if is_file:
            yield from _read_object(clip, target_rate)
            return
        with AudioReader(local_file(clip), sample_rate=target_rate) as opened:
            yield from opened.blocks()
        return
    waveform = as_waveform(clip)
    rate = target_rate if sample_rate is None else check_sample_rate(sample_rate)
    yield from resample_blocks([waveform], rate, target_rate)


def local_file(path: str | os.PathLike[str]) -> Path:
    """Path of a recording, with ``~`` expanded.

    Raises
    ------
    InvalidWaveformError
        For a URL or an empty text.
    """
    text = os.fspath(path)
    if isinstance(text, bytes) or not text:
        raise InvalidWaveformError(f"Expected the path of a sound file as text, got {text!r}; name a file.")
    if isinstance(path, str) and _URL.match(text):
        raise InvalidWaveformError(
            f"Expected a file on this machine, got the URL {text}; download it, or pass its bytes: "
            "embed(urllib.request.urlopen(url).read())."
        )
    return Path(path).expanduser()


def _from_mapping(clip: Mapping[str, Any], sample_rate: int | None) -> tuple[Any, int | None]:
    """Give the samples and the rate of a row of a Hugging Face data set."""
    rates = [name for name in _RATES if name in clip]
    if "array" not in clip or not rates:
        raise InvalidWaveformError(
            f"Expected a mapping of array and sampling_rate, got one of {', '.join(map(repr, clip)) or 'nothing'}; "
            "pass {'array': samples, 'sampling_rate': rate}."
        )
    if sample_rate is not None:
        raise InvalidWaveformError(
            f"sample_rate={sample_rate} was given with a mapping that has its own sampling_rate; leave sample_rate out."
        )
    return clip["array"], check_sample_rate(clip[rates[0]])


def _read_object(file: BinaryIO, target_rate: int) -> Iterator[NDArray[np.float32]]:
    """Read a file object, from where it stands to its end.

    Decoders take paths, so it is copied to a temporary file, in memory that does not depend on its length.
    """
    name = getattr(file, "name", None)
    name = PurePath(name).name if isinstance(name, str) else ""
    what = repr(name) if name else "the bytes given"
    suffix = PurePath(name).suffix
    with tempfile.TemporaryDirectory(prefix="sedembed-") as folder:
        copy = Path(folder) / f"sound{suffix if _SUFFIX.fullmatch(suffix) else ''}"
        with copy.open("wb") as opened:
            try:
                shutil.copyfileobj(file, opened, 2**20)
            except (TypeError, AttributeError, ValueError, OSError) as error:  # text, or closed, or not to be read
                raise InvalidWaveformError(
                    f"Expected a binary file that is open for reading, got {type(file).__name__} ({error}); open it "
                    "with mode 'rb'."
                ) from error
        try:
            with AudioReader(copy, sample_rate=target_rate) as decoded:
                yield from decoded.blocks()
        except AudioError as error:
            raise type(error)(str(error).replace(str(copy), what)) from None


def stream_blocks(blocks: Iterable[ArrayLike], sample_rate: int, target_rate: int) -> Iterator[NDArray[np.float32]]:
    """Yield the samples of a stream of blocks at `target_rate`; empty blocks are skipped.

    Raises
    ------
    InvalidWaveformError
        For what is no iterable of blocks, a block that breaks the rules, or a stream without samples.
    """
    rate = check_sample_rate(sample_rate)
    if getattr(blocks, "ndim", 0) == 1 or isinstance(blocks, (str, bytes, Mapping)) or not isinstance(blocks, Iterable):
        raise InvalidWaveformError(
            f"Expected an iterable of blocks of samples, got one {type(blocks).__name__}; pass a list of arrays, or "
            "call embed_frames for a whole sound."
        )
    return _checked_blocks(blocks, rate, target_rate)


def _checked_blocks(blocks: Iterable[ArrayLike], rate: int, target_rate: int) -> Iterator[NDArray[np.float32]]:
    checked = (as_waveform(block) for block in blocks if not _is_empty(block))
    empty = True
    for block in resample_blocks(checked, rate, target_rate):
        empty = False
        yield block
    if empty:
        raise InvalidWaveformError("Expected at least one sample in the stream, got none; check where it comes from.")


def _is_empty(block: Any) -> bool:
    """Whether an array, tensor or list of one dimension has no samples; others are for `as_waveform` to refuse."""
    shape = getattr(block, "shape", None)
    return tuple(shape) == (0,) if shape is not None else isinstance(block, (list, tuple)) and not block


def is_several(x: object) -> bool:
    """Whether `x` stands for several clips: a list, tuple, 2-D array, or a column of paths or of clips."""
    return reader.is_several(x) or _is_column(x)


def _is_column(x: Any) -> bool:
    """Whether this is a 1-D array or a column of pandas, Polars or Arrow that holds anything but numbers."""
    if isinstance(x, np.ndarray):
        return x.ndim == 1 and x.dtype.kind in "OUT"
    if isinstance(x, type) or not (callable(getattr(x, "to_numpy", None)) and callable(_lister(x))):
        return False
    numbers = x.to_numpy()
    return isinstance(numbers, np.ndarray) and numbers.ndim == 1 and numbers.dtype.kind in "OUT"


def _lister(x: Any) -> Any:
    return next((found for name in ("to_list", "to_pylist") if (found := getattr(x, name, None)) is not None), None)


def list_clips(x: AudioInput) -> list[Any]:
    """Clips of an input that holds several.

    Raises
    ------
    InvalidWaveformError
        If there is none.
    """
    clips = _members(x) if _is_column(x) else as_clips(x)
    if not clips:
        raise InvalidWaveformError("Expected at least one clip, got an empty list; leave it out.")
    return clips


def _members(column: Any) -> list[Any]:
    if isinstance(column, np.ndarray):
        return list(column)
    # Polars and Arrow keep what was an array as a list of numbers.
    return [np.asarray(clip, np.float32) if _is_numbers(clip) else clip for clip in _lister(column)()]


def _is_numbers(clip: Any) -> bool:
    return isinstance(clip, list) and bool(clip) and all(type(value) in (int, float) for value in clip)


@contextmanager
def naming_clip(index: int, clips: int) -> Iterator[None]:
    """Say in the errors of a clip which one it is."""
    try:
        yield
    except AudioError as error:
        raise type(error)(f"clip {index} of {clips}: {error}") from error
