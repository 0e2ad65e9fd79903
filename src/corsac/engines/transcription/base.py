"""The kind `transcription`: one waveform becomes the text that was said in it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import ClassVar

from corsac.core.service import EngineContext, Part

RATE_HZ = 16_000
"""Samples per second of every waveform that these engines take."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech.

    Args:
        text: What was said in it.
        start_s: Where it begins.
        end_s: Where it ends.
    """

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What an engine heard.

    Args:
        text: All of it; empty where there was no speech.
        language: BCP 47 tag of the language that it was heard as.
        segments: In order.
        duration_s: Length of the waveform.
    """

    text: str
    language: str
    segments: tuple[Segment, ...]
    duration_s: float


class TranscriptionEngine(Part):
    """Writes down speech. Its native code runs in a worker process, so a crash or a cancel never hurts the server."""

    kind: ClassVar[str] = "transcription"
    rank: ClassVar[int] = 100
    """Order in which `auto` tries engines; the most accurate has the lowest."""

    def __init__(self, context: EngineContext) -> None:
        self.name = context.name
        self.context = context

    @abstractmethod
    def languages(self) -> AbstractSet[str]:
        """Primary tags of the languages that it understands; empty before `start`."""

    def vocabulary(self) -> AbstractSet[str]:
        """Words in lower case that its model knows as one piece; empty where it cannot tell.

        Words outside it are rare in what the model learned from, so it mishears them however well they are spoken.
        """
        return frozenset()

    @abstractmethod
    async def transcribe(self, waveform: bytes, language: str | None = None, *, timeout_s: float) -> Transcript:
        """Write down one waveform.

        Args:
            waveform: (samples,) little-endian float32 in [-1, 1], mono, 16 kHz, as bytes.
            language: Primary tag, one of `languages()`; None: the engine tells.
            timeout_s: Seconds until the work is stopped.

        Raises:
            WorkerCrashed: Its process died; the next call starts it afresh.
            DeadlineExceeded: It took longer than `timeout_s`.
        """
