"""What can be set about speech."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from corsac.api.tts.formats import AudioFormat
from corsac.core.config_store import ServiceConfigModel


class TTSConfigModel(ServiceConfigModel):
    """Settings of the service `tts`."""

    language: str = Field(
        "en-US",
        pattern=r"^[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*$",
        max_length=35,
        description="BCP 47 tag spoken where a text does not tell.",
    )
    format: AudioFormat = Field("wav", description="Audio format where a request names none.")
    quality: Literal["off", "signal", "full"] = Field(
        "signal",
        description="What is measured where a request does not say: nothing, the signal, or also what is heard of it.",
    )
    max_text_chars: int = Field(5000, ge=1, le=20_000, description="Characters in one request's text.")
    max_audio_s: float = Field(600.0, ge=1, le=3600, description="Seconds of audio in one upload.")
    max_synthesis_s: float = Field(60.0, ge=1, le=600, description="Seconds that one synthesis may take.")
