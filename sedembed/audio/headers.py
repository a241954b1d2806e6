"""What the bytes of a file say of its length and form. Nothing is changed here: the decoders read the file as it is."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sedembed.errors import AudioDecodeError

__all__ = ["Samples", "check_flac", "find_samples", "is_tag", "mp3_seconds", "scan_ogg", "skip_id3"]

_PLACEHOLDER = 44  # the most that a WAV header counts which was never finished
_UNKNOWN_SIZE = 0x7F000000  # programs that write to a pipe claim this much or more
_SLACK = 4096  # bytes; less than this behind the samples is a tag or padding

# struct of a chunk's name and size, the first chunk, what sizes are rounded up to, the chunk of samples, bytes before
# its first sample
_CONTAINERS = {
    b"RIFF": ("<4sI", 12, 2, b"data", 0),
    b"RF64": ("<4sI", 12, 2, b"data", 0),
    b"RIFX": (">4sI", 12, 2, b"data", 0),
    b"FORM": (">4sI", 12, 2, b"SSND", 8),
    b"caff": (">4sq", 8, 1, b"data", 4),
    b"riff": ("<16sQ", 40, 8, b"data", 0),
}
# The frame with the tag: version, bitrate and rate, then the tag with its flag "frames are counted", and the count.
_TAG = re.compile(
    rb"\xff([\xe2-\xff])(.).(?:.{9}|.{17}|.{32})(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f](.{4})", re.S
)
_OTHERS = (
    b".snd",
    b"fLaC",
    b"OggS",
    b"ID3",
    b"\x1a\x45\xdf\xa3",
    b"\x30\x26\xb2\x75",
)  # first bytes of other sound files
_FLAC_RATES = (88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)


@dataclass(frozen=True)
class Samples:
    """Where the samples of a PCM container are.

    Attributes
    ----------
    start, size : int
        First byte, and how many bytes of them are sound.
    order : str
        Byte order, "<" or ">".
    problem : str or None
        What is wrong, if the header and the file do not agree.
    """

    start: int
    size: int
    order: str
    problem: str | None


def is_tag(data: bytes) -> bool:
    """Whether what follows the sound of a file is a tag: ID3v1 or v2, APE or Lyrics3."""
    return data.startswith((b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN"))


def skip_id3(file: BinaryIO) -> int:
    """Move behind the ID3v2 tags at the start of a file, and return where that is."""
    at = 0
    while True:
        file.seek(at)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 127:
            file.seek(at)
            return at
        at += 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))


def find_samples(path: Path) -> Samples | None:
    """Find the samples of a WAV, RF64, W64, AIFF, CAF or AU file; None for other files.

    A count that fits the file is believed, whatever follows. One that was never finished means "to the end".

    Raises
    ------
    AudioDecodeError
        If the header contradicts itself.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = skip_id3(file)
        magic = file.read(4)
        if magic == b".snd":
            start, claimed = struct.unpack(">2I", file.read(8).ljust(8, b"\0"))
            step, unknown, order = 1, claimed == 0xFFFFFFFF, ">"
            start += begin
        elif magic in _CONTAINERS:
            layout, first, step, wanted, lead = _CONTAINERS[magic]
            order = layout[0]
            chunk = _find_chunk(file, path, begin + first, layout, step, wanted)
            if chunk is None:
                return None
            start, claimed = chunk[0] + lead, chunk[1] - lead
            unknown = claimed <= 0 or (claimed >= _UNKNOWN_SIZE and start + claimed > size)
        else:
            return None
        there = size - start
        if there <= 0:
            return Samples(start, 0, order, None)
        if claimed > there and not unknown:
            return Samples(start, there, order, f"its header promises {claimed} bytes of sound and {there} are there")
        # 32 bits hold no more than 4 GiB: a larger file has the largest number there, or what is left of its own.
        if claimed > there or claimed == 0xFFFFFFFF or there - claimed >= 2**32 - _SLACK:
            return Samples(start, there, order, None)
        claimed = max(claimed, 0)
        after = start + claimed
        file.seek(after)
        rest = file.read(64)
    if claimed and _begins_a_file(rest):
        return Samples(start, claimed, order, f"another file is joined to it at byte {after}, which is not read")
    odd = rest[claimed % step if step == 2 else 0 :]
    if magic != b".snd" and _is_chunk(odd, _CONTAINERS[magic][0], size - after):
        return Samples(start, claimed, order, None)
    is_text = re.fullmatch(rb"[\t\n\r -~]{64}", rest) is not None
    if claimed <= _PLACEHOLDER and not is_text:
        return Samples(start, there, order, None)
    if there - claimed > max(claimed, _SLACK) and not is_text:
        return Samples(
            start, there, order, f"its header counts {claimed} bytes of sound; all of the {there} there are read"
        )
    return Samples(start, claimed, order, None)


