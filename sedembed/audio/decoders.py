"""Decoders behind `sedembed.audio.reader`: libsndfile first, then PyAV or the ffmpeg program for what it leaves."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from sedembed.audio.ffmpeg import FfmpegDecoder, find_ffmpeg
from sedembed.audio.headers import Samples, check_flac, find_samples, is_tag, mp3_seconds, scan_ogg
from sedembed.audio.pyav import AvDecoder, find_av
from sedembed.errors import (
    AudioDecodeError,
    AudioError,
    AudioTimeoutError,
    MissingFileError,
    NotAFileError,
    UnreadableFileError,
    UnsupportedFormatError,
)

__all__ = ["FFMPEG_EXTENSIONS", "SNDFILE_EXTENSIONS", "Decoder", "check_file", "open_decoder"]

_SNDFILE = "wav wave bwf rf64 w64 flac ogg oga opus spx mp3 mp2 mpga aif aiff aifc au snd caf voc sph nist"
_FFMPEG = (
    "m4a m4b aac ac3 eac3 dts wma asf amr ape wv tta mka weba ra 3gp 3ga mp4 m4v mkv webm mov avi flv wmv mpg mpeg mts "
    "m2ts ogv"
)
SNDFILE_EXTENSIONS = frozenset(f".{name}" for name in _SNDFILE.split())
FFMPEG_EXTENSIONS = frozenset(f".{name}" for name in _FFMPEG.split())

_LEAST_REST = 4096  # bytes behind the sound of a file; fewer are a tag or padding
# Bytes of a sample, of the kinds whose number of samples follows from their number of bytes.
_WIDTHS = {
    **{"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1},
    **{"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8},
}
_RAW = {"PCM_S8": "i1", "PCM_U8": "u1", "PCM_16": "i2", "PCM_32": "i4", "FLOAT": "f4", "DOUBLE": "f8"}


class Decoder(Protocol):
    """What the reader needs of a decoder.

    Attributes
    ----------
    rate, channels : int
        Of the first block; later ones may have other channels.
    problem : str or None
        What was wrong with the file, once all blocks have been read.
    """

    rate: int
    channels: int
    problem: str | None

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield float32 arrays (frames, channels)."""

    def close(self) -> None:
        """Close the file."""


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A SoundFile that neither seeks nor counts on its header.

    SoundFile seeks after each read, which spoils the joints of MP3 blocks and fails or hangs in cut FLAC files.
    """

    def seekable(self) -> bool:
        return False


class _SndfileDecoder:
    """libsndfile, and another decoder from where it stops early.

    Raises
    ------
    soundfile.SoundFileError
        If libsndfile does not know the file.
    """

    def __init__(self, path: Path, samples: Samples | None, timeout: float) -> None:
        self.problem = None if samples is None else samples.problem
        self._path, self._timeout = path, timeout
        # A descriptor says how far libsndfile has read. On Windows it takes none from Python.
        self._descriptor = os.open(path, os.O_RDONLY) if os.name == "posix" else None
        try:
            self._sound = _ForwardFile(path if self._descriptor is None else self._descriptor, closefd=False)
        except BaseException:
            self._close_descriptor()
            raise
        sound = self._sound
        self.rate, self.channels, self.format = int(sound.samplerate), int(sound.channels), str(sound.format)
        self.subtype, claimed = str(sound.subtype), int(sound.frames)
        self._claimed = claimed if claimed < 2**62 else 0  # frames that should come, 0 if nobody knows
        # Behind the frames that it counts, libsndfile would read on in these and give nothing of it.
        self._counted = self._claimed if self.format in ("FLAC", "MP3") else 0
        self._most: int | None = None  # frames after which there is no more sound
        self.missing = 0  # frames that are there and that the header does not count
        self._chained, self._error = False, cast("str | None", None)
        if self.format == "MP3" and mp3_seconds(path) is None:
            self._claimed = 0  # without a tag, libsndfile guesses
        elif self.format == "OGG":
            self.problem, self._chained = scan_ogg(path)
        elif samples is not None and self.subtype in _WIDTHS:
            self._most = samples.size // (_WIDTHS[self.subtype] * self.channels)
            self.missing = max(0, self._most - self._claimed)
            self._claimed = min(self._claimed, self._most)

    def _decoded(self) -> Iterator[NDArray[np.float32]]:
        most, done = max(1024, min(2 * self.rate, 2**20 // self.channels)), 0
        while self._error is None:
            frames = min(most, self._counted - done) if self._counted else most
            block = np.full((frames, self.channels), np.nan, np.float32)
            if not frames:
                return
            try:
                block = self._sound.read(out=block)
            except soundfile.SoundFileError as error:
                # The count is lost with the error: keep what has been written. Reading on could hang.
                self._error = _reason(error)
                block = block[: int(np.isfinite(block).all(axis=1).cumprod().sum())]
            if not len(block):
                return
            done += len(block)
            yield block

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        done = 0
        for block in self._decoded():
            kept = block if self._most is None else block[: self._most - done]
            done += len(kept)
            if len(kept):
                yield kept
            if len(kept) < len(block):
                break
        rest = self._find_rest()
        if self._error is not None or rest:
            where = f"what follows the first {done / self.rate:.2f} s"
            problem = self._error or f"{where} is not read"
            more = _open_other(self._path, self._timeout)
            if more is None:
                problem += "; `pip install sedembed[av]` or the program ffmpeg may read more of it"
            else:
                with contextlib.closing(more):
                    yield from self._continue(more, done)
                # An error of libsndfile is damage even where another decoder finds a way round it.
                problem = more.problem or self._error or ""
            self.problem = self.problem or problem or None
        elif done < self._claimed and self.problem is None:
            self.problem = f"its header promises {self._claimed / self.rate:.2f} s"

    def _find_rest(self) -> bool:
        """Whether libsndfile stopped before the end of a compressed file."""
        if self.format == "OGG" or self._descriptor is None or self.format not in ("MP3", "FLAC"):
            return self._chained
        at = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        with self._path.open("rb") as file:
            file.seek(at)
            rest = file.read(2**20)
        return len(rest.strip(b"\0")) > _LEAST_REST and not is_tag(rest)

    def _continue(self, more: Decoder, done: int) -> Iterator[NDArray[np.float32]]:
        """Yield what another decoder finds behind the first frames, which came from this one."""
        if more.rate != self.rate:
            more.problem = "its decoders do not agree on its rate"
            return
        try:
            for block in more.blocks():
                skipped = min(done, len(block))
                done -= skipped
                if skipped < len(block):
                    yield block[skipped:]
        except AudioTimeoutError:
            raise
        except AudioError as error:
            more.problem = str(error)

    def close(self) -> None:
        self._sound.close()
        self._close_descriptor()

    def _close_descriptor(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class _RawDecoder:
    """Samples of a container whose header counts fewer than there are: they are read to their end as they lie."""

    def __init__(self, path: Path, samples: Samples, rate: int, channels: int, subtype: str) -> None:
        self.rate, self.channels, self.problem = rate, channels, samples.problem
        self._samples, self._subtype = samples, subtype
        self._file = path.open("rb")
        self._file.seek(samples.start)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        width = _WIDTHS[self._subtype] * self.channels
        left = self._samples.size - self._samples.size % width
        most = max(1024, min(2 * self.rate, 2**20 // self.channels)) * width
        while left and (data := self._file.read(min(left, most))):
            left -= len(data)
            yield _convert(data[: len(data) - len(data) % width], self._subtype, self._samples.order).reshape(
                -1, self.channels
            )

    def close(self) -> None:
        self._file.close()


def _convert(data: bytes, subtype: str, order: str) -> NDArray[np.float32]:
    """Return samples of one kind as float32; integers are divided by their full scale."""
    if subtype == "PCM_24":
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, slice(1, 4) if order == "<" else slice(0, 3)] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view(f"{order}i4")[:, 0].astype(np.float32) / np.float32(2.0**31)
    values = np.frombuffer(data, f"{order}{_RAW[subtype]}")
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if values.dtype.kind == "u":
        return (values.astype(np.float32) - 128.0) / np.float32(128.0)
    return values.astype(np.float32) / np.float32(2.0 ** (8 * values.dtype.itemsize - 1))


def _reason(error: soundfile.SoundFileError) -> str:
    return f"libsndfile: {getattr(error, 'error_string', error)}"


def check_file(path: str | os.PathLike[str]) -> Path:
    """Refuse what is no readable regular file before anything opens it (opening a pipe could wait for ever)."""
    file = Path(os.fsdecode(path))
    try:
        status = file.stat()
        if stat.S_ISREG(status.st_mode):
            with file.open("rb"):
                pass
    except PermissionError as error:
        raise UnreadableFileError(
            f"Expected a readable sound file, got {file}, which this user may not read; change its permissions."
        ) from error
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        cure = "the link leads nowhere" if file.is_symlink() else "check the spelling and the working directory"
        raise MissingFileError(f"Expected a sound file at {file}, found none; {cure}.") from error
    if stat.S_ISDIR(status.st_mode):
        raise NotAFileError(f"Expected a sound file, got the folder {file}; use embed_folder.")
    if not stat.S_ISREG(status.st_mode):
        raise UnsupportedFormatError(f"Expected a regular file, got a pipe or device: {file}; copy it to a file.")
    if status.st_size == 0:
        raise AudioDecodeError(f"Expected a sound file, got an empty one (0 bytes): {file}; fetch it again.")
    return file


def open_decoder(path: Path, timeout: float) -> Decoder:
    """Open a checked file with the first decoder that knows it: libsndfile, PyAV, the ffmpeg program.

    Raises
    ------
    AudioDecodeError
        If none does, or the header contradicts itself. UnsupportedFormatError if one would that is not installed.
    """
    samples = find_samples(path)
    check_flac(path)
    try:
        decoder = _SndfileDecoder(path, samples, timeout)
    except soundfile.SoundFileError as error:
        other = _open_other(path, timeout)
        if other is not None:
            other.problem = None if samples is None else samples.problem
            return other
        if path.suffix.lower() in FFMPEG_EXTENSIONS:
            raise UnsupportedFormatError(
                f"Expected a format that libsndfile reads, got {path}, which needs PyAV or the program ffmpeg, and "
                "neither is installed; install one (`pip install sedembed[av]`, apt install ffmpeg, brew install "
                "ffmpeg, winget install ffmpeg) or convert the file to FLAC or WAV."
            ) from error
        raise AudioDecodeError(
            f"Expected a sound file, got {path}, which libsndfile does not decode ({_reason(error)}); check that it "
            "plays. If it does, `pip install sedembed[av]` or the program ffmpeg may read it."
        ) from error
    if samples is not None and decoder.missing > 0 and (decoder.subtype == "PCM_24" or decoder.subtype in _RAW):
        decoder.close()
        return _RawDecoder(path, samples, decoder.rate, decoder.channels, decoder.subtype)
    return decoder


def _open_other(path: Path, timeout: float) -> Decoder | None:
    """Open a file with PyAV or else the ffmpeg program; None where neither is installed."""
    av, program = find_av(), find_ffmpeg()
    if av is not None:
        try:
            return AvDecoder(path, av)
        except AudioDecodeError:
            if program is None:
                raise
    return None if program is None else FfmpegDecoder(path, program, timeout)
