"""Sound files whose bytes and headers do not agree, made from whole ones; `CASES` says what reading them must give."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import soundfile

from tests.audio.reader_helpers import RATE, sound

__all__ = ["CASES", "Case", "encode"]


@cache
def encode(form: str, seconds: float = 2.0, rate: int = RATE, channels: int = 1, subtype: str | None = None) -> bytes:
    """Give the bytes of a whole file."""
    file = io.BytesIO()
    soundfile.write(file, sound(seconds, rate, channels), rate, format=form, subtype=subtype)
    return file.getvalue()


class Case(NamedTuple):
    """A file, and what comes of it: seconds of sound and the words of the warning, with and without PyAV or ffmpeg.

    Negative seconds: it is refused, with these words.
    """

    name: str
    data: Callable[[], bytes]
    seconds: float
    says: str | None = None
    plain_seconds: float | None = None  # with libsndfile alone, where that differs
    plain_says: str | None = None


def _patch(data: bytes, *changes: tuple[int, bytes]) -> bytes:
    new = bytearray(data)
    for at, value in changes:
        new[at : at + len(value)] = value
    return bytes(new)


def _after_silence(claimed: int, riff: int | None = None) -> bytes:
    """Give a WAV that was never finished, with half a second of digital silence first."""
    file = io.BytesIO()
    soundfile.write(file, np.concatenate((np.zeros(RATE // 2, np.float32), sound(2.0))), RATE, format="WAV")
    changes = [(40, struct.pack("<I", claimed))] + ([] if riff is None else [(4, struct.pack("<I", riff))])
    return _patch(file.getvalue(), *changes)


def _id3(size: int = 1024) -> bytes:
    return b"ID3\x03\0\0" + bytes((size >> shift) & 127 for shift in (21, 14, 7, 0)) + bytes(size)


def _flac_counting(factor: float) -> bytes:
    data = encode("FLAC")
    packed = int.from_bytes(data[21:26], "big")
    count = packed & (2**36 - 1)
    return _patch(data, (21, (packed - count + int(factor * count)).to_bytes(5, "big")))


def _pages(data: bytes) -> list[bytes]:
    starts = [at for at in range(len(data)) if data.startswith(b"OggS", at)]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def _ogg_without(page: int, form: str | None = None) -> bytes:
    pages = _pages(encode("OGG", 4.0, subtype=form) if form is None else encode("OGG", 4.0, 48000, subtype=form))
    del pages[page]
    return b"".join(pages)


def _ogg_swapped() -> bytes:
    pages = _pages(encode("OGG", 4.0))
    pages[3], pages[4] = pages[4], pages[3]
    return b"".join(pages)


def _mp3(seconds: float = 2.0, rate: int = 44100, channels: int = 1) -> bytes:
    return encode("MP3", seconds, rate, channels)


def _mp3_without_tag() -> bytes:
    data = _mp3()
    at = data.index(b"\xff\xfb", 4)
    return data[at:]


def _odd_wav() -> bytes:
    """Give a WAV whose samples end at an odd byte, without padding before the next chunk."""
    data = encode("WAV")[: 44 + 32001] + b"LIST\x04\0\0\0INFO"
    return _patch(data, (40, struct.pack("<I", 32001)), (4, struct.pack("<I", len(data) - 8)))


def _empty_rf64() -> bytes:
    data = encode("RF64")
    return _patch(data, (data.index(b"ds64") + 8, bytes(28)))


def _firmware() -> bytes:
    return _patch(encode("WAV")[:44], (40, struct.pack("<I", 32))) + b"firmware text 1.0 " * 500


def _w64_with_chunk() -> bytes:
    return encode("W64") + b"junk" + bytes(12) + struct.pack("<Q", 24 + 8000) + bytes(range(250)) * 32


def _html() -> bytes:
    return ("<!DOCTYPE html>\n" + "<div class='x'>Some text — with ümlauts</div>\n" * 5000).encode()


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2 + 1]


_HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nother.mp3\n#EXT-X-ENDLIST\n"
_MORE = "is not read"

CASES = [
    # joined files
    Case("chained.ogg", lambda: encode("OGG") + encode("OGG", 3.0), 5.0, None, 2.0, _MORE),
    Case(
        "chained.opus",
        lambda: encode("OGG", 2.0, 48000, subtype="OPUS") * 2,
        4.0,
        None,
        2.0,
        _MORE,
    ),
    Case("joined.mp3", lambda: _mp3() * 3, 6.0, None, 2.0, _MORE),
    Case("joined_rates.mp3", lambda: _mp3() + _mp3(2.0, 22050), 4.0, None, 2.0, _MORE),
    Case("joined_channels.mp3", lambda: _mp3() + _mp3(2.0, 44100, 2), 4.0, None, 2.0, _MORE),
    Case("joined.flac", lambda: encode("FLAC") * 2, 4.0, None, 2.0, _MORE),
    Case("joined.wav", lambda: encode("WAV") * 2, 2.0, "another file is joined", -1, "does not decode"),
    Case("flac_behind.wav", lambda: encode("WAV") + encode("FLAC", 8.0), 2.0, "another file is joined"),
    Case("joined.w64", lambda: encode("W64") * 2, 2.0, "another file is joined"),
    Case("joined.au", lambda: encode("AU") * 2, 2.0, "another file is joined"),
    # headers that count wrongly
    Case("untagged.mp3", _mp3_without_tag, 2.0, None, 0.589, _MORE),
    Case("counts_half.flac", lambda: _flac_counting(0.5), 2.0, None, 1.0, _MORE),
    Case("counts_twice.flac", lambda: _flac_counting(2.0), 2.0, "promises 4.00 s"),
    *(Case(f"size_{claimed:x}.wav", lambda c=claimed: _after_silence(c), 2.5) for claimed in (0, 44, 2**32 - 1)),
    *(Case(f"sizes_{claimed:x}.wav", lambda c=claimed: _after_silence(c, 0), 2.5) for claimed in (0, 2**31 - 1)),
    Case("counts_little.wav", lambda: _after_silence(1000), 2.5, "counts 1000 bytes"),
    Case("empty_ds64.wav", _empty_rf64, 2.0),
    Case("counts_little.au", lambda: _patch(encode("AU"), (8, struct.pack(">I", 1000))), 2.0, "counts 1000 bytes"),
    Case("firmware.wav", _firmware, 0.001, "only 1 ms of sound"),
    # what stands before and behind the sound
    *(Case(f"id3.{form.lower()}", lambda f=form: _id3() + encode(f), 2.0) for form in ("WAV", "AIFF", "AU", "FLAC")),
    Case("odd.wav", _odd_wav, 1.0),
    Case("cut_list.wav", lambda: encode("WAV") + b"LIST\xff\0\0\0INFO", 2.0),
    Case("id3v1.wav", lambda: encode("WAV") + b"TAG" + bytes(125), 2.0),
    Case("signature.wav", lambda: encode("WAV") + b"signature of the maker " * 4, 2.0),
    Case("stray.wav", lambda: encode("WAV") + b"\1\2\3\4\5\6\7\x08", 2.0),
    Case("chunk_behind.w64", _w64_with_chunk, 2.0),
    Case("zeros_behind.mp3", lambda: _mp3() + bytes(5000), 2.0),
    Case("lyrics.mp3", lambda: _mp3() + b"LYRICSBEGIN" + b"INF00005" * 1000 + b"008000LYRICS200", 2.0),
    Case("large_id3.mp3", lambda: _id3(100_000) + _mp3() + b"TAG" + bytes(125), 2.0),
    # cut files
    *(
        Case(f"cut.{form.lower()}", lambda f=form: _cut(encode(f)), 1.0, "bytes of sound and")
        for form in ("WAV", "AIFF", "AU", "W64")
    ),
    Case("cut.mp3", lambda: _cut(_mp3()), 1.0, "promises 2.00 s"),
    Case("cut.ogg", lambda: _cut(encode("OGG", 8.0)), 2.86, "last page is missing"),
    # damaged pages
    Case(
        "cut_head.ogg",
        lambda: encode("OGG", 4.0)[: -len(_pages(encode("OGG", 4.0))[-1]) + 9],
        3.85,
        "last page is missing",
    ),
    Case("swapped_pages.ogg", _ogg_swapped, 3.9, "of its pages are damaged or missing"),
    Case("first_page.ogg", lambda: _ogg_without(2), 3.2, "pages are damaged or missing"),
    Case("last_page.ogg", lambda: _ogg_without(-1), 3.85, "last page is missing"),
    Case("last_page.opus", lambda: _ogg_without(-1, "OPUS"), 3.53, "last page is missing"),
    # headers that contradict themselves
    Case("258_channels.wav", lambda: _patch(encode("WAV"), (22, struct.pack("<H", 258))), -1, "agrees with itself"),
    Case("rate.wav", lambda: _patch(encode("WAV"), (24, struct.pack("<I", 999_999))), -1, "agrees with itself"),
    Case("rate.flac", lambda: _patch(encode("FLAC"), (18, b"\x83\xe8")), -1, "agrees with the sound"),
    Case("huge_chunk.w64", lambda: _patch(encode("W64"), (56, b"\xff" * 7 + b"\x7f")), -1, "libsndfile"),
    # no sound at all
    Case("playlist.mp3", lambda: _HLS, -1, "check that it plays"),
    Case("list.mp3", lambda: b"ffconcat version 1.0\nfile other.mp3\n", -1, "check that it plays"),
    Case("page.mp3", lambda: b"<html>" + b"<p>not found \xff\xfb\x90 here</p>\n" * 3000, -1, "check that it plays"),
    Case("long_page.mp3", _html, -1, "check that it plays"),
]
