"""Waveforms to files and back."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from corsac.api.tts import audio
from corsac.api.tts.audio import AudioUndecodable, EncodingFailed, decode, encode
from corsac.api.tts.formats import MEDIA_TYPES, SUFFIXES, AudioFormat

FORMATS = get_args(AudioFormat)
MAGIC = {"wav": b"RIFF", "flac": b"fLaC", "ogg": b"OggS", "opus": b"OggS", "mp3": b"\xff"}


def tone(rate_hz: int, duration_s: float, level: float = 0.5) -> np.ndarray:
    time_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    return (level * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 24000, 44100, 48000])
def test_what_is_encoded_decodes_to_the_same_sound(audio_format: AudioFormat, rate_hz: int) -> None:
    content = encode(tone(rate_hz, 1.3), rate_hz, audio_format).content
    waveform, decoded_hz = decode(content)
    assert content.startswith(MAGIC[audio_format])
    assert abs(len(waveform) / decoded_hz - 1.3) <= audio.CODECS[audio_format].tolerance_s + 1e-4
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    assert abs(float(spectrum.argmax()) * decoded_hz / len(waveform) - 440) < 2
    assert waveform.std() == pytest.approx(0.354, rel=0.05)


@pytest.mark.parametrize(("rate_hz", "file_hz"), [(22050, 24000), (16000, 24000), (44100, 48000), (48000, 48000)])
def test_opus_is_resampled_to_a_rate_that_it_can_hold(rate_hz: int, file_hz: int) -> None:
    assert decode(encode(tone(rate_hz, 0.5), rate_hz, "opus").content)[1] == file_hz


def test_a_rate_unknown_to_mpeg_becomes_the_next_higher() -> None:
    assert decode(encode(tone(20000, 0.5), 20000, "mp3").content)[1] == 22050


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_sixteen_bit_formats_lose_nothing_but_rounding(audio_format: AudioFormat) -> None:
    waveform = tone(22050, 0.3)
    decoded, _ = decode(encode(waveform, 22050, audio_format).content)
    assert np.abs(decoded - waveform).max() < 1 / 32767


@pytest.mark.parametrize("audio_format", FORMATS)
def test_samples_beyond_full_scale_are_clipped_and_counted(audio_format: AudioFormat) -> None:
    loud = tone(24000, 0.5, level=1.5)
    encoded = encode(loud, 24000, audio_format)
    assert encoded.clipped_samples == np.count_nonzero(np.abs(loud) > 1) > 0
    assert encode(tone(24000, 0.5), 24000, audio_format).clipped_samples == 0


@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_single_sample_is_audio(audio_format: AudioFormat) -> None:
    assert len(decode(encode(np.ones(1, np.float32) / 2, 24000, audio_format).content)[0]) >= 1


@pytest.mark.parametrize("waveform", [np.zeros(0), np.zeros((5, 2)), np.array([0, np.nan]), np.array([np.inf])])
def test_what_is_no_waveform_is_refused(waveform: np.ndarray) -> None:
    with pytest.raises(ValueError, match="all finite"):
        encode(waveform.astype(np.float32), 22050, "wav")


def test_an_encoder_that_cuts_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    half = encode(tone(22050, 0.5), 22050, "wav").content
    monkeypatch.setattr(audio, "decode", lambda content: decode(half))
    with pytest.raises(EncodingFailed, match=r"-0\.500 s"):
        encode(tone(22050, 1.0), 22050, "wav")


@pytest.mark.parametrize("content", [b"", b"RIFF", b"hello, I am no audio" * 100])
def test_what_is_no_audio_is_undecodable(content: bytes) -> None:
    with pytest.raises(AudioUndecodable):
        decode(content)


def test_channels_are_mixed_to_one(tmp_path: Path) -> None:
    stereo = np.stack([tone(8000, 0.2), np.zeros(1600, np.float32)], axis=1)
    audio.sf.write(tmp_path / "two.wav", stereo, 8000, subtype="FLOAT")
    waveform, rate_hz = decode((tmp_path / "two.wav").read_bytes())
    assert rate_hz == 8000
    assert np.allclose(waveform, stereo[:, 0] / 2, atol=1e-6)


def test_every_format_has_a_codec_a_media_type_and_a_suffix() -> None:
    assert set(audio.CODECS) == set(MEDIA_TYPES) == set(SUFFIXES) == set(FORMATS)
