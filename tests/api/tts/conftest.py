"""A voice made of arithmetic, so that these tests need no engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

Waveform = NDArray[np.float32]
Speak = Callable[..., Waveform]
RATE_HZ = 22_050


def resonate(waveform: NDArray[np.float64], frequency_hz: float, width_hz: float) -> NDArray[np.float64]:
    radius = np.exp(-np.pi * width_hz / RATE_HZ)
    poles = [1, -2 * radius * np.cos(2 * np.pi * frequency_hz / RATE_HZ), radius**2]
    return np.asarray(lfilter([sum(poles)], poles, waveform))


def voice(n_syllables: int = 24, spread_semitones: float = 3.0, pause_s: float = 0.25) -> Waveform:
    """Syllables of 0.2 s, some with a hiss, a pause after each sixth: (samples,) float32, silent at both ends."""
    rng = np.random.default_rng(7)
    parts = [np.zeros(RATE_HZ // 10)]
    for syllable in range(n_syllables):
        time_s = np.arange(RATE_HZ // 5) / RATE_HZ
        semitones = spread_semitones * np.sin(syllable + 4 * time_s)
        phase = np.cumsum(2 * np.pi * 120 * 2 ** (semitones / 12)) / RATE_HZ
        pulses = np.where(np.diff(np.floor(phase / (2 * np.pi)), prepend=0) > 0, 1.0, 0.0)
        first_hz = 350 + 90 * (syllable % 5)
        vowel = sum(resonate(pulses, each_hz, 80) for each_hz in (first_hz, 1400 + 150 * (syllable % 4), 2600))
        hiss = np.diff(rng.standard_normal(RATE_HZ // 15 + 1)) * (0.02 if syllable % 3 == 0 else 0.0)
        parts += [hiss * np.hanning(len(hiss)), vowel * np.hanning(len(vowel))]
        parts += [np.zeros(int(pause_s * RATE_HZ))] if syllable % 6 == 5 else []
    speech = np.concatenate([*parts, np.zeros(RATE_HZ // 10)])
    return np.asarray(speech / np.abs(speech).max() * 0.5, dtype=np.float32)


@pytest.fixture
def speak() -> Speak:
    return voice


@pytest.fixture
def rate_hz() -> int:
    return RATE_HZ
