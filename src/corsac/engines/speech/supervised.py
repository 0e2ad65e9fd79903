"""What speech engines have in common whose native code runs in a worker process."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from corsac.core.exceptions import CorsacError, EngineUnavailable, InvalidChoice
from corsac.core.service import Broken, EngineContext, NotReady, Refused, StartFailure
from corsac.core.workers.protocol import WorkerError, WorkerStartFailed
from corsac.core.workers.worker import Worker
from corsac.engines.speech.base import Speech, SpeechEngine, Voice

if TYPE_CHECKING:
    from corsac.core.health_checks import Check

FRESH_S = 60.0
PROBE_TIMEOUT_S = 1.5  # a check has 2 s


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
        self._monotonic = monotonic
        self._worker: Worker | None = None
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
        options = await self.speaker_options()
        worker = self._worker = Worker(
            self.speaker, options, name=self.name, monotonic=self._monotonic, logger=self.context.logger
        )
        try:
            await worker.start()
            result, _ = await worker.call("voices", {}, timeout_s=10)
        except WorkerError as error:
            raise self._start_failure(error) from error
        except CorsacError as error:
            raise NotReady(error.detail) from error
        voices = [Voice(engine=self.name, **each) for each in result["voices"]]
        self._voices = {voice.id: voice for voice in voices}

    async def stop(self) -> None:
        """End the speaker."""
        self._voices = {}
        if self._worker:
            await self._worker.stop()

    async def synthesize(self, text: str, voice: str, *, speed: float = 1.0, timeout_s: float) -> Speech:
        """Speak one text; see the base class.

        Raises:
            InvalidChoice: The engine has no such voice.
            EngineUnavailable: It is not started, or what it needs has been removed since.
            WorkerCrashed, WorkerOutOfMemory, CircuitOpen, DeadlineExceeded, TooLarge: See `Worker.call`.
        """
        if self._worker is None or not self._voices:
            raise EngineUnavailable(f"The speech engine '{self.name}' is not started.")
        if voice not in self._voices:
            raise InvalidChoice(
                f"The speech engine '{self.name}' has no such voice.", hint="GET /api/tts/voices lists them."
            )
        arguments = {"text": text, "voice": voice, "speed": speed}
        try:
            result, waveform = await self._worker.call("speak", arguments, timeout_s=timeout_s)
        except WorkerStartFailed as error:
            failure = self._start_failure(error)
            raise EngineUnavailable(failure.detail, hint=failure.hint) from error
        return Speech(waveform, result["rate_hz"])

    async def check(self) -> Sequence[Check]:
        """A success within a minute counts; else an idle speaker says "a". Never starts one to find out."""
        worker = self._worker
        if worker is None or not self._voices:
            return [self._check("pass", output="Unloaded.")]
        last = worker.last_success_at
        if last is not None and (age_s := self._monotonic() - last) <= FRESH_S:
            return [self._check("pass", age_s, "s")]
        if worker.circuit_open_s > 0:
            return [self._check("fail", output="It crashed again and again and is left alone for a while.")]
        if worker.is_busy:
            return [self._check("warn", output="It is at work, and nothing was finished in the last minute.")]
        if worker.pid is None:
            return [self._check("pass", output="Unloaded; the next request loads it.")]
        return [await self._probe()]

    async def _probe(self) -> Check:
        began = self._monotonic()
        try:
            speech = await self.synthesize("a", next(iter(self._voices)), timeout_s=PROBE_TIMEOUT_S)
        except CorsacError as error:
            return self._check("fail", output=error.detail)
        except WorkerError:
            self.context.logger.exception("check failed")
            return self._check("fail", output="The synthesis of one letter failed; the log says why.")
        if not speech.waveform:
            return self._check("fail", output="The synthesis of one letter gave no sound.")
        return self._check("pass", self._monotonic() - began, "s")

    def _check(
        self,
        status: Literal["pass", "warn", "fail"],
        value: float | None = None,
        unit: str | None = None,
        output: str | None = None,
    ) -> Check:
        from corsac.core.health_checks import Check

        return Check(f"{self.name}:synthesis", status, value, unit, output)

    def _start_failure(self, error: WorkerError) -> StartFailure:
        if error.kind == "ImportError":
            hint = f"pip install 'corsac[{self.extra}]'"
            return Refused(f"What the speech engine '{self.name}' needs is not installed.", hint)
        if error.kind == "TimeoutError":
            return NotReady(f"The speech engine '{self.name}' did not start in time.")
        return Broken(f"The speech engine '{self.name}' could not start ({error.kind}); the log says why.")