def _begins_a_file(head: bytes) -> bool:
    return head.startswith((*_CONTAINERS, *_OTHERS)) or head[4:8] == b"ftyp"


def _find_chunk(file: BinaryIO, path: Path, at: int, layout: str, step: int, wanted: bytes) -> tuple[int, int] | None:
    """Return where the content of a chunk begins and what size it claims, once the format before it was checked."""
    long, end = 0, path.stat().st_size
    for _ in range(1000):
        if at > end:  # 64-bit sizes reach further than a file can seek
            return None
        file.seek(at)
        head = file.read(struct.calcsize(layout))
        if len(head) < struct.calcsize(layout):
            return None
        name, size = struct.unpack(layout, head)
        if len(name) == 16:
            size -= len(head)  # W64 counts the head of a chunk too
        at += len(head)
        if name[:4] == wanted:
            return at, long if size == 0xFFFFFFFF and long else size
        if size < 0:
            return None
        body = file.read(min(size, 40))
        if name == b"ds64" and len(body) >= 16:
            long = int.from_bytes(body[8:16], "little") or -1
        elif name[:4] in (b"fmt ", b"desc"):
            _check_form(path, name[:4], body, layout[0])
        at += size + -size % step
    return None


def _check_form(path: Path, name: bytes, body: bytes, order: str) -> None:
    """Refuse a header whose rate, channels, width and byte rate do not agree."""
    if name == b"fmt " and len(body) >= 16:
        tag, channels, rate, per_second, frame, bits = struct.unpack(f"{order}HHIIHH", body[:16])
        plain = tag in (1, 3, 0xFFFE)
    elif name == b"desc" and len(body) >= 32:
        _, code, _, frame, frames, channels, bits = struct.unpack(">d4s5I", body[:32])
        rate = per_second = 0
        plain = code == b"lpcm" and frames == 1
    else:
        return
    agree = channels > 0 and frame % channels == 0 and 0 < bits <= 8 * frame // channels <= 64
    if plain and not (agree and per_second in (0, rate * frame)):
        raise AudioDecodeError(
            f"Expected a header that agrees with itself, got {path} of {channels} channels, {bits} bits and "
            f"{rate} Hz in frames of {frame} bytes, {per_second} bytes a second; the file is damaged, fetch it again."
        )


def _is_chunk(head: bytes, layout: str, left: int) -> bool:
    """Whether bytes look like the beginning of a chunk that ends within the file."""
    if len(head) < struct.calcsize(layout):
        return False
    name, size = struct.unpack(layout, head[: struct.calcsize(layout)])
    return re.match(rb"[ -~]{4}", name) is not None and 0 <= size <= left


