"""How good a piece of speech is: all measures in one report, and a verdict. For worker processes only."""

from __future__ import annotations

import warnings

import numpy as np
import pyloudnorm

from corsac.api.tts.acoustics import (
    FRAME_S,
    Activity,
    Floats,
    Spectrum,
    count_clipped,
    decibels,
    estimate_spectrum,
    find_activity,
    signal_to_noise_db,
    spectral_edge_hz,
)
from corsac.api.tts.findings import findings
from corsac.api.tts.quality_report import QualityReport, Verdict
from corsac.api.tts.scores import (
    NO_SPEECH,
    NO_TEXT,
    NO_VOICE,
    SILENT,
    TOO_SHORT,
    Measures,
    clarity,
    naturalness,
)
from corsac.api.tts.text import count_speech_units, count_words
from corsac.api.tts.voicing import cepstral_peak_prominence_db, find_voicing, narrowed

MIN_SOUND_S = 0.02
MAX_UNITS_PER_S = 60.0  # fastest of 880 honest syntheses: 45 at double speed, 21 at normal speed
ABRUPT_BELOW_LOUD_DB = 30.0  # the last 5 ms of those lay 58 dB or more under their loud frames
ABRUPT_ABOVE_QUIET_DB = 10.0
TAIL_S = 0.005
MIN_LOUDNESS_S = 0.4  # one gating block of ITU-R BS.1770-4
MIN_VOICED_FRAMES = 30


def measure(waveform: Floats, rate_hz: int, text: str | None) -> QualityReport:
    """Measure a waveform.

    Args:
        waveform: (samples,) float32, finite, full scale ±1.
        rate_hz: Samples per second, at least 8000.
        text: What it should say, or None where that is unknown.

    Returns:
        Every measure, or null with a reason; the findings that follow.
    """
    activity = find_activity(waveform, rate_hz)
    start, end = activity.span()
    speech = waveform[round(start * FRAME_S * rate_hz) : round(end * FRAME_S * rate_hz)]
    spectrum = estimate_spectrum(speech, rate_hz) if len(speech) else None
    clipped_samples = count_clipped(waveform)
    measures: Measures = {
        **_timing(activity, text),
        **_levels(waveform, rate_hz),
        **_spectral(speech, spectrum),
        **_voice(speech, rate_hz, activity.loud_db),
        "intelligibility": "Measured by round trip; not requested.",
    }
    clipped_ratio = clipped_samples / max(len(waveform), 1)
    measures["clarity"] = clarity(spectrum, clipped_ratio) if spectrum else SILENT if not len(speech) else TOO_SHORT
    pauses = 1 - float(activity.active[start:end].mean()) if end else 1.0
    units_per_s = count_speech_units(text or "") / max((end - start) * FRAME_S, FRAME_S)
    measures["naturalness"] = naturalness(measures, pauses, units_per_s, clipped_ratio)
    report = QualityReport(
        duration_s=len(waveform) / rate_hz,
        silence_ratio=1 - float(activity.active.mean()) if len(activity.active) else 1.0,
        clipped_samples=clipped_samples,
        clipped_ratio=clipped_ratio,
        reasons={name: value for name, value in measures.items() if isinstance(value, str)},
        **{name: None if isinstance(value, str) else value for name, value in measures.items()},
    )
    return report.model_copy(update={"findings": findings(report)})


def verdict(waveform: Floats, rate_hz: int, text: str | None) -> Verdict:
    """Whether a waveform can be the whole of its text.

    Catches what stops in the middle of a sound and what is far too short; a cut within a pause stays unseen.

    Args:
        waveform: (samples,) float32.
        rate_hz: Samples per second.
        text: What it should say, or None.
    """
    if not np.isfinite(waveform).all():
        return "damaged"
    activity = find_activity(waveform, rate_hz)
    if np.count_nonzero(activity.active) * FRAME_S < MIN_SOUND_S:
        return "empty"
    if text and count_speech_units(text) > MAX_UNITS_PER_S * len(waveform) / rate_hz:
        return "cut"
    tail_db = float(decibels(waveform[-max(1, round(TAIL_S * rate_hz)) :].var(dtype=np.float64)))
    is_loud = tail_db > activity.loud_db - ABRUPT_BELOW_LOUD_DB
    is_no_noise = tail_db > activity.levels_db.min() + ABRUPT_ABOVE_QUIET_DB
    return "cut" if is_loud and is_no_noise else "ok"


