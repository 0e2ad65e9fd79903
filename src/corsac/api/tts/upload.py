"""What an uploaded audio file is, decided by its content before any decoder sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from corsac.api.tts.containers import (
    MAX_METADATA_BYTES,
    AudioHeader,
    HeaderInvalid,
    MetadataOversized,
    read_header,
)
from corsac.api.tts.formats import MEDIA_TYPES, AudioFormat
from corsac.core.exceptions import CorsacError, Invalid, TooLarge, UnsupportedMediaType
from corsac.core.http.multipart import UploadedFile
from corsac.core.workers.protocol import WorkerRejected

MAX_UPLOAD_BYTES = 64 << 20
NAMED: Mapping[str, frozenset[AudioFormat]] = MappingProxyType(
    {
        ".wav": frozenset({"wav"}),
        ".wave": frozenset({"wav"}),
        ".mp3": frozenset({"mp3"}),
        ".flac": frozenset({"flac"}),
        ".ogg": frozenset({"ogg", "opus"}),
        ".oga": frozenset({"ogg", "opus"}),
        ".opus": frozenset({"opus"}),
        "audio/wav": frozenset({"wav"}),
        "audio/wave": frozenset({"wav"}),
        "audio/x-wav": frozenset({"wav"}),
        "audio/vnd.wave": frozenset({"wav"}),
        "audio/mpeg": frozenset({"mp3"}),
        "audio/mp3": frozenset({"mp3"}),
        "audio/flac": frozenset({"flac"}),
        "audio/x-flac": frozenset({"flac"}),
        "audio/ogg": frozenset({"ogg", "opus"}),
        "audio/opus": frozenset({"opus"}),
        "application/ogg": frozenset({"ogg", "opus"}),
    }
)
"""The formats that a file's suffix or media type promises. Other names promise nothing."""


class AudioInvalid(Invalid):
    """The audio file is broken.

    The detail names the field of its header that is impossible, or says that it does not decode.
    """

    reason = "AUDIO_INVALID"


class AudioTypeMismatch(UnsupportedMediaType):
    """The content is not the kind of audio that the file's name or type says, or no audio that is taken.

    Content decides: WAV, MP3, FLAC, Ogg Vorbis and Opus are taken. Correct the name, or leave the type out.
    """

    reason = "AUDIO_TYPE_MISMATCH"


class AudioTooLong(TooLarge):
    """The audio is too long.

    The limit is the setting `max_audio_s` of the service. Split the file.
    """

    reason = "AUDIO_TOO_LONG"


class MetadataTooLarge(TooLarge):
    """The file's tags or cover pictures are too large.

    Remove them: tags may have 16 MiB, a picture 40 million pixels.
    """

    reason = "METADATA_TOO_LARGE"


class SampleUnusable(Invalid):
    """The recording cannot serve as the sample of a voice.

    The detail gives what was measured and what is needed. Three seconds of clean speech by one person are enough;
    ten to thirty are better.
    """

    reason = "SAMPLE_UNUSABLE"


UPLOAD_ERRORS: tuple[type[CorsacError], ...] = (AudioInvalid, AudioTypeMismatch, AudioTooLong, MetadataTooLarge)


@dataclass(frozen=True, slots=True)
class Limits:
    """What is taken of audio.

    Args:
        max_s: Seconds.
    """

    max_s: float

    def too_long(self, duration_s: float) -> AudioTooLong:
        """The refusal of a file of this length."""
        return AudioTooLong(f"The audio is {duration_s:.0f} s long; {self.max_s:.0f} s are taken.")


def check_upload(upload: UploadedFile, limits: Limits) -> AudioHeader:
    """Read the header of an upload. Reads the disk: call it in a thread.

    The client's name for the file is looked at for its suffix alone and never part of a path.

    Raises:
        AudioInvalid, AudioTypeMismatch, AudioTooLong, MetadataTooLarge: As they say.
    """
    if not upload.size_bytes:
        raise AudioInvalid("The file is empty.")
    try:
        with Path(upload.path).open("rb") as file:
            header = read_header(file, upload.size_bytes)
    except HeaderInvalid as error:
        raise AudioInvalid(str(error)) from error
    except MetadataOversized as error:
        raise MetadataTooLarge(f"Tags may have {MAX_METADATA_BYTES >> 20} MiB.") from error
    if header is None:
        raise AudioTypeMismatch(f"The content is none of {', '.join(MEDIA_TYPES)}.")
    _check_names(upload, header.format)
    if header.duration_s is not None and header.duration_s > limits.max_s:
        raise limits.too_long(header.duration_s)
    return header


def _check_names(upload: UploadedFile, found: AudioFormat) -> None:
    suffix = PurePosixPath(upload.client_name.replace("\\", "/")).suffix.lower()
    media_type = upload.media_type.partition(";")[0].strip().lower()
    for what, name in (("name", suffix), ("type", media_type)):
        if found not in NAMED.get(name, {found}):
            promised = " or ".join(sorted(NAMED[name]))
            raise AudioTypeMismatch(f"The content is {found}; the file's {what} says {promised}.")


def refusal(rejected: WorkerRejected) -> CorsacError:
    """The error for what the audio workbench refused."""
    return next(each for each in UPLOAD_ERRORS if each.reason == rejected.code)(rejected.detail)
