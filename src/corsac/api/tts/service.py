"""Speech from text: choice of voice and engine, synthesis, measurement, storage."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from corsac.api.tts.config import TTSConfigModel
from corsac.api.tts.formats import MEDIA_TYPES, SUFFIXES, AudioFormat
from corsac.api.tts.intelligibility import trip_verdict
from corsac.api.tts.listening import Listener
from corsac.api.tts.quality_report import QualityReport
from corsac.api.tts.schemas import AudioView, SynthesisRequest, SynthesisResult, VoiceView
from corsac.api.tts.text import detect_language, is_speakable, looks_like_ssml, normalize_text
from corsac.core.exceptions import CorsacError, Invalid
from corsac.core.health_checks import Check
from corsac.core.paging import Page
from corsac.core.service import Part, ServiceContext
from corsac.core.storage.artifacts import Artifact
from corsac.core.workers.worker import Worker
from corsac.engines.speech.base import Speech, SpeechEngine, Voice

if TYPE_CHECKING:
    from corsac.core.call import Call

AUDIO = "audio"
STARTING_S = 10.0  # longest wait for an engine that is starting


class TextNotSpeakable(Invalid):
    """The text has nothing that can be spoken.

    It needs at least one letter or digit of some script.
    """

    reason = "TEXT_NOT_SPEAKABLE"


class TextTooLong(Invalid):
    """The text is too long for one request.

    Split it at sentences. The limit is the setting `max_text_chars` of the service.
    """

    reason = "TEXT_TOO_LONG"


class SsmlRejected(Invalid):
    """The text is markup.

    Speech is made from plain text; SSML and other XML are refused. Send what should be heard.
    """

    reason = "SSML_REJECTED"


class VoiceUnknown(Invalid):
    """No engine has this voice.

    `GET /api/tts/voices` lists the voices that can be spoken now.
    """

    reason = "VOICE_UNKNOWN"


class LanguageNotSpoken(Invalid):
    """No voice speaks this language.

    `GET /api/tts/voices` lists the languages of the voices.
    """

    reason = "LANGUAGE_NOT_SPOKEN"


class EngineUnknown(Invalid):
    """No speech engine has this name.

    The detail lists those that work.
    """

    reason = "ENGINE_UNKNOWN"


class AudioUnusable(CorsacError):
    """The engine's audio was empty, cut or not to be understood, twice.

    The text was synthesized again after the first time. Try another voice, or report the text.
    """

    status, reason, retry = 502, "AUDIO_UNUSABLE", "fix_first"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine and the voice it would speak with."""

    engine: SpeechEngine
    voice: Voice


@dataclass(frozen=True, slots=True)
class Made:
    """What one attempt came to.

    Args:
        speech: What the engine said.
        candidate: The engine and the voice.
        fell_back: Whether it was not the first choice.
        verdict: `ok`, or what is wrong with the audio.
        quality: A `QualityReport` as JSON, or None where nothing was measured.
        content: The encoded file; empty unless the verdict is `ok`.
    """

    speech: Speech
    candidate: Candidate
    fell_back: bool
    verdict: str
    quality: dict[str, Any] | None
    content: bytes


