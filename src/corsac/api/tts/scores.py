"""Two scores made of measures. Nothing is learned: each part has a source, so that its meaning can be looked up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from corsac.api.tts.acoustics import Spectrum

Measures = dict[str, float | str]
"""By name: a number, or a sentence that says why there is none."""

SPEECH_LEVEL_DB = 62.35  # ANSI S3.5-1997, table 4: normal vocal effort, octave bands
BAND_EDGES_HZ = np.array([177, 355, 710, 1420, 2840, 5680, 11360])
BAND_IMPORTANCE = np.array([0.0617, 0.1671, 0.2373, 0.2648, 0.2142, 0.0549])
HEARING_NOISE_DB = np.array([-3.9, -9.7, -12.5, -17.7, -25.9, -7.1])
LOSS_BY_CLIPPING = 0.3
HEAVY_CLIPPING_RATIO = 0.2

FULL_SPREAD_SEMITONES = 2.5
NOISE_CPPS_DB, CLEAN_CPPS_DB = 3.0, 6.5
FULL_BANDWIDTH_HZ = 10_869.0

SILENT = "There is no sound."
NO_TEXT = "No text was given."
TOO_SHORT = "There is less than half a second of speech."
NO_SPEECH = "Nothing stands out of the noise."
NO_VOICE = "There is too little voice."


def clarity(spectrum: Spectrum, clipped_ratio: float) -> float:
    """How much of the speech a listener can hear, 0 to 1.

    The Speech Intelligibility Index with octave bands: speech is set to normal vocal effort; a band is heard by
    (SNR + 15 dB) / 30 dB, against the louder of the noise found and the ear's own; bands weigh by importance.
    Spread of masking is left out. Clipping, which the index does not know, takes up to 0.3 off, all of it where
    a fifth of the samples are clipped: of words clipped without end about 70 % were understood.

    Source: ANSI S3.5-1997, sections 5.1 and 6, table 4. J. Licklider, I. Pollack, Effects of differentiation,
    integration, and infinite peak clipping upon the intelligibility of speech, J. Acoust. Soc. Am. 20, 1948.

    Args:
        spectrum: Power of speech and of noise.
        clipped_ratio: Share of clipped samples, 0 to 1.
    """
    step_hz = float(spectrum.frequencies_hz[1])
    band = np.digitize(spectrum.frequencies_hz, BAND_EDGES_HZ)
    widths = np.diff(BAND_EDGES_HZ)
    speech, noise = (
        np.array([power[band == each].sum(dtype=np.float64) for each in range(1, 7)]) * step_hz / widths
        for power in (spectrum.speech, spectrum.noise)
    )
    total = float(spectrum.speech.sum(dtype=np.float64)) * step_hz
    if total <= 0:
        return 0.0
    to_spl = SPEECH_LEVEL_DB - 10 * np.log10(total)
    speech_db, noise_db = (10 * np.log10(np.maximum(power, total * 1e-20)) + to_spl for power in (speech, noise))
    heard = np.clip((speech_db - np.maximum(noise_db, HEARING_NOISE_DB) + 15) / 30, 0, 1)
    return float(
        (heard * BAND_IMPORTANCE).sum() * (1 - LOSS_BY_CLIPPING * min(1, clipped_ratio / HEAVY_CLIPPING_RATIO))
    )


def naturalness(
    measures: Mapping[str, float | str], pause_ratio: float, units_per_s: float, clipped_ratio: float
) -> float | str:
    """How like a person's speech it is, 0 to 1: the geometric mean of what can be told of these six.

    - melody: spread of pitch over 2.5 semitones; lively speech has more, dull speech less (H. Traunmüller,
      A. Eriksson, The frequency range of the voice fundamental in the speech of male and female adults, 1995);
    - voice: CPPS from that of noise, 3 dB, to that of clean voices, 6.5 dB (Hillenbrand and Houde 1996; both
      measured with this implementation);
    - pace: 1 from 8 to 20 sounds a second, 0 at 2 and 40;
    - flow: 1 up to 40 % of pauses, 0 at 90 %;
    - smoothness: 1 without clipped samples, 0 at 20 % (C. Tan, B. Moore, N. Zacharov, The effect of nonlinear
      distortion on the perceived quality of music and speech signals, 2003, for that it matters);
    - band: its width on the ear's scale (B. Glasberg, B. Moore 1990) over that of 10.9 kHz, the widest heard in
      B. Moore, C. Tan, Perceived naturalness of spectrally distorted speech, 2003.

    The ends of the scales are ours. It compares pieces of one kind and tells damage; it is no listener's opinion.
    Whispering counts as no voice.

    Args:
        measures: `pitch_spread_semitones`, `cpps_db`, `bandwidth_hz`.
        pause_ratio: Share of silence between the first and the last sound, 0 to 1.
        units_per_s: Sounds of the text a second; 0 where no text was given.
        clipped_ratio: Share of clipped samples, 0 to 1.
    """
    cpps, spread, bandwidth = (measures[name] for name in ("cpps_db", "pitch_spread_semitones", "bandwidth_hz"))
    if isinstance(cpps, str):
        return cpps
    parts = [
        (cpps - NOISE_CPPS_DB) / (CLEAN_CPPS_DB - NOISE_CPPS_DB),
        (0.9 - pause_ratio) / 0.5,
        1 - clipped_ratio / HEAVY_CLIPPING_RATIO,
    ]
    if spread != TOO_SHORT:
        parts.append(0.0 if isinstance(spread, str) else spread / FULL_SPREAD_SEMITONES)
    if bandwidth != TOO_SHORT:
        parts.append(0.0 if isinstance(bandwidth, str) else _erb_number(bandwidth) / _erb_number(FULL_BANDWIDTH_HZ))
    if units_per_s:
        parts.append(min((units_per_s - 2) / 6, (40 - units_per_s) / 20))
    return float(np.prod(np.clip(parts, 0, 1)) ** (1 / len(parts)))


def _erb_number(frequency_hz: float) -> float:
    return 21.4 * float(np.log10(1 + 0.00437 * frequency_hz))
