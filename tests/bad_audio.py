"""Audio files that are wrong in one place each. Nothing here needs an encoder."""

from __future__ import annotations

import struct

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\nhttp://127.0.0.1:9/a.ts\n"
CONCAT = b"ffconcat version 1.0\nfile /etc/passwd\nfile http://127.0.0.1:9/a.mp3\n"


def wav(
    *,
    rate_hz: int = 16_000,
    channels: int = 1,
    bits: int = 16,
    encoding: int = 1,
    block_bytes: int | None = None,
    samples: bytes = bytes(64_000),
    data_bytes: int | None = None,
    riff_bytes: int | None = None,
    before: bytes = b"",
) -> bytes:
    """A WAV file; what is not given fits the rest. `before` stands between the chunks `fmt ` and `data`."""
    block = channels * bits // 8 if block_bytes is None else block_bytes
    layout = struct.pack("<HHIIHH", encoding, channels, rate_hz, (rate_hz * block) & 0xFFFFFFFF, block, bits)
    size = len(samples) if data_bytes is None else data_bytes
    chunks = b"fmt " + struct.pack("<I", 16) + layout + before + b"data" + struct.pack("<I", size) + samples
    riff = 4 + len(chunks) if riff_bytes is None else riff_bytes
    return b"RIFF" + struct.pack("<I", riff) + b"WAVE" + chunks


def flac(
    *,
    rate_hz: int = 48_000,
    channels: int = 1,
    bits: int = 16,
    n_samples: int = 48_000,
    blocks: bytes = b"\x84\0\0\x04abcd",
) -> bytes:
    """The head of a FLAC file and a bit of what could be audio. `blocks` follow STREAMINFO."""
    packed = rate_hz << 44 | (channels - 1) << 41 | (bits - 1) << 36 | n_samples
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    return b"fLaC\0\0\0\x22" + info + blocks + b"\xff\xf8" + bytes(100)


def flac_picture(width_px: int, height_px: int) -> bytes:
    """A last metadata block with the head of a cover picture."""
    picture = PNG + struct.pack(">II", width_px, height_px) + bytes(20)
    return b"\x86" + len(picture).to_bytes(3, "big") + picture


def id3(length: int, content: bytes = b"") -> bytes:
    """A tag that says it has `length` bytes."""
    return b"ID3\x04\0\0" + bytes(length >> shift & 127 for shift in (21, 14, 7, 0)) + content


def mp3(*, n_frames: int | None = None) -> bytes:
    """Frames of MPEG-1 layer III, 32 kbit/s, 44.1 kHz, mono; the first tells the count where it is given."""
    head = b"\xff\xfb\x10\xc0"
    count = b"" if n_frames is None else b"Xing\0\0\0\x01" + n_frames.to_bytes(4, "big")
    return head + bytes(17) + count.ljust(83, b"\0") + (head + bytes(100)) * 3


def ogg_page(packet: bytes, *, granule: int = 0, goes_on: bool = False) -> bytes:
    """A page with one packet, or with 255 segments of one that goes on."""
    lacing = bytes([255] * 255) if goes_on else bytes([255] * (len(packet) // 255) + [len(packet) % 255])
    return b"OggS\0\0" + granule.to_bytes(8, "little") + bytes(12) + bytes([len(lacing)]) + lacing + packet


def opus(*, channels: int = 1, granule: int = 48_000, comments: bytes = b"OpusTags" + bytes(8)) -> bytes:
    """The pages of an Opus file, without sound."""
    head = b"OpusHead\x01" + bytes([channels]) + bytes(9)
    return ogg_page(head) + ogg_page(comments) + ogg_page(b"abc", granule=granule)


def vorbis(*, rate_hz: int = 22_050, channels: int = 1, granule: int = 22_050) -> bytes:
    """The pages of a Vorbis file, without sound."""
    head = b"\x01vorbis\0\0\0\0" + bytes([channels]) + struct.pack("<I", rate_hz) + bytes(14)
    return ogg_page(head) + ogg_page(b"\x03vorbis") + ogg_page(b"abc", granule=granule)


HUGE_COMMENTS = ogg_page(bytes(255 * 255), goes_on=True) * 300
"""A comment packet of 19 MB."""
TEN_HOURS = 10 * 3600
INVALID = {
    "T06-empty": (b"", "empty"),
    "T06-header-only": (wav(samples=b""), "'data' holds no samples"),
    "T06-riff-size": (wav(riff_bytes=0xFFFFFFFF), "The RIFF size is 4294967295 bytes"),
    "T06-data-size": (wav(data_bytes=0x7FFFFFFF), "chunk 'data' is 2147483647 bytes"),
    "T06-rate-0": (wav(rate_hz=0), "The sample rate is 0 Hz"),
    "T06-rate-2-to-31": (wav(rate_hz=1 << 31), "The sample rate is 2147483648 Hz"),
    "T06-255-channels": (wav(channels=255), "There are 255 channels"),
    "T06-0-channels": (wav(channels=0), "There are 0 channels"),
    "T06-0-bits": (wav(bits=0), "There are 0 bits"),
    "T06-encoding": (wav(encoding=0x55), "The encoding is number 85"),
    "T06-block-size": (wav(block_bytes=3), "The block size is 3 bytes"),
    "T06-no-data": (wav()[:36], "The RIFF size"),
    "T06-flac-rate-0": (flac(rate_hz=0), "The sample rate is 0 Hz"),
    "T06-flac-1-bit": (flac(bits=1), "There are 1 bits"),
    "T06-flac-block-past-the-end": (flac(blocks=b"\x84\x00\xff\xff"), "the file ends before"),
    "T06-flac-no-streaminfo": (b"fLaC\x84\0\0\x22" + bytes(40), "not STREAMINFO"),
    "T06-vorbis-rate-0": (vorbis(rate_hz=0), "The sample rate is 0 Hz"),
    "T06-opus-0-channels": (opus(channels=0), "There are 0 channels"),
    "T06-ogg-torn": (opus()[:40], "The file ends within"),
    "T06-id3-past-the-end": (id3(5000) + bytes(100), "The ID3 tag has 5000 bytes"),
    "T06-id3-and-nothing": (id3(4, bytes(4)) + bytes(100), "no MPEG audio frame"),
}
TOO_LONG = {
    "T08-flac": flac(n_samples=TEN_HOURS * 48_000),
    "T08-opus": opus(granule=TEN_HOURS * 48_000),
    "T08-vorbis": vorbis(granule=TEN_HOURS * 22_050),
    "T08-mp3": mp3(n_frames=TEN_HOURS * 44_100 // 1152),
}
NOT_AUDIO = {
    "T09-hls": HLS,
    "T09-concat": CONCAT,
    "T09-html": b"<html>",
    "T09-theora": ogg_page(b"\x80theora" + bytes(40)),
}
OVERSIZED = {
    "T11-id3-256-mb": id3((1 << 28) - 1) + mp3(),
    "T11-picture": flac(blocks=flac_picture(30_000, 30_000)),
    "T11-picture-in-id3": id3(60, PNG + struct.pack(">II", 65_535, 65_535) + bytes(36)) + mp3(),
    "T11-wav-chunk": wav(before=b"LIST" + struct.pack("<I", 17 << 20) + bytes(17 << 20)),
    "T11-ogg-comments": ogg_page(b"OpusHead\x01\x01" + bytes(9)) + HUGE_COMMENTS,
}
