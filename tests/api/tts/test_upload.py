"""What an upload is, by its content, before a decoder sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bad_audio import INVALID, NOT_AUDIO, OVERSIZED, TOO_LONG, flac, mp3, opus, vorbis, wav

from corsac.api.tts.audio import encode
from corsac.api.tts.formats import AudioFormat
from corsac.api.tts.upload import (
    AudioInvalid,
    AudioTooLong,
    AudioTypeMismatch,
    Limits,
    MetadataTooLarge,
    check_upload,
)
from corsac.core.http.multipart import UploadedFile

LIMITS = Limits(600)
Check = Callable[..., object]


@pytest.fixture
def uploaded(tmp_path: Path) -> Callable[..., UploadedFile]:
    def make(content: bytes, name: str = "a", media_type: str = "") -> UploadedFile:
        path = tmp_path / "upload-1"
        path.write_bytes(content)
        return UploadedFile(path, name, media_type, len(content))

    return make


@pytest.mark.parametrize(("content", "says"), INVALID.values(), ids=INVALID)
def test_an_impossible_header_is_invalid_and_the_field_is_named(uploaded: Check, content: bytes, says: str) -> None:
    with pytest.raises(AudioInvalid) as caught:
        check_upload(uploaded(content), LIMITS)
    assert says in caught.value.detail
    assert (caught.value.status, caught.value.reason) == (422, "AUDIO_INVALID")


@pytest.mark.parametrize("content", TOO_LONG.values(), ids=TOO_LONG)
def test_ten_hours_are_refused_from_the_header_at_once(uploaded: Check, content: bytes) -> None:
    upload = uploaded(content)
    began = time.perf_counter()
    with pytest.raises(AudioTooLong, match="36000 s long; 600 s are taken") as caught:
        check_upload(upload, LIMITS)
    assert time.perf_counter() - began < 0.1
    assert caught.value.status == 413


@pytest.mark.parametrize("content", NOT_AUDIO.values(), ids=NOT_AUDIO)
def test_what_is_no_audio_is_refused_whatever_its_name(uploaded: Check, content: bytes) -> None:
    with pytest.raises(AudioTypeMismatch, match="none of wav, mp3, ogg, flac, opus") as caught:
        check_upload(uploaded(content, "song.mp3", "audio/mpeg"), LIMITS)
    assert caught.value.status == 415


@pytest.mark.parametrize("content", OVERSIZED.values(), ids=OVERSIZED)
def test_oversized_tags_and_pictures_are_refused(uploaded: Check, content: bytes) -> None:
    with pytest.raises(MetadataTooLarge) as caught:
        check_upload(uploaded(content), LIMITS)
    assert (caught.value.status, caught.value.reason) == (413, "METADATA_TOO_LARGE")


@pytest.mark.parametrize(
    ("content", "name", "media_type"),
    [
        (flac(), "a.mp3", ""),
        (mp3(), "a.flac", ""),
        (opus(), "a.wav", ""),
        (vorbis(), "a.opus", ""),
        (flac(), "a", "audio/mpeg"),
        (mp3(), "a", "audio/ogg; codecs=opus"),
        (wav(), "../../a.WAV", "audio/flac"),
    ],
)
def test_a_name_or_type_that_says_something_else_is_refused(
    uploaded: Check, content: bytes, name: str, media_type: str
) -> None:
    with pytest.raises(AudioTypeMismatch, match=r"The content is .*; the file's (name|type) says"):
        check_upload(uploaded(content, name, media_type), LIMITS)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\0b", "n" * 255, "", "; $(x)", "-", "a.m4a"])
def test_a_name_that_promises_nothing_is_no_reason_to_refuse(uploaded: Check, name: str) -> None:
    assert check_upload(uploaded(wav(), name, "application/octet-stream"), LIMITS)


@pytest.mark.parametrize("audio_format", get_args(AudioFormat))
@pytest.mark.parametrize("rate_hz", [8000, 22_050, 44_100, 48_000])
def test_every_format_that_we_write_is_known_again(uploaded: Check, audio_format: AudioFormat, rate_hz: int) -> None:
    content = encode(np.sin(np.arange(2 * rate_hz) / 20).astype(np.float32), rate_hz, audio_format).content
    header = check_upload(uploaded(content), LIMITS)
    assert (header.format, header.channels) == (audio_format, 1)  # type: ignore[attr-defined]
    assert header.duration_s is None or header.duration_s == pytest.approx(2, abs=0.2)  # type: ignore[attr-defined]


@given(
    start=st.sampled_from([wav(samples=bytes(64)), flac(), mp3(), opus(), vorbis()]),
    place=st.integers(0, 120),
    change=st.binary(min_size=1, max_size=8),
    end=st.integers(0, 400),
)
def test_a_mutated_header_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, place: int, change: bytes, end: int
) -> None:
    content = (start[:place] + change + start[place + len(change) :])[: len(start) - end]
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(content)
    with suppress(AudioInvalid, AudioTooLong, AudioTypeMismatch, MetadataTooLarge):
        check_upload(UploadedFile(path, "a", "", len(content)), LIMITS)
