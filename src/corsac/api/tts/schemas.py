"""Bodies of the service `tts`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from corsac.api.tts.formats import AudioFormat
from corsac.api.tts.quality_report import QualityReport
from corsac.core.bodies import Reply, RequestBody
from corsac.core.exceptions import InvalidFormat
from corsac.core.validation import refused_as

LanguageTag = Annotated[str, Field(pattern=r"^[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*$", max_length=35)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+/-]{0,63}$", max_length=64)]


class SynthesisRequest(RequestBody):
    """One text to be spoken."""

    text: str = Field(max_length=1_000_000, description="Plain text; SSML is refused.", examples=["Hello, world."])
    voice: Name = Field("auto", description="Id of a voice of `GET /api/tts/voices`, or `auto`: by language.")
    language: LanguageTag | None = Field(
        None, description="BCP 47 tag; null: told by the text's script, else the default."
    )
    engine: Name = Field("auto", description="Name of an engine, or `auto`: the most natural one that has the voice.")
    speed: float = Field(1.0, ge=0.5, le=2.0, description="1.0 is the voice's own pace.")
    format: Annotated[AudioFormat | None, refused_as(InvalidFormat)] = Field(
        None, description="Audio format; null: the configured one."
    )
    quality: Literal["off", "signal"] | None = Field(None, description="What to measure; null: the configured answer.")


class SynthesisResult(Reply):
    """A spoken text. The audio is fetched from `url`, for as long as the server's retention says."""

    id: str
    url: str
    format: AudioFormat
    media_type: str
    size_bytes: int
    duration_s: float
    rate_hz: int = Field(description="Samples per second of what the engine made.")
    voice: str
    language: str
    served_by: str = Field(description="The engine that spoke.")
    degraded: bool = Field(description="Whether a more natural engine would have spoken, had it worked.")
    retried: bool = Field(description="Whether the first attempt came out empty or cut and was repeated.")
    quality: QualityReport | None


class VoiceView(Reply):
    """A voice that can be spoken now."""

    id: str
    engine: str
    language: str
    name: str
    gender: str | None


class AudioView(Reply):
    """A generated audio file of the caller's."""

    id: str
    url: str
    media_type: str
    size_bytes: int
    created_at: float = Field(description="Epoch seconds.")
