"""The other direction: what is said in audio, ours and that of clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from corsac.api.tts.clip import clip_findings, require_usable
from corsac.api.tts.formats import MEDIA_TYPES
from corsac.api.tts.intelligibility import Baselines, trip_verdict
from corsac.api.tts.quality_report import QualityReport, RoundTrip
from corsac.api.tts.schemas import (
    AudioValidation,
    SegmentView,
    TranscriptionRequest,
    TranscriptionResult,
    ValidationRequest,
)
from corsac.api.tts.upload import Limits, check_upload, refusal
from corsac.core.exceptions import CorsacError, EngineUnavailable, Invalid
from corsac.core.workers.protocol import WorkerError, WorkerRejected
from corsac.engines.transcription.base import RATE_HZ, Transcript, TranscriptionEngine

if TYPE_CHECKING:
    from corsac.api.tts.config import TTSConfigModel
    from corsac.core.call import Call
    from corsac.core.http.multipart import UploadedFile
    from corsac.core.service import ServiceContext
    from corsac.core.workers.worker import Worker
    from corsac.engines.speech.base import Speech, Voice

MAX_TRANSCRIPTION_S = 300.0
MAX_MEASURED_S = 60.0


class TranscriberUnknown(Invalid):
    """No transcription engine has this name.

    The detail lists those that work.
    """

    reason = "TRANSCRIBER_UNKNOWN"


class LanguageNotTranscribed(Invalid):
    """No transcription engine understands this language.

    The detail lists the languages that are understood.
    """

    reason = "LANGUAGE_NOT_TRANSCRIBED"


LISTENING_ERRORS: tuple[type[CorsacError], ...] = (TranscriberUnknown, LanguageNotTranscribed)


class Listener:
    """Transcribes and validates uploads, and judges our own speech by what is heard of it.

    Args:
        context: The service's.
        bench: Decodes and compares.
        config: The present configuration.
    """

    def __init__(self, context: ServiceContext, bench: Worker, config: Callable[[], TTSConfigModel]) -> None:
        self.context = context
        self.bench = bench
        self.config = config
        self.baselines = Baselines()

    async def transcribe(self, upload: UploadedFile, request: TranscriptionRequest, call: Call) -> TranscriptionResult:
        """Write down what is said in a file.

        Raises:
            AudioInvalid, AudioTypeMismatch, AudioTooLong, MetadataTooLarge: It is no audio that is taken.
            TranscriberUnknown, LanguageNotTranscribed: Nobody here could.
            EngineUnavailable: No transcription engine works.
        """
        limits = Limits(self.config().max_audio_s)
        header = await asyncio.to_thread(check_upload, upload, limits)
        engines = choose(await self._engines(call), request)
        language = primary_tag(request.language)
        arguments = {"path": str(upload.path), "max_s": limits.max_s, "wanted_hz": RATE_HZ}
        about, waveform = await self._at_bench("hear", arguments, call)

        async def ask(engine: TranscriptionEngine) -> tuple[Transcript, TranscriptionEngine]:
            timeout_s = call.remaining_s(MAX_TRANSCRIPTION_S)
            return await engine.transcribe(waveform, language, timeout_s=timeout_s), engine

        asked = [(each.name, partial(ask, each)) for each in engines]
        transcript, engine = (await self.context.errors.first_that_works("transcribe", asked)).value
        knows_one = len(engine.languages()) == 1
        return TranscriptionResult(
            text=transcript.text,
            language=transcript.language,
            language_source="requested" if language else "assumed" if knows_one else "detected",
            duration_s=round(about["duration_s"], 3),
            segments=[SegmentView.model_validate(each, from_attributes=True) for each in transcript.segments],
            format=header.format,
            served_by=engine.name,
        )

    async def validate(self, upload: UploadedFile, request: ValidationRequest, call: Call) -> AudioValidation:
        """Decode a file to its end and measure it.

        Raises:
            AudioInvalid, AudioTypeMismatch, AudioTooLong, MetadataTooLarge: It is no audio that is taken.
            SampleUnusable: It is wanted for cloning and would not do.
        """
        limits = Limits(self.config().max_audio_s)
        header = await asyncio.to_thread(check_upload, upload, limits)
        arguments = {"path": str(upload.path), "max_s": limits.max_s, "measured_s": MAX_MEASURED_S}
        about, _ = await self._at_bench("inspect", arguments, call)
        quality = QualityReport.model_validate(about["quality"])
        if request.purpose == "clone":
            require_usable(quality)
        return AudioValidation(
            format=header.format,
            media_type=MEDIA_TYPES[header.format],
            size_bytes=upload.size_bytes,
            duration_s=round(about["duration_s"], 3),
            rate_hz=about["rate_hz"],
            channels=header.channels,
            measured_s=min(MAX_MEASURED_S, round(about["duration_s"], 3)),
            quality=quality,
            clone_findings=clip_findings(quality),
        )

    async def judge(self, speech: Speech, voice: Voice, text: str, call: Call) -> RoundTrip | str:
        """What is understood of our own speech, by an engine that did not make it.

        Returns:
            The round trip with its baseline, or a sentence that says why there is none: never an error, because
            the speech itself is there.
        """
        if primary_tag(voice.language) != "en":
            return "Only English is compared with its transcript."
        try:
            engines = [each for each in await self._engines(call) if each.name != voice.engine]
            hearing = [each for each in engines if "en" in each.languages()]
            if not hearing:
                return "No transcription engine that understands English works."
            return await self._round_trip(hearing[0], speech, voice, text, call)
        except EngineUnavailable as error:
            return f"{error.detail} {error.hint or ''}".strip()
        except CorsacError as error:
            return f"The transcription failed: {error.detail}"
        except WorkerError:
            self.context.logger.exception("transcription failed")
            return "The transcription failed; the log says why."

    async def _round_trip(
        self, judge: TranscriptionEngine, speech: Speech, voice: Voice, text: str, call: Call
    ) -> RoundTrip | str:
        arguments = {"rate_hz": speech.rate_hz, "wanted_hz": RATE_HZ}
        _, waveform = await self.bench.call("narrow", arguments, speech.waveform, timeout_s=call.remaining_s(30))
        heard = await judge.transcribe(waveform, "en", timeout_s=call.remaining_s(MAX_TRANSCRIPTION_S))
        known = " ".join(judge.vocabulary()).encode()
        words = {"text": text, "transcript": heard.text, "judge": judge.name}
        compared, _ = await self.bench.call("compare", words, known, timeout_s=call.remaining_s(30))
        if "reason" in compared:
            return str(compared["reason"])
        trip = self.baselines.compare(RoundTrip.model_validate(compared["trip"]), voice.engine, voice.id)
        if trip_verdict(trip) == "ok":
            self.baselines.add(trip, voice.engine, voice.id)
        return trip

    async def _engines(self, call: Call) -> list[TranscriptionEngine]:
        found = await self.context.registry.engines("transcription", call.remaining_s(10))
        return sorted((cast(TranscriptionEngine, each) for each in found), key=lambda engine: engine.rank)

    async def _at_bench(self, method: str, arguments: dict[str, Any], call: Call) -> tuple[dict[str, Any], bytes]:
        try:
            return await self.bench.call(method, arguments, timeout_s=call.remaining_s(60))
        except WorkerRejected as rejected:
            raise refusal(rejected) from rejected


def primary_tag(language: str | None) -> str | None:
    """The language without its region: `en` for `en-US`."""
    return language.partition("-")[0].lower() if language else None


def choose(engines: Sequence[TranscriptionEngine], request: TranscriptionRequest) -> list[TranscriptionEngine]:
    """The engines to try, in their order.

    Raises:
        TranscriberUnknown, LanguageNotTranscribed: None is left.
    """
    if request.engine != "auto":
        names = ", ".join(each.name for each in engines)
        engines = [each for each in engines if each.name == request.engine]
        if not engines:
            raise TranscriberUnknown(f"The transcription engines that work are {names}.")
    language = primary_tag(request.language)
    understanding = [each for each in engines if language is None or language in each.languages()]
    if not understanding:
        known = sorted({language for each in engines for language in each.languages()})
        raise LanguageNotTranscribed(f"The languages understood here are {', '.join(known)}.")
    return understanding
