"""The ffmpeg program as a decoder, for formats that libsndfile does not read."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedembed.errors import AudioDecodeError, AudioTimeoutError

__all__ = ["DEMUXERS", "FfmpegDecoder", "find_ffmpeg"]

#: What FFmpeg may take a file for: files of sound and video. Playlists and lists of files would open other files.
DEMUXERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,dtshd,eac3,flac,flv,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,ogg,rm,tak,tta,"
    "voc,w64,wav,wv"
)


def find_ffmpeg() -> str | None:
    """Path of the installed program, if there is one."""
    return shutil.which("ffmpeg")


class FfmpegDecoder:
    """The ffmpeg program writing AU (rate, channels, then float32 to the end) to a pipe, under a deadline per read."""

    def __init__(self, path: Path, program: str, timeout: float) -> None:
        self.problem: str | None = None
        self._path, self._timeout = path, timeout
        # The "file:" prefix keeps names such as "-y" or "http:x" from being more than names.
        command = [program, "-nostdin", "-v", "error", "-threads", "1", "-protocol_whitelist", "file,pipe"]
        command += ["-format_whitelist", DEMUXERS]
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
        """Yield float32 arrays (frames, channels); `problem` is known at the end."""
        size = 4 * self.channels
        more = True
        while more:
            more = self._more()
            whole = len(self._bytes) - len(self._bytes) % size
            if whole:
                yield np.frombuffer(self._bytes[:whole], ">f4").astype(np.float32).reshape(-1, self.channels)
            self._bytes = self._bytes[whole:]
        said = self._finish()  # a word about timestamps of joined files is none about their sound
        self.problem = self.problem or (None if "non monotonically increasing dts" in said else said) or None

    def close(self) -> None:
        """End the program."""
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
