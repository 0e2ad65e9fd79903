"""What the headers of audio files say, read before any decoder sees them.

Everything here is bounded and takes nothing on trust: sizes are compared with the file's own, and metadata is passed
over without being read. Layouts: RIFF (Multimedia Programming Interface 1.0), FLAC (RFC 9639), Ogg (RFC 3533),
Vorbis I section 4.2.2, Opus in Ogg (RFC 7845), ID3v2.4, MPEG-1 and 2 audio (ISO 11172-3 and 13818-3).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from corsac.api.tts.formats import AudioFormat

MAX_CHANNELS = 8
RATE_RANGE_HZ = (8000, 192_000)
MAX_METADATA_BYTES = 16 << 20
MAX_CHUNKS = 1000
TAIL_BYTES = 65_536  # longer than any Ogg page
SAMPLE_ENCODINGS = {1: "integers", 3: "floats", 6: "A-law", 7: "µ-law"}
EXTENSIBLE = 0xFFFE
MPEG_RATES_HZ = (44_100, 48_000, 32_000)
MPEG_HALVINGS = {3: 0, 2: 1, 0: 2}  # MPEG-1, 2 and 2.5 by the two bits that name them
PNG_SIZE = re.compile(rb"\x89PNG\r\n\x1a\n.{4}IHDR(.{4})(.{4})", re.DOTALL)
MAX_COVER_PIXELS = 40_000_000


class HeaderInvalid(ValueError):
    """A field of a header is impossible; the text is a sentence that names it."""


class MetadataOversized(ValueError):
    """Tags or pictures are over the limit."""


@dataclass(frozen=True, slots=True)
class AudioHeader:
    """What a header says.

    Args:
        format: Of the content.
        rate_hz: Samples per second.
        channels: 1 to 8.
        duration_s: Length, or None where the header does not tell.
    """

    format: AudioFormat
    rate_hz: int
    channels: int
    duration_s: float | None


def read_header(file: BinaryIO, size_bytes: int) -> AudioHeader | None:
    """What the header of a file says, or None where it is none of the five formats.

    Args:
        file: At its start, seekable.
        size_bytes: Of the whole file.

    Raises:
        HeaderInvalid: It is one of them, and broken.
        MetadataOversized: Its tags are.
    """
    start = file.read(12)
    if start[:4] == b"RIFF" and start[8:12] == b"WAVE":
        return _wav(file, size_bytes, int.from_bytes(start[4:8], "little"))
    if start[:4] == b"fLaC":
        return _flac(file, size_bytes)
    if start[:4] == b"OggS":
        return _ogg(file, size_bytes)
    if start[:3] == b"ID3" or _is_frame(start[:4]):
        return _mp3(file, size_bytes)
    return None


def _read(file: BinaryIO, n_bytes: int, what: str) -> bytes:
    found = file.read(n_bytes)
    if len(found) < n_bytes:
        raise HeaderInvalid(f"The file ends within {what}.")
    return found


def _checked(audio_format: AudioFormat, rate_hz: int, channels: int, duration_s: float | None) -> AudioHeader:
    low, high = RATE_RANGE_HZ
    if not low <= rate_hz <= high:
        raise HeaderInvalid(f"The sample rate is {rate_hz} Hz; it can be {low} to {high}.")
    if not 1 <= channels <= MAX_CHANNELS:
        raise HeaderInvalid(f"There are {channels} channels; there can be 1 to {MAX_CHANNELS}.")
    return AudioHeader(audio_format, rate_hz, channels, duration_s)


def _within_limit(n_metadata_bytes: int) -> None:
    if n_metadata_bytes > MAX_METADATA_BYTES:
        raise MetadataOversized


def _check_covers(metadata: bytes) -> None:
    """Pictures are never decoded here; one that would be a bomb for whoever does is refused all the same."""
    for width, height in PNG_SIZE.findall(metadata):
        if int.from_bytes(width, "big") * int.from_bytes(height, "big") > MAX_COVER_PIXELS:
            raise MetadataOversized


# WAV


def _wav(file: BinaryIO, size_bytes: int, riff_bytes: int) -> AudioHeader:
    if riff_bytes + 8 > size_bytes + 1:
        raise HeaderInvalid(f"The RIFF size is {riff_bytes} bytes; the file has {size_bytes}.")
    layout: bytes | None = None
    metadata_bytes = 0
    for name, length in _chunks(file, size_bytes):
        if name == b"data":
            if layout is None:
                raise HeaderInvalid("The chunk 'fmt ' does not come before the data.")
            return _wav_layout(layout, length)
        if name == b"fmt ":
            layout = _read(file, min(length, 40), "the chunk 'fmt '")
        else:
            metadata_bytes += length
            _within_limit(metadata_bytes)
    raise HeaderInvalid("There is no chunk 'data'." if layout else "There is no chunk 'fmt '.")


def _chunks(file: BinaryIO, size_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Names and lengths, each with the file at the chunk's contents."""
    at = 12
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        name, length = head[:4], int.from_bytes(head[4:], "little")
        if at + 8 + length > size_bytes:
            shown = name.decode("ascii", "replace") if name in (b"data", b"fmt ") else "?"
            raise HeaderInvalid(
                f"The size of the chunk '{shown}' is {length} bytes; the file has {size_bytes - at - 8} left."
            )
        yield name, length
        at += 8 + length + length % 2