def check_flac(path: Path) -> None:
    """Refuse a FLAC file whose header and first frame disagree about rate or channels.

    Raises
    ------
    AudioDecodeError
        If they do.
    """
    with path.open("rb") as file:
        at = skip_id3(file)
        if file.read(4) != b"fLaC":
            return
        at, last, info = at + 4, False, b""
        while not last:
            file.seek(at)
            head = file.read(4)
            if len(head) < 4:
                return
            last = head[0] > 127
            if head[0] & 127 == 0:
                info = file.read(34)
            at += 4 + int.from_bytes(head[1:], "big")
        file.seek(at)
        frame = file.read(4)
    if len(info) < 34 or len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xFC != 0xF8:
        return
    packed = int.from_bytes(info[10:18], "big")
    rate, channels = packed >> 44, (packed >> 41 & 7) + 1
    code, assigned = frame[2] & 15, frame[3] >> 4
    shown = _FLAC_RATES[code - 1] if 1 <= code <= len(_FLAC_RATES) else rate
    shown_channels = 2 if assigned > 7 else assigned + 1
    if (rate, channels) != (shown, shown_channels):
        raise AudioDecodeError(
            f"Expected a header that agrees with the sound, got {path} of {rate} Hz and {channels} channels, whose "
            f"first frame has {shown} Hz and {shown_channels}; the file is damaged, fetch it again."
        )


def mp3_seconds(path: Path) -> float | None:
    """Duration that the Xing or Info tag of an MP3 file counts, in seconds; None without such a tag."""
    with path.open("rb") as file:
        skip_id3(file)
        head = file.read(2**13)
    tag = re.search(
        rb"\xff([\xe2-\xff])(.).(?:.{9}|.{17}|.{32})(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f](.{4})",
        head,
        re.S,
    )
    if tag is None:
        return None
    version, index = tag[1][0] >> 3 & 3, tag[2][0] >> 2 & 3
    if version == 1 or index == 3:
        return None
    rate = (44100, 48000, 32000)[index] >> {3: 0, 2: 1, 0: 2}[version]
    return int.from_bytes(tag[3], "big") * (1152 if version == 3 else 576) / rate


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    """Return the checksum of an Ogg page: zlib's, with the bits of every byte in the other order."""
    value = zlib.crc32((page[:22] + bytes(4) + page[26:]).translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def scan_ogg(path: Path) -> tuple[str | None, bool]:
    """Say what is wrong with the pages of an Ogg file, if anything, and whether streams follow the first.

    Parameters
    ----------
    path : Path
        File to look at.

    Returns
    -------
    problem : str or None
        Pages that are damaged, missing or cut off.
    chained : bool
        Whether another stream begins where the first one ended.
    """
    expected: dict[int, int] = {}
    ended: set[int] = set()
    good = damaged = missing = 0
    chained = False
    with path.open("rb") as file:
        at = skip_id3(file)
        while True:
            file.seek(at)
            head = file.read(27)
            if len(head) < 27 or head[:4] != b"OggS":
                at, found = _next_page(file, at + (head[:4] == b"OggS"))  # a head that is cut off is no page
                if not found:
                    break
                damaged += good > 0
                continue
            lacing = file.read(head[26])
            page = head + lacing + file.read(sum(lacing))
            if _ogg_checksum(page) != int.from_bytes(head[22:26], "little"):
                at += 1
                continue
            serial, number = struct.unpack("<2I", head[14:22])
            if head[5] & 2:
                chained = chained or bool(ended)
                expected.pop(serial, None)
                ended.discard(serial)
            missing += max(0, number - expected.get(serial, number))
            expected[serial] = number + 1
            if head[5] & 4:
                ended.add(serial)
            good += 1
            at += len(page)
    if missing or damaged:
        return f"{max(missing, damaged)} of its pages are damaged or missing", chained
    if expected.keys() - ended:
        return "its last page is missing", chained
    return None, chained


def _next_page(file: BinaryIO, at: int) -> tuple[int, bool]:
    """Find the next mark of a page from `at` on."""
    file.seek(at)
    tail = b""
    while data := file.read(2**16):
        found = (tail + data).find(b"OggS")
        if found >= 0:
            return at - len(tail) + found, True
        at += len(data)
        tail = (tail + data)[-3:]
    return at, False
