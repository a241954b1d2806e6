"""Print how each format is read, with which decoders: ``python examples/decoding_table.py``; Markdown for the guide.

Files of every format are made, whole, cut in the middle, and joined from two. Each is read by libsndfile alone, with
PyAV, and with the program ffmpeg. PyAV makes the files that libsndfile cannot write, so it must be installed. The
column of ffmpeg says "not run" where the program is missing.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from sedembed.audio import decoders
from sedembed.audio.reader import AudioReader
from sedembed.errors import AudioError

SECONDS, RATE = 6.0, 48_000
_SHORT = 0.25  # s; less than this is lost at a joint or in the padding of a codec

#: Format of the table, suffix, and what makes it: (format, subtype) of libsndfile, or (container, codec) of FFmpeg.
SNDFILE = {
    "WAV": ("wav", "WAV", "PCM_16"),
    "WAV, 24 bits": ("wav", "WAV", "PCM_24"),
    "WAV, µ-law": ("wav", "WAV", "ULAW"),
    "RF64": ("rf64", "RF64", "PCM_16"),
    "W64": ("w64", "W64", "PCM_16"),
    "AIFF": ("aiff", "AIFF", "PCM_16"),
    "AU": ("au", "AU", "PCM_16"),
    "CAF": ("caf", "CAF", "PCM_16"),
    "FLAC": ("flac", "FLAC", "PCM_16"),
    "OGG Vorbis": ("ogg", "OGG", "VORBIS"),
    "OGG Opus": ("opus", "OGG", "OPUS"),
    "MP3": ("mp3", "MP3", "MPEG_LAYER_III"),
}
FFMPEG = {
    "M4A (AAC)": ("m4a", "ipod", "aac"),
    "M4A (ALAC)": ("m4a", "ipod", "alac"),
    "AAC (ADTS)": ("aac", "adts", "aac"),
    "WMA": ("wma", "asf", "wmav2"),
    "AC-3": ("ac3", "ac3", "ac3"),
    "WavPack": ("wv", "wv", "wavpack"),
    "TTA": ("tta", "tta", "tta"),
    "MKA (FLAC)": ("mka", "matroska", "flac"),
    "WebM (Opus)": ("webm", "webm", "libopus"),
    "MP4 video": ("mp4", "mp4", "aac"),
}


def tone(seconds: float) -> NDArray[np.float32]:
    """Noisy tone, mono."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).standard_normal(len(time))
    return np.asarray(0.4 * np.sin(2 * np.pi * 440 * time) + 0.05 * noise, np.float32)


def by_sndfile(form: str, subtype: str) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", RATE, 1, format=form, subtype=subtype) as sound:
        wave = tone(SECONDS)
        for begin in range(0, len(wave), RATE):  # libsndfile's Vorbis encoder takes no long pieces
            sound.write(wave[begin : begin + RATE])
    return file.getvalue()


def by_ffmpeg(form: str, codec: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        if form == "mp4":
            picture = container.add_stream("mpeg4", rate=5, width=64, height=64)
            picture.pix_fmt = "yuv420p"
        stream = container.add_stream(codec, rate=RATE, layout="mono", bit_rate=128_000)
        frame = av.AudioFrame.from_ndarray(tone(SECONDS)[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        fit = av.AudioResampler(stream.format, "mono", RATE, frame_size=stream.codec_context.frame_size or 1024)
        for piece in (*fit.resample(frame), *fit.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
        if form == "mp4":
            for _ in range(round(5 * SECONDS)):
                container.mux(picture.encode(av.VideoFrame(64, 64, "yuv420p")))
            container.mux(picture.encode(None))
    return file.getvalue()


@contextmanager
def installed(what: str) -> Iterator[None]:
    """Hide PyAV, the ffmpeg program, or both."""
    hidden: dict[str, Callable[[], None]] = {}
    if what != "av":
        hidden["find_av"] = lambda: None
    if what != "ffmpeg":
        hidden["find_ffmpeg"] = lambda: None
    with mock.patch.multiple(decoders, **hidden):
        yield


def outcome(file: Path, seconds: float) -> str:
    """Read a file, and say what came of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with AudioReader(file) as reader:
                for _ in reader.blocks():
                    pass
        except AudioError:
            return "refused"
    part = "" if reader.seconds > seconds - _SHORT else f" {100 * reader.seconds / seconds:.0f} %"
    if caught:
        return f"warned{part}"
    return f"read{part}"


def rows() -> Iterator[list[str]]:
    """One row for each format."""
    kinds = {name: (suffix, by_sndfile, how) for name, (suffix, *how) in SNDFILE.items()}
    kinds.update({name: (suffix, by_ffmpeg, how) for name, (suffix, *how) in FFMPEG.items()})
    with tempfile.TemporaryDirectory() as scratch:
        for name, (suffix, make, how) in kinds.items():
            whole = make(*how)
            row = [name]
            for what in ("plain", "av", "ffmpeg"):
                if what == "ffmpeg" and decoders.find_ffmpeg() is None:
                    row.append("not run")
                    continue
                said = []
                for data, seconds in ((whole, SECONDS), (whole[: len(whole) // 2], SECONDS), (whole * 2, 2 * SECONDS)):
                    file = Path(scratch) / f"sound.{suffix}"
                    file.write_bytes(data)
                    with installed(what):
                        said.append(outcome(file, seconds))
                row.append(" / ".join(said))
            yield row


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| format | libsndfile alone | with `av` | with `ffmpeg` |\n| --- | --- | --- | --- |")
    for row in rows():
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
