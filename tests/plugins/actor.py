"""A speech engine for tests whose voices are slow, silent, or silent the first time."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Mapping
from typing import Any, ClassVar

from corsac.engines.speech.supervised import SupervisedSpeechEngine

RATE_HZ = 16_000
VOICES = ("slow", "silent", "hesitant")


class ActorEngine(SupervisedSpeechEngine):
    """Speaks tones, in a worker process like the real ones."""

    rank: ClassVar[int] = 99
    speaker: ClassVar[str] = "actor:Actor"
    extra: ClassVar[str] = "actor"

    async def speaker_options(self) -> Mapping[str, Any]:
        return {}


class Actor:
    """The half in the worker process."""

    def __init__(self) -> None:
        self.hesitated = False

    def voices(self, payload: bytes) -> tuple[dict[str, Any], bytes]:
        voices = [{"id": name, "language": "qaa", "name": name, "gender": None} for name in VOICES]
        return {"voices": voices}, b""

    def speak(self, payload: bytes, text: str, voice: str, speed: float) -> tuple[dict[str, Any], bytes]:
        if voice == "slow" and "slowly" in text:
            time.sleep(20)
        hesitates = voice == "hesitant" and not self.hesitated
        self.hesitated = self.hesitated or hesitates
        if voice == "silent" or hesitates:
            return {"rate_hz": RATE_HZ}, bytes(4 * RATE_HZ)
        return {"rate_hz": RATE_HZ}, fading_tone(seconds=1.0).tobytes()


def fading_tone(seconds: float) -> array[float]:
    """A tone that swells and fades, so that it ends in silence."""
    n = round(seconds * RATE_HZ)
    return array(
        "f", (0.5 * math.sin(math.pi * i / n) ** 2 * math.sin(2 * math.pi * 200 * i / RATE_HZ) for i in range(n))
    )