class TTSServiceManager(Part):
    """Speaks texts and keeps the audio."""

    def __init__(self, context: ServiceContext) -> None:
        self.context = context
        self.bench = Worker(
            "corsac.api.tts.workbench:AudioWorkbench",
            {},
            name="audio workbench",
            logger=context.logger,
            idle_stop_s=300,
        )
        self.listener = Listener(context, self.bench, lambda: self.config)

    @property
    def config(self) -> TTSConfigModel:
        """The present configuration; read it once per operation."""
        return cast(TTSConfigModel, self.context.config.current)

    async def stop(self) -> None:
        """End the workbench."""
        await self.bench.stop()

    async def check(self) -> Sequence[Check]:
        """Whether the workbench worked when it was last asked; it is not started only to be looked at."""
        restarts = float(self.bench.restarts)
        return [Check("tts:workbench-restarts", "warn" if restarts >= 3 else "pass", restarts, "restarts")]

    async def synthesize(self, request: SynthesisRequest, call: Call) -> SynthesisResult:
        """Speak one text.

        Args:
            request: What to say and how.
            call: Owner of the audio and deadline.

        Raises:
            TextNotSpeakable, TextTooLong, SsmlRejected: The text cannot be spoken.
            VoiceUnknown, LanguageNotSpoken, EngineUnknown: Nobody here speaks like that.
            AudioUnusable: Two attempts came out empty or cut, or were not understood.
        """
        config = self.config
        text = speakable(request.text, config.max_text_chars)
        language = request.language or detect_language(text) or config.language
        candidates = await self._candidates(request, language, call)
        audio_format = request.format or config.format
        quality = request.quality or config.quality
        work = partial(self._make, candidates, text, request.speed, audio_format, quality, call)
        made = await work()
        if retried := made.verdict != "ok":
            self.context.logger.warning("unusable audio", verdict=made.verdict, engine=made.candidate.engine.name)
            made = await work()
        if made.verdict != "ok":
            raise AudioUnusable(f"The audio was {made.verdict}, twice.")
        artifact = await self._keep(made, audio_format, call)
        return SynthesisResult(
            id=artifact.id,
            url=f"/api/tts/audio/{artifact.id}",
            format=audio_format,
            media_type=artifact.media_type,
            size_bytes=artifact.size_bytes,
            duration_s=round(made.speech.duration_s, 3),
            rate_hz=made.speech.rate_hz,
            voice=made.candidate.voice.id,
            language=made.candidate.voice.language,
            served_by=made.candidate.engine.name,
            degraded=made.fell_back or self._better_is_missing(made.candidate, language, request),
            retried=retried,
            quality=QualityReport.model_validate(made.quality) if made.quality else None,
        )

    async def voices(self, language: str, engine: str, limit: int, cursor: str) -> Page[VoiceView]:
        """The voices of the working engines.

        Args:
            language: BCP 47 tag or its beginning; empty: all.
            engine: Name of an engine; empty: all.
            limit: Voices a page.
            cursor: Where the page before ended.
        """
        spoken = [
            voice
            for each in await self.context.registry.engines("speech", 5)
            for voice in cast(SpeechEngine, each).voices()
            if (not language or speaks(voice, language)) and engine in ("", voice.engine)
        ]
        start = int(self.context.cursors.position(cursor) or 0)
        end = start + limit
        items = [VoiceView.model_validate(voice, from_attributes=True) for voice in spoken[start:end]]
        return Page(items=items, next_cursor=self.context.cursors.sign(str(end)) if end < len(spoken) else None)

    async def audio(self, audio_id: str, call: Call) -> Artifact:
        """A generated file.

        Raises:
            NotFound: There is none of this id, or it is another's.
        """
        return await self.context.artifacts.get(AUDIO, audio_id, call.principal.sees)

    async def delete_audio(self, audio_id: str, call: Call) -> None:
        """Delete a generated file.

        Raises:
            NotFound: There is none of this id, or it is another's.
        """
        await self.context.artifacts.delete(AUDIO, audio_id, call.principal.sees)

    async def list_audio(self, call: Call, limit: int, cursor: str) -> Page[AudioView]:
        """The caller's generated files, newest first."""
        position = self.context.cursors.position(cursor)
        found, following = await self.context.artifacts.list(AUDIO, call.principal.sees, limit=limit, cursor=position)
        items = [
            AudioView(
                id=each.id,
                url=f"/api/tts/audio/{each.id}",
                media_type=each.media_type,
                size_bytes=each.size_bytes,
                created_at=each.created_at,
            )
            for each in found
        ]
        return Page(items=items, next_cursor=self.context.cursors.sign(following) if following else None)

    async def _candidates(self, request: SynthesisRequest, language: str, call: Call) -> list[Candidate]:
        """Who could speak; an engine that is just starting is waited for before anybody is told no."""
        registry = self.context.registry
        while True:
            engines = await registry.engines("speech", call.remaining_s(STARTING_S))
            try:
                return choose([cast(SpeechEngine, each) for each in engines], request, language)
            except (EngineUnknown, VoiceUnknown, LanguageNotSpoken):
                if await registry.another_started("speech", call.remaining_s(STARTING_S)):
                    continue
                registry.check_engine("speech", request.engine)
                raise

    async def _make(
        self,
        candidates: Sequence[Candidate],
        text: str,
        speed: float,
        audio_format: AudioFormat,
        quality: str,
        call: Call,
    ) -> Made:
        """Speak and finish once, by the first candidate that works."""
        at_most = self.config.max_synthesis_s

        async def ask(candidate: Candidate) -> tuple[Speech, Candidate]:
            timeout_s = call.remaining_s(at_most)
            speech = await candidate.engine.synthesize(text, candidate.voice.id, speed=speed, timeout_s=timeout_s)
            return speech, candidate

        asked = [(each.engine.name, partial(ask, each)) for each in candidates]
        served = await self.context.errors.first_that_works("synthesize", asked)
        speech, candidate = served.value
        arguments = {"rate_hz": speech.rate_hz, "format": audio_format, "text": text, "quality": quality}
        finished, content = await self.bench.call(
            "finish", arguments, speech.waveform, timeout_s=call.remaining_s(at_most)
        )
        verdict = finished["verdict"]
        if verdict == "ok" and quality == "full":
            verdict = await self._listen(finished["quality"], speech, candidate.voice, text, call)
        return Made(speech, candidate, served.degraded, verdict, finished["quality"], content)

    async def _keep(self, made: Made, audio_format: AudioFormat, call: Call) -> Artifact:
        voice = made.candidate.voice
        return await self.context.artifacts.put(
            AUDIO,
            made.content,
            owner=call.principal.id,
            media_type=MEDIA_TYPES[audio_format],
            suffix=SUFFIXES[audio_format],
            detail={"voice": voice.id, "engine": voice.engine, "quality": made.quality},
        )

    async def _listen(self, report: dict[str, Any], speech: Speech, voice: Voice, text: str, call: Call) -> str:
        """Add the round trip to a report; returns the verdict that follows from it."""
        trip = await self.listener.judge(speech, voice, text, call)
        if isinstance(trip, str):
            report["reasons"]["intelligibility"] = trip
            return "ok"
        report["reasons"].pop("intelligibility", None)
        report |= {"intelligibility": trip.score, "round_trip": trip.model_dump(mode="json")}
        return trip_verdict(trip)

    def _better_is_missing(self, chosen: Candidate, language: str, request: SynthesisRequest) -> bool:
        if request.engine != "auto" or request.voice != "auto":
            return False
        entries = [each for each in self.context.registry if each.kind == "speech"]
        primary = language.partition("-")[0].lower()
        return any(
            cast(SpeechEngine, each.part).rank < chosen.engine.rank
            and primary in cast(SpeechEngine, each.part).languages
            and each.part is not chosen.engine
            for each in entries
        )


