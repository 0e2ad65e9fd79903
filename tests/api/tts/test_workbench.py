"""What the child makes of what an engine said."""

from __future__ import annotations

import json
from typing import Any, get_args

import numpy as np
import pytest

from corsac.api.tts.audio import decode
from corsac.api.tts.formats import AudioFormat
from corsac.api.tts.workbench import AudioWorkbench

ASKED = {"format": "wav", "text": "Yes, it is.", "quality": "signal"}


@pytest.mark.parametrize("audio_format", get_args(AudioFormat))
def test_a_good_waveform_becomes_a_file_with_its_measures(speak: Any, rate_hz: int, audio_format: str) -> None:
    waveform = speak()
    result, content = AudioWorkbench().finish(
        waveform.astype("<f4").tobytes(), rate_hz, **{**ASKED, "format": audio_format}
    )
    decoded, decoded_hz = decode(content)
    assert len(decoded) / decoded_hz == pytest.approx(result["duration_s"], abs=0.08)
    assert result["duration_s"] == len(waveform) / rate_hz
    assert (result["verdict"], result["clipped_samples"]) == ("ok", 0)
    assert json.loads(json.dumps(result, allow_nan=False))["quality"]["clarity"] > 0.8


def test_quality_off_measures_nothing_but_still_judges(speak: Any, rate_hz: int) -> None:
    result, content = AudioWorkbench().finish(speak().tobytes(), rate_hz, **{**ASKED, "quality": "off"})
    assert (result["quality"], result["verdict"]) == (None, "ok")
    assert content.startswith(b"RIFF")


@pytest.mark.parametrize(
    ("verdict", "waveform"),
    [
        ("empty", np.zeros(22050)),
        ("empty", np.zeros(0)),
        ("damaged", np.full(22050, np.nan)),
        ("cut", np.hanning(22050)[:11025]),
    ],
)
def test_unusable_audio_is_no_file(verdict: str, waveform: np.ndarray) -> None:
    tone = waveform * np.sin(np.arange(len(waveform)) / 20)
    result, content = AudioWorkbench().finish(tone.astype("<f4").tobytes(), 22050, **ASKED)
    assert (result["verdict"], content) == (verdict, b"")
    json.dumps(result, allow_nan=False)


def test_samples_beyond_full_scale_are_counted(speak: Any, rate_hz: int) -> None:
    loud = speak() * 4
    result, _ = AudioWorkbench().finish(loud.tobytes(), rate_hz, **ASKED)
    assert result["clipped_samples"] == np.count_nonzero(np.abs(loud) > 1) > 0


def test_a_payload_that_is_no_float32_is_refused() -> None:
    with pytest.raises(ValueError, match="buffer size"):
        AudioWorkbench().finish(b"abc", 22050, **ASKED)


def test_the_self_test_finds_every_format_working() -> None:
    result, content = AudioWorkbench().self_test(payload=b"")
    assert result == {"formats": list(get_args(AudioFormat)), "measured": True}
    assert content == b""
