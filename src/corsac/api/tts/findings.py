"""What a person would change about a piece of speech, by rules on its measures."""

from __future__ import annotations

import math
from collections.abc import Iterator

from corsac.api.tts.quality_report import Finding, QualityReport

TARGET_LUFS = -18.0  # AES TD1008, speech in streams
LOUDNESS_TOLERANCE_LU = 6.0


def findings(report: QualityReport) -> list[Finding]:
    """What could be better, what harms most first.

    Example of one: `CLIPPED`, "Peak at +0.0 dBFS with 312 clipped samples.", "Lower the gain by 3 dB."
    """
    if report.peak_dbfs is None or report.leading_silence_s is None:
        return [Finding(code="SILENT", detail="There is no sound.", advice="Try another voice or engine.")]
    return [*_damage(report), *_loudness(report, report.peak_dbfs), *_delivery(report)]


def _damage(report: QualityReport) -> Iterator[Finding]:
    if report.clipped_samples and report.peak_dbfs is not None:
        detail = f"Peak at {report.peak_dbfs:+.1f} dBFS with {report.clipped_samples} clipped samples."
        gain_db = 3 * math.ceil((max(report.peak_dbfs, 0) + 1) / 3)
        yield Finding(code="CLIPPED", detail=detail, advice=f"Lower the gain by {gain_db} dB.")
    noisy = report.snr_db is not None and report.snr_db < 12
    if noisy:
        detail = f"Speech is {report.snr_db:.0f} dB over the noise; 20 dB or more sounds clean."
        yield Finding(code="NOISY", detail=detail, advice="Try another voice, or a cleaner reference clip.")
    if not noisy and report.bandwidth_hz is not None and report.bandwidth_hz < 3400:
        detail = f"There is no speech above {report.bandwidth_hz:.0f} Hz; a telephone carries 3400 Hz."
        yield Finding(code="MUFFLED", detail=detail, advice="Try a voice or a reference clip with a higher rate.")


def _loudness(report: QualityReport, peak_dbfs: float) -> Iterator[Finding]:
    if report.loudness_lufs is None or abs(report.loudness_lufs - TARGET_LUFS) <= LOUDNESS_TOLERANCE_LU:
        return
    gain_db = TARGET_LUFS - report.loudness_lufs
    detail = f"Loudness is {report.loudness_lufs:.1f} LUFS; speech is usually near {TARGET_LUFS:.0f}."
    if gain_db < 0:
        yield Finding(code="LOUD", detail=detail, advice=f"Lower the gain by {-gain_db:.0f} dB.")
    elif peak_dbfs + gain_db <= 0:
        yield Finding(code="QUIET", detail=detail, advice=f"Raise the gain by {gain_db:.0f} dB.")
    else:
        advice = f"Raise the gain by {gain_db:.0f} dB with a limiter: the peak is at {peak_dbfs:+.1f} dBFS."
        yield Finding(code="QUIET", detail=detail, advice=advice)


def _delivery(report: QualityReport) -> Iterator[Finding]:
    if report.pitch_spread_semitones is not None and report.pitch_spread_semitones < 1:
        detail = f"Pitch varies by {report.pitch_spread_semitones:.1f} semitones; read speech by 2 to 4."
        yield Finding(code="MONOTONE", detail=detail, advice="Try another voice.")
    if report.longest_silence_s is not None and report.longest_silence_s > 2:
        detail = f"There is a pause of {report.longest_silence_s:.1f} s within the speech."
        yield Finding(code="LONG_PAUSE", detail=detail, advice="Look for a part of the text that the voice cannot say.")
    for name, silence_s in (("LEADING", report.leading_silence_s), ("TRAILING", report.trailing_silence_s)):
        if silence_s is not None and silence_s > 1:
            detail = f"There are {silence_s:.1f} s of {name.lower()} silence."
            yield Finding(code=f"{name}_SILENCE", detail=detail, advice="Trim the file.")
    if report.words_per_min is not None and report.duration_s > 2 and report.words_per_min > 300:
        detail = f"There are {report.words_per_min:.0f} words a minute; 150 to 200 are easy to follow."
        yield Finding(code="FAST", detail=detail, advice="Lower the speed, or check that the end of the text is there.")
