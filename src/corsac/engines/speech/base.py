"""The kind `speech`: one text in one voice becomes one waveform."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from corsac.core.service import EngineContext, Part


@dataclass(frozen=True, slots=True)
class Voice:
    """One voice of one engine.

    Args:
        id: Unique within the engine, for example `en_US-joe-medium`.
        engine: The engine that speaks it.
        language: BCP 47 tag, for example `en-US`.
        name: For people.
        gender: `female`, `male` or None where it is unknown.
    """

    id: str
    engine: str
    language: str
    name: str
    gender: str | None = None


@dataclass(frozen=True, slots=True)
class Speech:
    """What an engine said.

    Args:
        waveform: (samples,) little-endian float32 in [-1, 1], mono, as bytes.
        rate_hz: Samples per second.
    """

    waveform: bytes
    rate_hz: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / 4 / self.rate_hz


class SpeechEngine(Part):
    """Speaks texts. Its native code runs in a worker process, so a crash or a cancel never hurts the server."""

    kind: ClassVar[str] = "speech"
    rank: ClassVar[int] = 100
    """Order in which `auto` tries engines; the most natural has the lowest."""
    languages: ClassVar[frozenset[str]] = frozenset()
    """Primary language tags that this engine is the better choice for once it works."""

    def __init__(self, context: EngineContext) -> None:
        self.name = context.name
        self.context = context

    @abstractmethod
    def voices(self) -> Sequence[Voice]:
        """The voices that can be spoken now; empty before `start`."""

    @abstractmethod
    async def synthesize(self, text: str, voice: str, *, speed: float = 1.0, timeout_s: float) -> Speech:
        """Speak one text.

        Args:
            text: Plain text, not empty.
            voice: Id of one of `voices()`.
            speed: 0.5 to 2.0; 1.0 is the voice's own pace.
            timeout_s: Seconds until the work is stopped.

        Raises:
            WorkerCrashed: Its process died; the next call starts it afresh.
            DeadlineExceeded: It took longer than `timeout_s`.
        """
