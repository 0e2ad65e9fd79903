"""Whether a recording can serve as the sample of a voice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from corsac.api.tts.clip import clip_findings, require_usable
from corsac.api.tts.quality import measure
from corsac.api.tts.upload import SampleUnusable

RATE_HZ = 22_050
Speak = Callable[..., np.ndarray]


def noisy(waveform: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(len(waveform))
    return waveform + noise * waveform.std() / 2


def test_ten_seconds_of_clean_speech_will_do(speak: Speak) -> None:
    report = measure(speak(n_syllables=48), RATE_HZ, None)
    assert clip_findings(report) == []
    require_usable(report)


@pytest.mark.parametrize(
    ("code", "spoil", "says"),
    [
        ("TOO_SHORT", lambda speech: speech[: RATE_HZ // 2], "0.5 s long; 3 s are needed"),
        ("CLIPPED", lambda speech: np.clip(speech * 8, -1, 1), "samples are clipped"),
        ("SILENT", np.zeros_like, "no level at all"),
        ("SILENT", lambda speech: np.full_like(speech, 0.5), "a peak of -6.0 dBFS and no sound"),
        ("NOISY", noisy, "dB over the noise; 15 dB are needed"),
        ("TOO_LITTLE_SPEECH", lambda speech: np.pad(speech[:RATE_HZ], (0, 4 * RATE_HZ)), "2 s are needed"),
    ],
)
def test_what_spoils_a_sample_is_named_with_its_number(
    speak: Speak, code: str, spoil: Callable[[np.ndarray], np.ndarray], says: str
) -> None:
    report = measure(spoil(speak(n_syllables=48)).astype(np.float32), RATE_HZ, None)
    assert code in {each.code for each in clip_findings(report)}
    with pytest.raises(SampleUnusable) as caught:
        require_usable(report)
    assert says in caught.value.detail
    assert (caught.value.status, caught.value.reason, bool(caught.value.hint)) == (422, "SAMPLE_UNUSABLE", True)
