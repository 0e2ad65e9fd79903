"""What is measured on a piece of speech. The server reads it without the libraries that measure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from corsac.core.bodies import Reply

Verdict = Literal["ok", "empty", "cut", "damaged"]
"""`empty`: no sound to speak of. `cut`: too short for its text, or it stops in the middle of a sound.
`damaged`: samples that are no numbers."""


class Finding(Reply):
    """Something about the audio that could be better."""

    code: str
    detail: str = Field(description="What was measured.")
    advice: str = Field(description="What would help.")


def _rounded(digits: int) -> AfterValidator:
    return AfterValidator(lambda value: round(value, digits))


Measure = Annotated[float, _rounded(3)]
Ratio = Annotated[float, _rounded(6)]


class QualityReport(Reply):
    """Measures of one waveform. One that does not exist is null, and `reasons` says under its name why."""

    model_config = ConfigDict(allow_inf_nan=False)

    duration_s: Measure
    chars_per_s: Measure | None = Field(
        description="Letters and digits a second, without the silence around the speech."
    )
    words_per_min: Measure | None
    leading_silence_s: Measure | None
    trailing_silence_s: Measure | None
    longest_silence_s: Measure | None = Field(description="Longest pause within the speech.")
    silence_ratio: Measure = Field(ge=0, le=1, description="Share of 10 ms frames over 40 dB below the loud ones.")
    clipped_samples: int = Field(ge=0, description="Samples beyond full scale, or in a flat top at the peak.")
    clipped_ratio: Ratio = Field(ge=0, le=1)
    peak_dbfs: Measure | None
    rms_dbfs: Measure | None
    loudness_lufs: Measure | None = Field(description="Integrated loudness, ITU-R BS.1770-4.")
    snr_db: Measure | None = Field(description="Blind estimate from each frequency's quiet moments; -20 to about 90.")
    bandwidth_hz: Measure | None = Field(
        description="Highest frequency at which speech is within 50 dB of its strongest."
    )
    pitch_hz: Measure | None = Field(description="Median of the voice's fundamental frequency.")
    pitch_spread_semitones: Measure | None = Field(description="Half the range of the middle 68 %: one deviation.")
    hnr_db: Measure | None = Field(
        description="Harmonics-to-noise ratio, mean of the voiced frames, below 5 kHz or more."
    )
    cpps_db: Measure | None = Field(description="Smoothed cepstral peak prominence, mean of the frames with sound.")
    clarity: Measure | None = Field(ge=0, le=1, description="How much of the speech can be heard; see quality.clarity.")
    naturalness: Measure | None = Field(ge=0, le=1, description="How like a person's; see quality.naturalness.")
    intelligibility: Measure | None = Field(ge=0, le=1, description="One minus the word error rate of a transcription.")
    reasons: dict[str, str] = Field(description="Why a measure is null, by its name.")
    findings: list[Finding] = Field(default_factory=list)