def _timing(activity: Activity, text: str | None) -> Measures:
    start, end = activity.span()
    if end == 0:
        return dict.fromkeys(
            ("leading_silence_s", "trailing_silence_s", "longest_silence_s", "chars_per_s", "words_per_min"),
            SILENT,
        )
    span_s = (end - start) * FRAME_S
    words = count_words(text) if text else None
    n_chars = sum(character.isalnum() for character in text or "")
    return {
        "leading_silence_s": start * FRAME_S,
        "trailing_silence_s": (len(activity.active) - end) * FRAME_S,
        "longest_silence_s": activity.longest_pause_s(),
        "chars_per_s": n_chars / span_s if text else NO_TEXT,
        "words_per_min": NO_TEXT if not text else "The script has no spaces." if words is None else words / span_s * 60,
    }


def _levels(waveform: Floats, rate_hz: int) -> Measures:
    peak = float(np.abs(waveform).max(initial=0))
    if peak == 0:
        return dict.fromkeys(("peak_dbfs", "rms_dbfs", "loudness_lufs"), SILENT)
    power = float((waveform.astype(np.float64) ** 2).mean())
    loudness: float | str = "There is less than 0.4 s of audio."
    if len(waveform) >= MIN_LOUDNESS_S * rate_hz:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # below its gate pyloudnorm takes a mean of nothing
            loudness = float(pyloudnorm.Meter(rate_hz).integrated_loudness(waveform.astype(np.float64)))
        loudness = loudness if np.isfinite(loudness) else "All of it is below -70 LUFS, the gate of the measure."
    return {
        "peak_dbfs": 20 * float(np.log10(peak)),
        "rms_dbfs": 10 * float(np.log10(power)),
        "loudness_lufs": loudness,
    }


def _spectral(speech: Floats, spectrum: Spectrum | None) -> Measures:
    if spectrum is None:
        return dict.fromkeys(("snr_db", "bandwidth_hz"), TOO_SHORT if len(speech) else SILENT)
    return {"snr_db": signal_to_noise_db(spectrum), "bandwidth_hz": spectral_edge_hz(spectrum) or NO_SPEECH}


def _voice(speech: Floats, rate_hz: int, loud_db: float) -> Measures:
    names = ("pitch_hz", "pitch_spread_semitones", "hnr_db", "cpps_db")
    if not len(speech):
        return dict.fromkeys(names, SILENT)
    narrow, narrow_hz = narrowed(speech, rate_hz)
    voicing = find_voicing(narrow, narrow_hz, loud_db)
    prominence = cepstral_peak_prominence_db(narrow, narrow_hz, loud_db)
    measures: Measures = dict.fromkeys(names, NO_VOICE)
    measures["cpps_db"] = NO_VOICE if prominence is None else prominence
    n_voiced = len(voicing.pitch_hz)
    if n_voiced:
        measures["pitch_hz"] = float(np.median(voicing.pitch_hz))
        measures["hnr_db"] = float(voicing.hnr_db.mean())
    if n_voiced >= MIN_VOICED_FRAMES:
        low, high = np.percentile(12 * np.log2(voicing.pitch_hz), (16, 84))
        measures["pitch_spread_semitones"] = float(high - low) / 2
    elif len(speech) < 2 * MIN_VOICED_FRAMES * FRAME_S * rate_hz:
        measures["pitch_spread_semitones"] = TOO_SHORT
    return measures
