"""The audio formats that come out. The server needs their names without the libraries that make them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

AudioFormat = Literal["wav", "mp3", "ogg", "flac", "opus"]
"""`ogg` is Vorbis in Ogg, `opus` is Opus in Ogg, `wav` and `flac` hold 16-bit samples."""

MEDIA_TYPES: Mapping[AudioFormat, str] = MappingProxyType(
    {"wav": "audio/wav", "mp3": "audio/mpeg", "ogg": "audio/ogg", "flac": "audio/flac", "opus": "audio/opus"}
)
SUFFIXES: Mapping[AudioFormat, str] = MappingProxyType(
    {"wav": ".wav", "mp3": ".mp3", "ogg": ".ogg", "flac": ".flac", "opus": ".opus"}
)
FORMATS: Mapping[str, AudioFormat] = MappingProxyType({media_type: name for name, media_type in MEDIA_TYPES.items()})
"""The format of a media type."""