def speakable(text: str, max_chars: int) -> str:
    """The text as it will be spoken.

    Raises:
        TextTooLong, SsmlRejected, TextNotSpeakable: It cannot be.
    """
    if len(text) > max_chars:
        raise TextTooLong(f"The text has {len(text)} characters; one request takes {max_chars}.")
    if looks_like_ssml(text):
        raise SsmlRejected
    text = normalize_text(text)
    if not is_speakable(text):
        raise TextNotSpeakable
    return text


def speaks(voice: Voice, language: str) -> bool:
    """Whether a voice's language is `language` or a variety of it: `en-US` is a variety of `en`."""
    spoken, wanted = voice.language.lower(), language.lower()
    return spoken == wanted or spoken.startswith(wanted + "-")


def choose(engines: Iterable[SpeechEngine], request: SynthesisRequest, language: str) -> list[Candidate]:
    """The engines to try and the voice of each, the most natural first.

    Raises:
        EngineUnknown, VoiceUnknown, LanguageNotSpoken: Nobody here speaks like that.
    """
    ranked = sorted(engines, key=lambda engine: engine.rank)
    if request.engine != "auto":
        names = [engine.name for engine in ranked]
        ranked = [engine for engine in ranked if engine.name == request.engine]
        if not ranked:
            raise EngineUnknown(f"The speech engines that work are {', '.join(names)}.")
    voices = [(engine, voice) for engine in ranked for voice in engine.voices()]
    if request.voice != "auto":
        named = [Candidate(engine, voice) for engine, voice in voices if voice.id == request.voice]
        if not named:
            near = difflib.get_close_matches(request.voice, [voice.id for _, voice in voices], n=3, cutoff=0.3)
            raise VoiceUnknown(f"Near voices: {', '.join(near)}." if near else "")
        return named
    best: dict[str, Candidate] = {}
    for engine, voice in voices:
        if speaks(voice, language):
            best.setdefault(engine.name, Candidate(engine, voice))
    if not best:
        spoken = sorted({voice.language.partition("-")[0] for _, voice in voices})
        raise LanguageNotSpoken(f"The languages spoken here are {', '.join(spoken)}.")
    return list(best.values())
