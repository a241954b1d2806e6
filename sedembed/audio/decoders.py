"""Decoders behind `sedembed.audio.reader`: libsndfile, and the ffmpeg program for what that does not read."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import signal
import stat
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from sedembed.errors import (
    AudioDecodeError,
    AudioTimeoutError,
    MissingFileError,
    NotAFileError,
    UnreadableFileError,
    UnsupportedFormatError,
)

__all__ = ["FFMPEG_EXTENSIONS", "SNDFILE_EXTENSIONS", "check_file", "open_decoder"]

_SNDFILE = "wav wave bwf rf64 w64 flac ogg oga opus mp3 mp2 aif aiff aifc au snd caf voc sph nist"
_FFMPEG = (
    "m4a m4b aac ac3 eac3 dts wma amr ape wv tta mka weba ra 3gp mp4 m4v mkv webm mov avi flv wmv mpg mpeg mts m2ts ogv"
)
SNDFILE_EXTENSIONS = frozenset(f".{name}" for name in _SNDFILE.split())
FFMPEG_EXTENSIONS = frozenset(f".{name}" for name in _FFMPEG.split())

_MP3_PADDING = 4 * 1152  # a correct MP3 tag differs from the decoded length by at most the padding at the end
_UNKNOWN_SIZE = 0x7F000000  # programs that write to a pipe claim this much or more


class _File:
    """A file as libsndfile sees it: bytes of its header corrected, and its length out of sight if `endless`."""

    def __init__(self, path: Path, patches: dict[int, bytes], endless: bool) -> None:
        self._file = path.open("rb", buffering=0)
        self._size = 2**46 if endless else path.stat().st_size
        self._at, self._patches = 0, patches
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view, count = memoryview(buffer).cast("B"), 0
        try:
            if self._at < self._size:
                self._file.seek(self._at)
                count = self._file.readinto(view)
        except OSError as error:  # an exception would be lost on its way through libsndfile
            self.error = error
        for offset, new in self._patches.items():
            for i in range(max(self._at, offset), min(self._at + count, offset + len(new))):
                view[i - self._at] = new[i - offset]
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A SoundFile that neither seeks nor counts on its header.

    SoundFile seeks after each read, which spoils the joints of MP3 blocks and fails or hangs in cut FLAC files.
    """

    def seekable(self) -> bool:
        return False


