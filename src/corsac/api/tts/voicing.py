"""The voice in a waveform: its pitch and how periodic it is. For worker processes only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.ndimage import uniform_filter1d
from scipy.signal import resample_poly

from corsac.api.tts.acoustics import FRAME_S, Floats, decibels, in_blocks, split_frames

VOICE_FRAME_S = 0.04  # three periods of the lowest pitch
PITCH_RANGE_HZ = (75.0, 500.0)
VOICING_THRESHOLD = 0.45  # Praat's default
OCTAVE_COST = 0.01
CEPSTRUM_PITCH_RANGE_HZ = (60.0, 400.0)
CEPSTRUM_LINE_S = 0.001
VOICED_BELOW_LOUD_DB = 30.0


@dataclass(frozen=True, slots=True)
class Voicing:
    """The voiced frames.

    Args:
        pitch_hz: (voiced frames,) fundamental frequency.
        hnr_db: (voiced frames,) harmonics-to-noise ratio.
    """

    pitch_hz: Floats
    hnr_db: Floats


def narrowed(waveform: Floats, rate_hz: int) -> tuple[Floats, float]:
    """The waveform at the lowest whole fraction of its rate that is at least 10 kHz: what the voice needs."""
    factor = max(1, rate_hz // 10_000)
    return (resample_poly(waveform, 1, factor).astype(np.float32) if factor > 1 else waveform), rate_hz / factor


def find_voicing(waveform: Floats, rate_hz: float, loud_db: float) -> Voicing:
    """Pitch and harmonics-to-noise ratio by autocorrelation, each 10 ms.

    Source: P. Boersma, Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise
    ratio of a sampled sound, IFA Proceedings 17, 1993: the autocorrelation of the windowed frame over that of the
    window. The path search between frames is left out: medians are taken, which a wrong octave hardly moves.

    Args:
        waveform: (samples,) at 10 to 20 kHz.
        rate_hz: Samples per second.
        loud_db: Level of loud frames; frames 30 dB below are not voiced.
    """
    size = round(VOICE_FRAME_S * rate_hz)
    empty = np.zeros(0, np.float32)
    pitches, heights = [empty], [empty]
    for block in in_blocks(split_frames(waveform, size, round(FRAME_S * rate_hz))):
        loud = block[decibels(block.var(axis=1)) > loud_db - VOICED_BELOW_LOUD_DB]
        lags, peaks = _periods(loud, rate_hz)
        pitches.append(rate_hz / lags[peaks > VOICING_THRESHOLD])
        heights.append(peaks[peaks > VOICING_THRESHOLD])
    periodic = np.clip(np.concatenate(heights), None, 0.9999)
    return Voicing(np.concatenate(pitches), 10 * np.log10(periodic / (1 - periodic)))


def cepstral_peak_prominence_db(waveform: Floats, rate_hz: float, loud_db: float) -> float | None:
    """Smoothed cepstral peak prominence: how far periodicity stands out, mean of the frames with sound.

    Source: J. Hillenbrand, R. Houde, Acoustic correlates of breathy vocal quality, J. Speech Hear. Res. 39, 1996.
    Frames of 40 ms each 10 ms, smoothed over 5 frames and 1 ms; line by least squares from 1 ms on; peak at 60 to
    400 Hz.

    Args:
        waveform: (samples,) at 10 to 20 kHz.
        rate_hz: Samples per second.
        loud_db: Level of loud frames; frames 30 dB below do not count.

    Returns:
        dB: about 3 for white noise, 6 to 8 for clean synthetic voices; None where no frame is loud enough.
    """
    size = round(VOICE_FRAME_S * rate_hz)
    frames = split_frames(waveform, size, round(FRAME_S * rate_hz))
    length = next_fast_len(2 * size, real=True)
    first, last = (
        round(CEPSTRUM_LINE_S * rate_hz),
        min(length // 2, round(rate_hz / CEPSTRUM_PITCH_RANGE_HZ[0]) + 1),
    )
    peak_from = round(rate_hz / CEPSTRUM_PITCH_RANGE_HZ[1]) - first
    window = np.hamming(size).astype(np.float32)
    cepstra, active = [], []
    for block in in_blocks(frames):
        spectrum = decibels(np.abs(rfft((block - block.mean(axis=1, keepdims=True)) * window, length)) ** 2)
        cepstra.append(decibels(irfft(spectrum, length)[:, first:last] ** 2))
        active.append(decibels(block.var(axis=1)) > loud_db - VOICED_BELOW_LOUD_DB)
    if not cepstra or not np.concatenate(active).any():
        return None
    smooth = uniform_filter1d(np.concatenate(cepstra), 5, axis=0)
    smooth = uniform_filter1d(smooth, max(1, round(0.001 * rate_hz)), axis=1)[np.concatenate(active)]
    quefrencies = np.arange(smooth.shape[1], dtype=np.float32)
    centred = quefrencies - quefrencies.mean()
    slopes = (smooth * centred).sum(axis=1, keepdims=True) / (centred**2).sum()
    above = smooth - (smooth.mean(axis=1, keepdims=True) + slopes * centred)
    return float(above[:, peak_from:].max(axis=1).mean())


def _periods(frames: Floats, rate_hz: float) -> tuple[Floats, Floats]:
    """Best period in samples and the autocorrelation there, (frames,) each; 0 where there is no peak."""
    size = frames.shape[1]
    window = np.hanning(size).astype(np.float32)
    length = next_fast_len(2 * size, real=True)
    shortest, longest = int(rate_hz / PITCH_RANGE_HZ[1]), int(rate_hz / PITCH_RANGE_HZ[0])
    window_shape = irfft(np.abs(rfft(window, length)) ** 2, length)[: longest + 2]
    centred = (frames - frames.mean(axis=1, keepdims=True)) * window
    raw = irfft(np.abs(rfft(centred, length)) ** 2, length)[:, : longest + 2]
    correlation = raw / np.maximum(raw[:, :1], 1e-12) / (window_shape / window_shape[0])
    here = correlation[:, shortest : longest + 1]
    before, after = correlation[:, shortest - 1 : longest], correlation[:, shortest + 1 : longest + 2]
    octave_cost = OCTAVE_COST * np.log2(np.arange(shortest, longest + 1) * PITCH_RANGE_HZ[0] / rate_hz)
    offsets, heights = _parabola(before, here, after)
    is_peak = (here >= before) & (here > after)
    best = np.where(is_peak, heights - octave_cost, -np.inf).argmax(axis=1)
    chosen = np.arange(len(best)), best
    return best + shortest + offsets[chosen], np.where(is_peak[chosen], heights[chosen], 0)


def _parabola(left: Floats, middle: Floats, right: Floats) -> tuple[Floats, Floats]:
    curvature = np.minimum(left - 2 * middle + right, -1e-12)
    offset = np.clip((left - right) / (2 * curvature), -0.5, 0.5)
    return offset, middle - (left - right) * offset / 4
