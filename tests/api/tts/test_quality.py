"""Measures tell damage from the sound; every number is finite or null with a reason."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from corsac.api.tts.quality import measure, verdict
from corsac.api.tts.quality_report import QualityReport

TEXT = "Four score and seven years ago our fathers brought forth on this continent a new nation."


def noisy(waveform: np.ndarray, snr_db: float, seed: int = 3) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(len(waveform))
    noise *= np.sqrt((waveform**2).mean() / 10 ** (snr_db / 10) / (noise**2).mean())
    return np.asarray(waveform + noise, dtype=np.float32)


def muffled(waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    return np.asarray(sosfilt(butter(8, 1000, fs=rate_hz, output="sos"), waveform), dtype=np.float32)


def white(n_samples: int) -> np.ndarray:
    return (np.random.default_rng(5).standard_normal(n_samples) * 0.1).astype(np.float32)


def numbers(report: QualityReport) -> dict[str, Any]:
    return {name: value for name, value in report if name not in ("reasons", "findings", "round_trip")}


def codes(report: QualityReport) -> set[str]:
    return {finding.code for finding in report.findings}


def test_both_scores_fall_with_every_step_of_noise(speak: Any, rate_hz: int) -> None:
    clean = speak()
    reports = [measure(each, rate_hz, TEXT) for each in (clean, *(noisy(clean, snr) for snr in (20, 10, 5, 0)))]
    for score in ("clarity", "naturalness", "snr_db", "cpps_db"):
        values = [getattr(report, score) for report in reports]
        assert values == sorted(values, reverse=True), score
        assert len(set(values)) == len(values), score
    assert reports[0].clarity > 0.9 > 0.6 > reports[-1].clarity
    assert reports[1].hnr_db > reports[2].hnr_db > reports[-1].hnr_db


@pytest.mark.parametrize("planted_db", [20, 10, 5, 0])
def test_the_noise_found_is_the_noise_planted(speak: Any, rate_hz: int, planted_db: float) -> None:
    report = measure(noisy(speak(), planted_db), rate_hz, TEXT)
    assert report.snr_db == pytest.approx(planted_db, abs=5)
    assert ("NOISY" in codes(report)) == (planted_db <= 10)


def test_speech_without_high_frequencies_is_less_clear_and_less_natural(speak: Any, rate_hz: int) -> None:
    clean, damaged = (measure(each, rate_hz, TEXT) for each in (speak(), muffled(speak(), rate_hz)))
    assert clean.clarity - 0.2 > damaged.clarity > 0.2
    assert clean.naturalness > damaged.naturalness
    assert damaged.bandwidth_hz < 2500 < clean.bandwidth_hz
    assert "MUFFLED" in codes(damaged) - codes(clean)


def test_clipping_is_counted_lowers_both_scores_and_is_advised_about(speak: Any, rate_hz: int) -> None:
    clean = measure(speak(), rate_hz, TEXT)
    clipped = measure(np.clip(speak() * 6, -0.9, 0.9), rate_hz, TEXT)
    assert clean.clipped_samples == 0 < clipped.clipped_samples
    assert clipped.clarity < clean.clarity
    assert clipped.naturalness < clean.naturalness
    assert f"with {clipped.clipped_samples} clipped samples" in clipped.findings[0].detail
    assert clipped.findings[0].advice == "Lower the gain by 3 dB."


def test_samples_beyond_full_scale_ask_for_more_than_their_excess(speak: Any, rate_hz: int) -> None:
    report = measure(speak() * 3, rate_hz, TEXT)
    assert report.peak_dbfs == pytest.approx(20 * math.log10(1.5), abs=0.1)
    assert report.findings[0].advice == "Lower the gain by 6 dB."


def test_a_monotone_voice_is_as_clear_but_less_natural(speak: Any, rate_hz: int) -> None:
    lively, monotone = (measure(speak(spread_semitones=each), rate_hz, TEXT) for each in (3, 0))
    assert monotone.clarity == pytest.approx(lively.clarity, abs=0.05)
    assert monotone.naturalness < lively.naturalness - 0.2
    assert monotone.pitch_hz == pytest.approx(120, rel=0.02)
    assert monotone.pitch_spread_semitones < 0.5 < 1.5 < lively.pitch_spread_semitones
    assert "MONOTONE" in codes(monotone) - codes(lively)


def test_white_noise_has_the_lowest_scores(speak: Any, rate_hz: int) -> None:
    noise = measure(white(3 * rate_hz), rate_hz, TEXT)
    assert noise.clarity < 0.2
    assert noise.naturalness == 0
    assert noise.pitch_hz is None
    assert noise.reasons["pitch_hz"] == "There is too little voice."


@pytest.mark.parametrize("n_samples", [0, 1, 100, 22050])
def test_silence_has_reasons_instead_of_measures(rate_hz: int, n_samples: int) -> None:
    report = measure(np.zeros(n_samples, np.float32), rate_hz, TEXT)
    for name in ("loudness_lufs", "peak_dbfs", "snr_db", "pitch_hz", "clarity", "naturalness"):
        assert getattr(report, name) is None
        assert report.reasons[name] == "There is no sound."
    assert codes(report) == {"SILENT"}


@pytest.mark.parametrize("duration_s", [0.001, 0.03, 0.2, 0.45, 1.2])
@pytest.mark.parametrize("kind", ["speech", "white", "tone", "constant", "click", "faint"])
def test_every_measure_is_finite_or_null_with_a_reason(speak: Any, rate_hz: int, kind: str, duration_s: float) -> None:
    n_samples = max(1, int(duration_s * rate_hz))
    time_s = np.arange(n_samples) / rate_hz
    click = np.zeros(n_samples)
    click[n_samples // 2] = 1
    waveform = {
        "speech": speak()[3000 : 3000 + n_samples],
        "white": white(n_samples),
        "tone": np.sin(2 * np.pi * 200 * time_s),
        "constant": np.full(n_samples, 0.5),
        "click": click,
        "faint": white(n_samples) * 1e-30,
    }[kind].astype(np.float32)
    report = measure(waveform, rate_hz, "Yes.")
    json.loads(report.model_dump_json(), parse_constant=pytest.fail)
    for name, value in numbers(report).items():
        assert (value is None) == (name in report.reasons), name
        assert value is None or math.isfinite(value), name


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000, 44100, 48000])
def test_pitch_is_the_same_at_every_rate(rate_hz: int) -> None:
    time_s = np.arange(rate_hz) / rate_hz
    buzz = sum(np.sin(2 * np.pi * 150 * k * time_s) / k for k in range(1, 20)) * 0.2
    assert measure(np.float32(buzz), rate_hz, None).pitch_hz == pytest.approx(150, rel=0.01)


def test_loudness_of_the_reference_tone_is_that_of_the_standard() -> None:
    tone = np.sin(2 * np.pi * 997 * np.arange(48000 * 2) / 48000).astype(np.float32)
    assert measure(tone, 48000, None).loudness_lufs == pytest.approx(-3.01, abs=0.1)


def test_silences_and_rates_are_measured_in_seconds(speak: Any, rate_hz: int) -> None:
    quiet = np.zeros(rate_hz // 2, np.float32)
    waveform = np.concatenate([quiet, speak(12, pause_s=0), quiet, quiet, speak(12, pause_s=0), quiet])
    report = measure(waveform, rate_hz, "one two three four five six seven eight nine ten")
    assert report.leading_silence_s == pytest.approx(0.6, abs=0.15)
    assert report.trailing_silence_s == pytest.approx(0.6, abs=0.15)
    assert report.longest_silence_s == pytest.approx(1.2, abs=0.25)
    span_s = report.duration_s - report.leading_silence_s - report.trailing_silence_s
    assert report.words_per_min == pytest.approx(600 / span_s, rel=0.02)
    assert report.chars_per_s == pytest.approx(39 / span_s, rel=0.02)


def test_a_long_pause_and_silent_ends_are_found(speak: Any, rate_hz: int) -> None:
    quiet = np.zeros(rate_hz * 5 // 2, np.float32)
    report = measure(np.concatenate([quiet, speak(), quiet, speak(), quiet]), rate_hz, TEXT)
    assert codes(report) >= {"LONG_PAUSE", "LEADING_SILENCE", "TRAILING_SILENCE"}


def test_quiet_speech_is_advised_the_gain_that_it_lacks(speak: Any, rate_hz: int) -> None:
    report = measure(speak() * 0.01, rate_hz, TEXT)
    advice = {each.code: each.advice for each in report.findings}["QUIET"]
    assert advice.startswith(f"Raise the gain by {-18 - report.loudness_lufs:.0f} dB")


def test_intelligibility_is_not_guessed_from_the_signal(speak: Any, rate_hz: int) -> None:
    report = measure(speak(), rate_hz, TEXT)
    assert report.intelligibility is None
    assert report.reasons["intelligibility"] == "Measured by round trip; not requested."


@pytest.mark.parametrize("snr_db", [None, 30, 20, 10])
@pytest.mark.parametrize("n_syllables", [1, 3, 24])
def test_whole_speech_is_ok_with_noise_or_without(
    speak: Any, rate_hz: int, n_syllables: int, snr_db: float | None
) -> None:
    waveform = speak(n_syllables)
    waveform = waveform if snr_db is None else noisy(waveform, snr_db)
    assert verdict(waveform, rate_hz, "Yes, it is.") == "ok"


@pytest.mark.parametrize(
    "waveform", [np.zeros(0), np.zeros(50), np.zeros(22050), np.full(22050, 0.3), white(22050) * 1e-3]
)
def test_what_has_no_sound_is_empty(waveform: np.ndarray, rate_hz: int) -> None:
    assert verdict(waveform.astype(np.float32), rate_hz, TEXT) == "empty"


@pytest.mark.parametrize("at_syllable", [1.4, 5.5, 9.6, 14.5])
def test_speech_that_stops_within_a_sound_is_cut(speak: Any, rate_hz: int, at_syllable: float) -> None:
    whole = speak(pause_s=0)
    end = round((0.1 + at_syllable * (0.2 + 1 / 15)) * rate_hz)
    assert verdict(whole[:end], rate_hz, TEXT) == "cut"


def test_a_second_of_speech_for_a_page_of_text_is_cut(speak: Any, rate_hz: int) -> None:
    assert verdict(speak(4), rate_hz, TEXT * 3) == "cut"
    assert verdict(speak(4), rate_hz, None) == "ok"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_damage(speak: Any, rate_hz: int, bad: float) -> None:
    waveform = speak().copy()
    waveform[1000] = bad
    assert verdict(waveform, rate_hz, TEXT) == "damaged"