class _SndfileDecoder:
    """libsndfile; raises soundfile.SoundFileError from its constructor if it does not know the file."""

    def __init__(self, path: Path) -> None:
        self.problem: str | None = None
        self._claimed = 0  # frames that should come, 0 if nobody knows
        self._cut_at: int | None = None
        self._open(path)
        if self._sound.format == "MP3":
            self._reopen_mp3(path)
        elif self._sound.format in ("WAV", "WAVEX", "AIFF"):
            self._reopen_iff(path)
        elif self._sound.format == "OGG":
            tail = _head(path, max(0, path.stat().st_size - 2**17), 2**17)
            page = tail[max(0, tail.rfind(b"OggS")) :].ljust(27, b"\0")
            whole = 27 + page[26] + sum(page[27 : 27 + page[26]])
            if not page[5] & 4 or len(page) < whole:  # the flag "end of stream"
                self.problem = "its last page is missing"

    def _open(self, path: Path, patches: dict[int, bytes] | None = None, endless: bool = False) -> None:
        self._file = _File(path, patches or {}, endless)
        try:
            self._sound = _ForwardFile(self._file)
        except BaseException:
            self._file.close()
            raise
        self.rate, self.channels = int(self._sound.samplerate), int(self._sound.channels)
        if self._sound.frames < 2**62:
            self._claimed = int(self._sound.frames)

    def _reopen_mp3(self, path: Path) -> None:
        """Lift the limit libsndfile sets itself: the count in the tag or, without a tag, a guess from the first frames.

        Joined and variable-rate files run on past either. The tag's count serves to drop the padding at the end.
        """
        start, head = 0, _head(path, 0, 2**13)
        if head[:3] == b"ID3":
            start = 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
            head = _head(path, start, 2**13)
        self.close()
        tag = re.search(
            rb"\xff[\xe2-\xff].{2}(?:.{9}|.{17}|.{32})(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f]", head, re.S
        )
        if tag is None:
            self._open(path, endless=True)
            self._claimed = 0
        else:
            claimed = self._cut_at = self._claimed or None
            self._open(path, {start + tag.end(): b"\x0f\xff\xff\xff"})
            self._claimed = claimed or 0

    def _reopen_iff(self, path: Path) -> None:
        """Compare the size of the data chunk with the file; where it falls short, read on to the file's end."""
        size, found = path.stat().st_size, _find_data(path)
        if found is None:
            return
        start, claimed = found
        there, after = size - start, start + claimed + claimed % 2
        if claimed > there:
            if claimed < _UNKNOWN_SIZE:
                self.problem = f"its header promises {claimed} bytes of sound and {there} are there"
        elif after + 8 <= size and _head(path, 0, 4) == b"RIFF":
            tail = _head(path, after, 2**16)
            ordinary = re.match(rb"[ -~]{4}", tail) and after + 8 + int.from_bytes(tail[4:8], "little") <= size
            if ordinary or (claimed and not any(tail)):  # another chunk, or padding
                return
            if claimed:
                self.problem = f"its header counts {claimed} bytes of sound; all of the {there} there are read"
            self.close()
            right = {4: size - 8, start - 4: there}
            self._open(path, {at: struct.pack("<I", min(value, 2**32 - 1)) for at, value in right.items()})

    def _decoded(self) -> Iterator[NDArray[np.float32]]:
        frames = max(1024, min(2 * self.rate, 2**20 // self.channels))
        failed = False
        while not failed:
            block = np.full((frames, self.channels), np.nan, np.float32)
            try:
                block = self._sound.read(out=block)
            except soundfile.SoundFileError as error:
                # The count is lost with the error: keep what has been written. Reading on could hang.
                failed, self.problem = True, _reason(error)
                block = block[: int(np.isfinite(block).all(axis=1).cumprod().sum())]
            if self._file.error is not None:
                raise self._file.error
            if not len(block):
                return
            yield block

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        done, cut, held = 0, self._cut_at, []
        for block in self._decoded():
            done += len(block)
            if cut is None or done <= cut:
                yield block
                continue
            # Held back until it is clear whether this is padding or a sound longer than its tag says.
            keep = max(0, len(block) - (done - cut))
            held.append(block[keep:])
            if keep:
                yield block[:keep]
            if done - cut > _MP3_PADDING:
                yield np.concatenate(held)
                cut = None
        if done < self._claimed and self.problem is None:
            self.problem = f"its header promises {self._claimed / self.rate:.2f} s"

    def close(self) -> None:
        self._sound.close()
        self._file.close()


class _FfmpegDecoder:
    """The ffmpeg program writing AU (rate, channels, then float32 to the end) to a pipe, under a deadline per read."""

    def __init__(self, path: Path, program: str, timeout: float) -> None:
        self.problem: str | None = None
        self._path, self._timeout = path, timeout
        # The "file:" prefix keeps names such as "-y" or "http:x" from being more than names.
        command = [program, "-nostdin", "-v", "error", "-threads", "1", "-protocol_whitelist", "file,pipe"]
        command += ["-i", f"file:{path.absolute()}", "-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": self._said}
        self._process = subprocess.Popen(command, bufsize=0, start_new_session=True, **streams)
        self._pieces: queue.Queue[bytes] = queue.Queue(maxsize=8)
        self._pump = threading.Thread(target=self._run_pump, name="sedembed-ffmpeg", daemon=True)
        self._pump.start()
        self._bytes = b""
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def _run_pump(self) -> None:
        """Move what ffmpeg writes into the queue; the last piece is empty."""
        pipe = self._process.stdout
        while pipe is not None and (piece := pipe.read(2**18)):
            self._pieces.put(piece)
        self._pieces.put(b"")

    def _more(self) -> bool:
        """Add a piece to what is waiting; False at the end."""
        try:
            piece = self._pieces.get(timeout=self._timeout)
        except queue.Empty:
            raise AudioTimeoutError(
                f"Expected sound from ffmpeg within {self._timeout:g} s, got none for {self._path}; "
                "check that the file plays, or allow more time."
            ) from None
        self._bytes += piece
        return bool(piece)

    def _read_header(self) -> None:
        while len(self._bytes) < 24 or len(self._bytes) < struct.unpack(">I", self._bytes[4:8])[0]:
            if not self._more():
                said = self._finish()
                if "matches no streams" in said:
                    raise AudioDecodeError(f"Expected a file with sound, got {self._path}, which has no audio track.")
                raise AudioDecodeError(
                    f"Expected a sound file, got {self._path}, which neither libsndfile nor ffmpeg decodes ({said}); "
                    "check that it plays."
                )
        offset, _, _, self.rate, self.channels = struct.unpack(">5I", self._bytes[4:24])
        self._bytes = self._bytes[offset:]

    def _finish(self) -> str:
        """Wait for ffmpeg to end; return the first error it told, or its exit status if that is not 0."""
        try:
            status = self._process.wait(self._timeout)
        except subprocess.TimeoutExpired:
            raise AudioTimeoutError(
                f"Expected ffmpeg to end within {self._timeout:g} s of its last sound, but it hangs on {self._path}."
            ) from None
        self._said.seek(0)
        text = self._said.read().decode(errors="replace").replace(f"file:{self._path.absolute()}: ", "")
        said = re.sub(r"\[[^]]* @ 0x[0-9a-f]+\] ", "", text).strip()  # addresses in memory
        return f"ffmpeg: {said.splitlines()[0]}" if said else f"ffmpeg ended with status {status}" if status else ""

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        size = 4 * self.channels
        more = True
        while more:
            more = self._more()
            whole = len(self._bytes) - len(self._bytes) % size
            if whole:
                yield np.frombuffer(self._bytes[:whole], ">f4").astype(np.float32).reshape(-1, self.channels)
            self._bytes = self._bytes[whole:]
        self.problem = self._finish() or None

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._process.poll() is None and hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)  # its children too: they could hold the pipe open
            self._process.kill()
        self._process.wait()
        for _ in range(100):  # the thread may be waiting to put a piece; a pipe held open elsewhere is left to it
            with contextlib.suppress(queue.Empty):
                self._pieces.get_nowait()
            self._pump.join(0.01)
            if not self._pump.is_alive() and self._process.stdout is not None:
                self._process.stdout.close()
                break
        self._said.close()


def _reason(error: soundfile.SoundFileError) -> str:
    return f"libsndfile: {getattr(error, 'error_string', error)}"


def _head(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def _find_data(path: Path) -> tuple[int, int] | None:
    """Return where the samples of a WAV or AIFF file begin and how many bytes of them its header claims."""
    with path.open("rb") as file:
        head = file.read(12)
        layout, wanted = ("<4sI", b"data") if head[:4] == b"RIFF" else (">4sI", b"SSND")
        for _ in range(1000):
            chunk = file.read(8)
            if len(chunk) < 8:
                return None
            name, size = struct.unpack(layout, chunk)
            if name == wanted:
                return file.tell(), size
            file.seek(size + size % 2, 1)
    return None


def check_file(path: str | os.PathLike[str]) -> Path:
    """Refuse what is no readable regular file before anything opens it (opening a pipe could wait for ever)."""
    file = Path(os.fsdecode(path))
    try:
        status = file.stat()
        if stat.S_ISREG(status.st_mode):
            _head(file, 0, 1)
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


def open_decoder(path: Path, timeout: float) -> _SndfileDecoder | _FfmpegDecoder:
    """Open a checked file with libsndfile, else with ffmpeg."""
    try:
        return _SndfileDecoder(path)
    except soundfile.SoundFileError as error:
        program = shutil.which("ffmpeg")
        if program is not None:
            return _FfmpegDecoder(path, program, timeout)
        if path.suffix.lower() in FFMPEG_EXTENSIONS:
            raise UnsupportedFormatError(
                f"Expected a format that libsndfile reads, got {path}, which needs the program ffmpeg, and that is not "
                "installed; install it (apt install ffmpeg, brew install ffmpeg, conda install ffmpeg, "
                "winget install ffmpeg) or convert the file to FLAC or WAV."
            ) from error
        raise AudioDecodeError(
            f"Expected a sound file, got {path}, which libsndfile does not decode ({_reason(error)}); check that it "
            "plays. If it does, install the program ffmpeg to read it here."
        ) from error