def _wav_layout(layout: bytes, data_bytes: int) -> AudioHeader:
    if len(layout) < 16:
        raise HeaderInvalid(f"The chunk 'fmt ' has {len(layout)} bytes; it needs 16.")
    encoding, channels, rate_hz, _, block_bytes, bits = struct.unpack_from("<HHIIHH", layout)
    if encoding == EXTENSIBLE and len(layout) >= 26:
        encoding = int.from_bytes(layout[24:26], "little")
    if encoding not in SAMPLE_ENCODINGS:
        raise HeaderInvalid(f"The encoding is number {encoding}; it can be {', '.join(SAMPLE_ENCODINGS.values())}.")
    if bits not in (8, 16, 24, 32, 64):
        raise HeaderInvalid(f"There are {bits} bits in a sample; there can be 8, 16, 24, 32 or 64.")
    header = _checked("wav", rate_hz, channels, None)
    if block_bytes != channels * bits // 8:
        raise HeaderInvalid(
            f"The block size is {block_bytes} bytes; {channels} × {bits} bits are {channels * bits // 8}."
        )
    if data_bytes < block_bytes:
        raise HeaderInvalid("The chunk 'data' holds no samples.")
    return AudioHeader("wav", header.rate_hz, header.channels, data_bytes / block_bytes / rate_hz)


# FLAC


def _flac(file: BinaryIO, size_bytes: int) -> AudioHeader:
    file.seek(4)
    header: AudioHeader | None = None
    metadata_bytes, is_last = 0, False
    while not is_last:
        head = _read(file, 4, "the metadata")
        is_last, kind, length = bool(head[0] & 0x80), head[0] & 0x7F, int.from_bytes(head[1:], "big")
        if header is None:
            if kind != 0 or length != 34:
                raise HeaderInvalid("The first metadata block is not STREAMINFO.")
            header = _stream_info(_read(file, 34, "STREAMINFO"))
            continue
        metadata_bytes += length
        _within_limit(metadata_bytes)
        if file.tell() + length > size_bytes:
            raise HeaderInvalid(f"A metadata block has {length} bytes; the file ends before.")
        _check_covers(file.read(length))
    if header is None or file.tell() >= size_bytes:
        raise HeaderInvalid("There is no audio after the metadata.")
    return header


def _stream_info(block: bytes) -> AudioHeader:
    packed = int.from_bytes(block[10:18], "big")
    rate_hz, channels, bits = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    n_samples = packed & (1 << 36) - 1
    if bits < 4:
        raise HeaderInvalid(f"There are {bits} bits in a sample; there can be 4 to 32.")
    header = _checked("flac", rate_hz, channels, None)
    return AudioHeader("flac", header.rate_hz, header.channels, n_samples / rate_hz if n_samples else None)


# Ogg


