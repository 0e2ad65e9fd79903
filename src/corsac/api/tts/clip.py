"""Whether a recording can serve as the sample of a voice, by rules on its measures."""

from __future__ import annotations

from collections.abc import Iterator

from corsac.api.tts.quality_report import Finding, QualityReport
from corsac.api.tts.upload import SampleUnusable

MIN_DURATION_S = 3.0
MIN_SOUND_S = 2.0
MAX_CLIPPED_RATIO = 0.001  # a thousandth is heard as crackle, and the voice learns it
MIN_SNR_DB = 15.0
MIN_BANDWIDTH_HZ = 3400.0


def clip_findings(report: QualityReport) -> list[Finding]:
    """What is in the way of cloning from a recording; empty: nothing.

    Example of one: `TOO_SHORT`, "The sample is 0.5 s long; 3 s are needed.", "Record more."
    """
    return list(_findings(report))


def require_usable(report: QualityReport) -> None:
    """Raises SampleUnusable, with every measured number, where something is in the way."""
    if found := clip_findings(report):
        raise SampleUnusable(" ".join(each.detail for each in found), hint=" ".join(each.advice for each in found))


def _findings(report: QualityReport) -> Iterator[Finding]:
    if report.leading_silence_s is None:
        level = "no level at all" if report.peak_dbfs is None else f"a peak of {report.peak_dbfs:+.1f} dBFS"
        detail = f"The sample has {level} and no sound: every 10 ms of it are level."
        yield Finding(code="SILENT", detail=detail, advice="Check the microphone.")
        return
    sound_s = report.duration_s * (1 - report.silence_ratio)
    if report.duration_s < MIN_DURATION_S:
        detail = f"The sample is {report.duration_s:.1f} s long; {MIN_DURATION_S:.0f} s are needed."
        yield Finding(code="TOO_SHORT", detail=detail, advice="Record more.")
    elif sound_s < MIN_SOUND_S:
        detail = f"There are {sound_s:.1f} s of sound in it; {MIN_SOUND_S:.0f} s are needed."
        yield Finding(code="TOO_LITTLE_SPEECH", detail=detail, advice="Record more, with shorter pauses.")
    if report.clipped_ratio > MAX_CLIPPED_RATIO:
        detail = f"{report.clipped_samples} samples are clipped, {100 * report.clipped_ratio:.2f} %; 0.1 % can be."
        yield Finding(code="CLIPPED", detail=detail, advice="Record with less gain.")
    if report.snr_db is not None and report.snr_db < MIN_SNR_DB:
        detail = f"Speech is {report.snr_db:.0f} dB over the noise; {MIN_SNR_DB:.0f} dB are needed."
        yield Finding(code="NOISY", detail=detail, advice="Record in a quieter place, nearer to the microphone.")
    if report.bandwidth_hz is not None and report.bandwidth_hz < MIN_BANDWIDTH_HZ:
        detail = f"There is no speech above {report.bandwidth_hz:.0f} Hz; {MIN_BANDWIDTH_HZ:.0f} Hz are needed."
        yield Finding(code="MUFFLED", detail=detail, advice="Record at a higher rate, not over a telephone.")
