"""What speech engines have in common whose native code runs in a worker process."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from corsac.core.exceptions import InvalidChoice
from corsac.core.service import EngineContext
from corsac.engines.speech.base import Speech, SpeechEngine, Voice
from corsac.engines.supervised import NativeHalf

if TYPE_CHECKING:
    from corsac.core.health_checks import Check


class SupervisedSpeechEngine(SpeechEngine):
    """A speech engine whose other half, the speaker, lives in a worker process.

    The speaker is a class with two methods: `voices(payload)` returns `{"voices": [{"id", "language", "name",
    "gender"}, …]}`, and `speak(payload, text, voice, speed)` returns `{"rate_hz"}` and the waveform.

    Args:
        context: From the composition root.
        monotonic: Seconds on a clock that never goes back.
    """

    speaker: ClassVar[str]
    """The speaker's class as `package.module:ClassName`."""
    extra: ClassVar[str]
    """The extra of corsac that installs what the speaker imports."""

    def __init__(self, context: EngineContext, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(context)
        self._native = NativeHalf(
            context,
            target=self.speaker,
            kind=self.kind,
            does="synthesis",
            extra=self.extra,
            monotonic=monotonic,
        )
        self._voices: dict[str, Voice] = {}

    @abstractmethod
    async def speaker_options(self) -> Mapping[str, Any]:
        """The speaker's keyword arguments; JSON.

        Raises:
            Refused: Something that it needs is not here.
        """

    def voices(self) -> Sequence[Voice]:
        """The voices that can be spoken now; empty before `start`."""
        return tuple(self._voices.values())

    async def start(self) -> None:
        """Start the speaker and ask it for its voices."""
        answer = await self._native.start(await self.speaker_options(), "voices")
        voices = [Voice(engine=self.name, **each) for each in answer["voices"]]
        self._voices = {voice.id: voice for voice in voices}

    async def stop(self) -> None:
        """End the speaker."""
        self._voices = {}
        await self._native.stop()

    async def synthesize(self, text: str, voice: str, *, speed: float = 1.0, timeout_s: float) -> Speech:
        """Speak one text; see the base class.

        Raises:
            InvalidChoice: The engine has no such voice.
            EngineUnavailable: It is not started, or what it needs has been removed since.
            WorkerCrashed, WorkerOutOfMemory, CircuitOpen, DeadlineExceeded, TooLarge: See `Worker.call`.
        """
        self._native.require_up()
        if voice not in self._voices:
            raise InvalidChoice(
                f"The speech engine '{self.name}' has no such voice.", hint="GET /api/tts/voices lists them."
            )
        arguments = {"text": text, "voice": voice, "speed": speed}
        result, waveform = await self._native.ask("speak", arguments, timeout_s=timeout_s)
        return Speech(waveform, result["rate_hz"])

    async def check(self) -> Sequence[Check]:
        """See `NativeHalf.check`; the smallest synthesis is "a"."""
        return await self._native.check(self._probe)

    async def _probe(self, timeout_s: float) -> str | None:
        speech = await self.synthesize("a", next(iter(self._voices)), timeout_s=timeout_s)
        return None if speech.waveform else "The synthesis of one letter gave no sound."