def _ogg(file: BinaryIO, size_bytes: int) -> AudioHeader | None:
    first = _first_packet(file)
    if first.startswith(b"\x01vorbis") and len(first) >= 30:
        header = _checked("ogg", int.from_bytes(first[12:16], "little"), first[11], None)
        clock_hz = header.rate_hz
    elif first.startswith(b"OpusHead") and len(first) >= 19:
        header, clock_hz = _checked("opus", 48_000, first[9], None), 48_000  # whatever went in, 48 kHz come out
    else:
        return None
    _check_comments(file)
    granule = _last_granule(file, size_bytes)
    return AudioHeader(header.format, header.rate_hz, header.channels, granule / clock_hz if granule else None)


def _page(file: BinaryIO) -> bytes:
    """The segment table of the next page; the file is at the page's contents."""
    head = _read(file, 27, "an Ogg page")
    if head[:4] != b"OggS":
        raise HeaderInvalid("An Ogg page does not begin where the one before ends.")
    return _read(file, head[26], "an Ogg page")


def _first_packet(file: BinaryIO) -> bytes:
    file.seek(0)
    return _read(file, sum(_page(file)), "the first Ogg page")


def _check_comments(file: BinaryIO) -> None:
    """Walks over the second packet, which holds the comments and pictures, without reading it."""
    comment_bytes = 0
    while True:
        segments = _page(file)
        end = next((place for place, length in enumerate(segments) if length < 255), None)
        comment_bytes += 27 + sum(segments if end is None else segments[: end + 1])
        _within_limit(comment_bytes)
        if end is not None:
            return
        file.seek(sum(segments), 1)


def _last_granule(file: BinaryIO, size_bytes: int) -> int:
    """Position at the end of the last page, in samples; 0 where there is none."""
    file.seek(max(0, size_bytes - TAIL_BYTES))
    tail = file.read(TAIL_BYTES)
    place = tail.rfind(b"OggS")
    if place < 0 or place + 14 > len(tail):
        return 0
    granule = int.from_bytes(tail[place + 6 : place + 14], "little", signed=True)
    return max(granule, 0)


# MP3


def _is_frame(head: bytes) -> bool:
    return _frame(head) is not None


def _frame(head: bytes) -> tuple[int, int] | None:
    """Samples per second and channels of a frame of layer III, or None where it is none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    halvings, kbps_place, rate_place = MPEG_HALVINGS.get(head[1] >> 3 & 3), head[2] >> 4, head[2] >> 2 & 3
    if halvings is None or kbps_place in (0, 15) or rate_place == 3:
        return None
    return MPEG_RATES_HZ[rate_place] >> halvings, 1 if head[3] >> 6 == 3 else 2


def _mp3(file: BinaryIO, size_bytes: int) -> AudioHeader | None:
    at = _after_tags(file, size_bytes)
    file.seek(at)
    frame = _frame(file.read(4))
    if frame is None:
        if at:
            raise HeaderInvalid("There is no MPEG audio frame after the ID3 tag.")
        return None
    rate_hz, channels = frame
    return _checked("mp3", rate_hz, channels, _xing_duration_s(file, rate_hz))


def _after_tags(file: BinaryIO, size_bytes: int) -> int:
    """Where the tags at the start end."""
    at = 0
    while True:
        file.seek(at)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            return at
        if max(head[6:10]) > 127:
            raise HeaderInvalid("The size of the ID3 tag is not written as one.")
        length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        at += 10 + length + (10 if head[5] & 0x10 else 0)
        _within_limit(at)
        if at > size_bytes:
            raise HeaderInvalid(f"The ID3 tag has {length} bytes; the file ends before.")
        _check_covers(file.read(length))


def _xing_duration_s(file: BinaryIO, rate_hz: int) -> float | None:
    """Length by the frame count that encoders leave in the first frame."""
    first = file.read(200)
    place = max(first.find(b"Xing"), first.find(b"Info"))
    if place < 0 or len(first) < place + 12 or not first[place + 7] & 1:
        return None
    n_frames = int.from_bytes(first[place + 8 : place + 12], "big")
    return n_frames * (1152 if rate_hz >= 32_000 else 576) / rate_hz
