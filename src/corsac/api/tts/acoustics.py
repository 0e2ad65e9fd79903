"""Measures of a waveform: sound and silence, speech and noise. For worker processes only.

Waveforms are (samples,) float32, full scale ±1. A constant offset is not sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft
from scipy.ndimage import uniform_filter1d

Floats = NDArray[np.float32]

FRAME_S = 0.01
SILENCE_BELOW_LOUD_DB = 40.0
SILENT_DBFS = -60.0
POWER_FLOOR = 10 ** (-98.1 / 10)  # rounding to 16 bits; makes every level finite
BLOCK_FRAMES = 512

NOISE_QUANTILE = 0.05
NOISE_FRAME_S = 0.032
MIN_NOISE_FRAMES = 30
EDGE_BELOW_PEAK_DB = 50.0


@dataclass(frozen=True, slots=True)
class Activity:
    """Where there is sound.

    Args:
        levels_db: (frames,) power of each 10 ms about its own mean (so an offset is no sound), dBFS, -98 at least.
        loud_db: Their 95th percentile.
        active: (frames,) whether a frame is within 40 dB of the loud ones and over -60 dBFS.
    """

    levels_db: Floats
    loud_db: float
    active: NDArray[np.bool_]

    def span(self) -> tuple[int, int]:
        """First frame with sound and the one after the last; both 0 where there is none."""
        where = np.flatnonzero(self.active)
        return (int(where[0]), int(where[-1]) + 1) if len(where) else (0, 0)

    def longest_pause_s(self) -> float:
        """Longest silence between two sounds."""
        return float(max(np.diff(np.flatnonzero(self.active)) - 1, default=0)) * FRAME_S


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Average power of speech and of noise.

    Args:
        frequencies_hz: (bins,).
        speech: (bins,) mean power less the noise's, not below 0.
        noise: (bins,) mean power of the noise.
    """

    frequencies_hz: Floats
    speech: Floats
    noise: Floats


def decibels(power: Floats | float) -> Floats:
    """Power ratio in dB, never below that of 16-bit rounding to full scale."""
    return np.asarray(10 * np.log10(np.maximum(power, POWER_FLOOR)), dtype=np.float32)


def find_activity(waveform: Floats, rate_hz: int) -> Activity:
    """Sound and silence, by the level of each 10 ms."""
    size = max(1, round(FRAME_S * rate_hz))
    whole = waveform[: len(waveform) // size * size] if len(waveform) >= size else waveform
    frames = whole.reshape(-1, min(size, max(1, len(whole))))
    levels = decibels(frames.var(axis=1, dtype=np.float64)) if len(frames) else np.zeros(0, np.float32)
    loud = float(np.percentile(levels, 95)) if len(levels) else float(decibels(0.0))
    return Activity(levels, loud, levels > max(loud - SILENCE_BELOW_LOUD_DB, SILENT_DBFS))


def count_clipped(waveform: Floats) -> int:
    """Samples beyond full scale, and those in flat tops: three or more equal ones in a row at the peak.

    A flat top tells of clipping before the gain was lowered. Smooth waves have at most two equal samples at
    their peak, unless they are very quiet or very slow.
    """
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak == 0:
        return 0
    beyond = np.abs(waveform) > 1
    flat = np.zeros(len(waveform), dtype=bool)
    for limit in (waveform.max(), waveform.min()):
        at_limit = waveform == limit
        edges = np.flatnonzero(np.diff(np.concatenate(([False], at_limit, [False]))))
        for start, end in edges.reshape(-1, 2)[np.diff(edges.reshape(-1, 2), axis=1)[:, 0] >= 3]:
            flat[start:end] = True
    return int(np.count_nonzero(beyond | flat))


def estimate_spectrum(waveform: Floats, rate_hz: int) -> Spectrum | None:
    """Power of speech and noise by frequency, from the noisy sum alone.

    Speech leaves every frequency alone now and then, noise does not: a low quantile over time of the power at
    one frequency belongs to the noise, whose power is distributed exponentially: that gives its mean.

    Source: V. Stahl, A. Fischer, R. Bippus, Quantile based noise estimation for spectral subtraction and Wiener
    filtering, ICASSP 2000. The quantile is ours: of 0.05, 0.1 and 0.2 the first is nearest to planted noise (2 dB
    low from 0 to 10 dB, 4 at 20). A sustained sound ("zzz", "aaa") leaves nothing alone and passes for noise.

    Args:
        waveform: From the first sound to the last.
        rate_hz: Samples per second.

    Returns:
        None for less than half a second, where no frequency has paused yet.
    """
    size = round(NOISE_FRAME_S * rate_hz)
    frames = split_frames(waveform, size, size // 2)
    if len(frames) < MIN_NOISE_FRAMES:
        return None
    window = np.hanning(size).astype(np.float32)
    gain = 2 / (rate_hz * float((window**2).sum()))
    power = np.concatenate(
        [np.abs(rfft((block - block.mean(axis=1, keepdims=True)) * window)) ** 2 * gain for block in in_blocks(frames)]
    )
    floor = 2 * POWER_FLOOR / rate_hz
    noise = np.quantile(power, NOISE_QUANTILE, axis=0) / -np.log1p(-NOISE_QUANTILE) + floor
    speech = np.maximum(power.mean(axis=0) - noise, 0)
    frequencies = np.linspace(0, rate_hz / 2, power.shape[1])
    return Spectrum(frequencies.astype(np.float32), speech.astype(np.float32), noise.astype(np.float32))


def signal_to_noise_db(spectrum: Spectrum) -> float:
    """Ratio of the whole power of speech to that of noise; -20 where there is no speech above the noise."""
    ratio = float(spectrum.speech.sum(dtype=np.float64)) / float(spectrum.noise.sum(dtype=np.float64))
    return max(-20.0, float(decibels(ratio)))


def spectral_edge_hz(spectrum: Spectrum) -> float:
    """Highest frequency where speech is within 50 dB of its strongest and above the noise.

    Both are smoothed over some 300 Hz; 0 where speech is nowhere.
    """
    speech, noise = uniform_filter1d(spectrum.speech, 9), uniform_filter1d(spectrum.noise, 9)
    strong = np.flatnonzero((speech > speech.max() * 10 ** (-EDGE_BELOW_PEAK_DB / 10)) & (speech > noise))
    return float(spectrum.frequencies_hz[strong[-1]]) if len(strong) else 0.0


def split_frames(waveform: Floats, size: int, step: int) -> Floats:
    """Overlapping stretches of a waveform, (frames, size), as a view; none where it is shorter than one."""
    if len(waveform) < size:
        return np.zeros((0, size), np.float32)
    return np.lib.stride_tricks.sliding_window_view(waveform, size)[::step]


def in_blocks(frames: Floats) -> Iterator[Floats]:
    """The rows in blocks of 512, so that spectra of hours of audio do not fill the memory."""
    for start in range(0, len(frames), BLOCK_FRAMES):
        yield frames[start : start + BLOCK_FRAMES]
