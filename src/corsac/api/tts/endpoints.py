"""The HTTP face of speech."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request
from starlette.responses import FileResponse, Response

from corsac.api.tts.config import TTSConfigModel
from corsac.api.tts.formats import FORMATS
from corsac.api.tts.listening import LISTENING_ERRORS
from corsac.api.tts.schemas import (
    AudioValidation,
    AudioView,
    SynthesisRequest,
    SynthesisResult,
    TranscriptionRequest,
    TranscriptionResult,
    ValidationRequest,
    VoiceView,
)
from corsac.api.tts.service import (
    AudioUnusable,
    EngineUnknown,
    LanguageNotSpoken,
    SsmlRejected,
    TextNotSpeakable,
    TextTooLong,
    TTSServiceManager,
    VoiceUnknown,
)
from corsac.api.tts.upload import MAX_UPLOAD_BYTES, UPLOAD_ERRORS, SampleUnusable
from corsac.core.base_router import BaseServiceRouter, delete, get, post
from corsac.core.call import Call
from corsac.core.config_mixin import ConfigEndpointMixin
from corsac.core.exceptions import (
    CircuitOpen,
    EngineUnavailable,
    FieldRequired,
    Invalid,
    InvalidChoice,
    InvalidCursor,
    InvalidFormat,
    InvalidId,
    OutOfRange,
    StorageFull,
    TooManyFields,
    WorkerCrashed,
    WorkerOutOfMemory,
    WrongType,
)
from corsac.core.http.download import RangeNotSatisfiable, download
from corsac.core.paging import Page, PageCursor, PageLimit
from corsac.core.router_mixins import FileUploadMixin, RateLimitingMixin
from corsac.core.service import ServiceSpec
from corsac.core.validation import refused_as

AudioId = Annotated[str, Path(pattern=r"^[a-z0-9_-]{1,64}$"), refused_as(InvalidId)]
FORM_BYTES = 256 * 1024  # boundaries and fields around the file
FORM_ERRORS = (FieldRequired, TooManyFields, WrongType, OutOfRange, InvalidChoice, Invalid)
ENGINE_ERRORS = (EngineUnavailable, WorkerCrashed, WorkerOutOfMemory, CircuitOpen)
REQUEST_ERRORS = (
    TextNotSpeakable,
    TextTooLong,
    SsmlRejected,
    VoiceUnknown,
    LanguageNotSpoken,
    EngineUnknown,
    InvalidFormat,
    AudioUnusable,
    StorageFull,
)


class TTSServiceRouter(ConfigEndpointMixin, RateLimitingMixin, FileUploadMixin, BaseServiceRouter[TTSServiceManager]):
    """Speech from text, with measured quality."""

    service_name = "tts"
    config_model = TTSConfigModel

    @post(
        "/synthesize",
        per_minute=60,
        raises=REQUEST_ERRORS + ENGINE_ERRORS,
        produces=("application/json", *FORMATS),
        idempotent_key=True,
    )
    async def synthesize(self, body: SynthesisRequest, call: Call) -> SynthesisResult | FileResponse:
        """Speak one text.

        The answer describes the audio and where it is. With an audio type in `Accept` it is the audio itself, in that
        format unless the body names one.
        """
        wanted = FORMATS.get(call.media_type)
        if wanted and body.format is None:
            body = body.model_copy(update={"format": wanted})
        result = await self.manager.synthesize(body, call)
        if wanted:
            artifact = await self.manager.audio(result.id, call)
            return download(artifact, location=result.url, served_by=result.served_by)
        return result

    @post(
        "/transcribe",
        per_minute=30,
        upload=True,
        timeout_s=300,
        max_body_bytes=MAX_UPLOAD_BYTES + FORM_BYTES,
        raises=(*UPLOAD_ERRORS, *LISTENING_ERRORS, *ENGINE_ERRORS, *FORM_ERRORS),
    )
    async def transcribe(self, request: Request, call: Call) -> TranscriptionResult:
        """Write down what is said in a file: multipart, `file` and, if wanted, `language` and `engine`."""
        async with self.receive_form(request, max_file_bytes=MAX_UPLOAD_BYTES) as form:
            fields = form.validated(TranscriptionRequest)
            return await self.manager.listener.transcribe(form.file("file"), fields, call)

    @post(
        "/validate-audio",
        per_minute=60,
        upload=True,
        max_body_bytes=MAX_UPLOAD_BYTES + FORM_BYTES,
        raises=(*UPLOAD_ERRORS, SampleUnusable, *ENGINE_ERRORS, *FORM_ERRORS),
    )
    async def validate_audio(self, request: Request, call: Call) -> AudioValidation:
        """Decode a file to its end and measure it: multipart, `file` and, if wanted, `purpose`."""
        async with self.receive_form(request, max_file_bytes=MAX_UPLOAD_BYTES) as form:
            fields = form.validated(ValidationRequest)
            return await self.manager.listener.validate(form.file("file"), fields, call)

    @get("/voices", raises=(EngineUnavailable, InvalidCursor))
    async def voices(
        self,
        language: Annotated[str, Query(max_length=35, description="BCP 47 tag or its beginning.")] = "",
        engine: Annotated[str, Query(max_length=64)] = "",
        limit: PageLimit = 200,
        cursor: PageCursor = "",
    ) -> Page[VoiceView]:
        """The voices that can be spoken now."""
        return await self.manager.voices(language, engine, limit, cursor)

    @get("/audio", raises=(InvalidCursor,))
    async def list_audio(self, call: Call, limit: PageLimit = 50, cursor: PageCursor = "") -> Page[AudioView]:
        """The caller's generated audio, newest first."""
        return await self.manager.list_audio(call, limit, cursor)

    @get("/audio/{audio_id}", produces=("audio/*",), raises=(RangeNotSatisfiable,))
    async def audio(self, audio_id: AudioId, call: Call) -> FileResponse:
        """A generated audio file."""
        return download(await self.manager.audio(audio_id, call))

    @delete("/audio/{audio_id}", status=204)
    async def delete_audio(self, audio_id: AudioId, call: Call) -> Response:
        """Delete a generated audio file."""
        await self.manager.delete_audio(audio_id, call)
        return Response(status_code=204)


SERVICE = ServiceSpec("tts", TTSServiceManager, TTSServiceRouter, TTSConfigModel, requires=("speech",))
