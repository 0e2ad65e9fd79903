"""Uploads and round trips through a whole server; the transcription engine is a double."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import ClassVar

import httpx
import numpy as np
import pytest
import pytest_asyncio
from tests.bad_audio import INVALID, NOT_AUDIO, OVERSIZED, TOO_LONG, wav
from tests.in_process import Running, running

from corsac.api.tts.audio import encode
from corsac.core.exceptions import InvalidChoice
from corsac.core.health_checks import Check
from corsac.engines.transcription.base import RATE_HZ, Segment, Transcript, TranscriptionEngine

pytestmark = pytest.mark.asyncio(loop_scope="module")
TEXT = "The river stayed within its banks, although it had rained all night."
TRANSCRIBE, VALIDATE, SPEAK = "/api/tts/transcribe", "/api/tts/validate-audio", "/api/tts/synthesize"


class Double(TranscriptionEngine):
    """Hears what it was told to hear, and fails where that is None."""

    rank: ClassVar[int] = 1
    hears: ClassVar[str | None] = TEXT
    waveforms: ClassVar[list[bytes]] = []

    def languages(self) -> AbstractSet[str]:
        return frozenset({"en"})

    async def transcribe(self, waveform: bytes, language: str | None = None, *, timeout_s: float) -> Transcript:
        self.waveforms.append(waveform)
        if self.hears is None:
            raise InvalidChoice("Nothing can be heard.")
        seconds = len(waveform) / 4 / RATE_HZ
        return Transcript(self.hears, language or "en", (Segment(self.hears, 0.0, seconds),), seconds)

    async def check(self) -> Sequence[Check]:
        return []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    engines = [("transcription", "double", Double)]
    async with running(tmp_path_factory.mktemp("data"), engines=engines) as server:
        yield server


@pytest.fixture
def hears(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(Double, "waveforms", [])
    return monkeypatch


def tone(seconds: float = 1.0, rate_hz: int = 44_100, audio_format: str = "flac") -> bytes:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate_hz)) / rate_hz)
    return encode(wave.astype(np.float32), rate_hz, audio_format).content  # type: ignore[arg-type]


async def upload(server: Running, path: str, content: bytes, name: str = "a", **fields: str) -> httpx.Response:
    files = {"file": (name, content, "application/octet-stream")}
    answer = await server.owner.post(path, files=files, data=fields)
    assert not list(server.corsac.directory.uploads.iterdir()), "An upload was left behind."
    return answer


async def spoken(server: Running, text: str = TEXT, **fields: str) -> httpx.Response:
    pytest.importorskip("espeakng_loader", reason="The extra espeak is not installed.")
    await server.corsac.registry.engines("speech", 30)
    return await server.owner.post(SPEAK, json={"text": text, "quality": "full", "engine": "espeak", **fields})


@pytest.mark.parametrize("audio_format", ["wav", "flac", "mp3", "ogg", "opus"])
async def test_a_file_is_transcribed_from_sixteen_kilohertz_mono(
    server: Running, hears: pytest.MonkeyPatch, audio_format: str
) -> None:
    answer = await upload(server, TRANSCRIBE, tone(audio_format=audio_format), f"a.{audio_format}")
    assert answer.status_code == 200, answer.text
    result = answer.json()
    assert (result["text"], result["format"], result["served_by"]) == (TEXT, audio_format, "double")
    assert (result["language"], result["language_source"]) == ("en", "assumed")
    assert result["segments"] == [{"text": TEXT, "start_s": 0.0, "end_s": pytest.approx(1, abs=0.1)}]
    heard = np.frombuffer(Double.waveforms[-1], "<f4")
    assert len(heard) / RATE_HZ == pytest.approx(1, abs=0.1)
    assert abs(np.fft.rfft(heard)).argmax() * RATE_HZ / len(heard) == pytest.approx(440, abs=3)


async def test_the_language_that_is_asked_for_is_the_one_that_is_answered(server: Running) -> None:
    answer = await upload(server, TRANSCRIBE, tone(), language="en-GB", engine="double")
    assert (answer.json()["language"], answer.json()["language_source"]) == ("en", "requested")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"language": "fr"}, "LANGUAGE_NOT_TRANSCRIBED"),
        ({"language": "!"}, "INVALID"),
        ({"engine": "nobody"}, "TRANSCRIBER_UNKNOWN"),
        ({"engin": "double"}, "UNKNOWN_FIELD"),
    ],
)
async def test_a_wrong_field_is_refused(server: Running, fields: dict[str, str], reason: str) -> None:
    answer = await upload(server, TRANSCRIBE, tone(), **fields)
    assert (answer.status_code, answer.json()["reason"]) == (422, reason)


async def test_a_form_without_a_file_says_which_part_is_missing(server: Running) -> None:
    answer = await server.owner.post(TRANSCRIBE, files={"other": ("a", b"a")})
    assert (answer.status_code, answer.json()["reason"]) == (422, "FIELD_REQUIRED")
    assert answer.json()["errors"][0]["pointer"] == "/file"


@pytest.mark.parametrize("path", [TRANSCRIBE, VALIDATE])
@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (INVALID["T06-header-only"][0], 422, "AUDIO_INVALID"),
        (INVALID["T06-255-channels"][0], 422, "AUDIO_INVALID"),
        (wav(samples=bytes(20))[:44] + b"x" * 20, 200, ""),
        (tone()[:2000] + bytes(9000), 422, "AUDIO_INVALID"),
        (TOO_LONG["T08-flac"], 413, "AUDIO_TOO_LONG"),
        (NOT_AUDIO["T09-hls"], 415, "AUDIO_TYPE_MISMATCH"),
        (OVERSIZED["T11-id3-256-mb"], 413, "METADATA_TOO_LARGE"),
    ],
    ids=["T06-header-only", "T06-channels", "a few samples", "torn", "T08", "T09", "T11"],
)
async def test_bad_audio_gets_its_clear_answer(
    server: Running, path: str, content: bytes, status: int, reason: str
) -> None:
    answer = await upload(server, path, content, "song.bin")
    assert (answer.status_code, answer.json().get("reason", "")) == (status, reason), answer.text


async def test_audio_that_is_longer_than_its_header_says_is_stopped_at_the_limit(server: Running) -> None:
    await server.owner.patch("/api/tts/config", json={"values": {"max_audio_s": 1}})
    try:
        content = bytearray(tone(3.0, 8000))
        content[18 + 4 : 18 + 8] = bytes(4)  # STREAMINFO's count of samples: unknown
        answer = await upload(server, TRANSCRIBE, bytes(content))
    finally:
        await server.owner.post("/api/tts/config/reset")
    assert (answer.status_code, answer.json()["reason"]) == (413, "AUDIO_TOO_LONG")
    assert (await upload(server, VALIDATE, bytes(content))).json()["duration_s"] == 3.0


@pytest.mark.parametrize("name", ["../../x.flac", "/etc/x", "a\0b", "n" * 300 + ".flac", "; $(x)", "-rf"])
async def test_the_clients_name_is_no_part_of_any_path(server: Running, name: str) -> None:
    before = sorted(server.corsac.directory.root.rglob("*"))
    answer = await upload(server, VALIDATE, tone(), name)
    assert answer.status_code == 200, answer.text
    assert {path for path in server.corsac.directory.root.rglob("*") if path not in before} == set()


async def test_validation_tells_what_the_file_is(server: Running) -> None:
    result = (await upload(server, VALIDATE, tone(4.0, 22_050), "a.flac")).json()
    assert (result["format"], result["media_type"], result["rate_hz"], result["channels"]) == (
        "flac",
        "audio/flac",
        22_050,
        1,
    )
    assert result["duration_s"] == result["measured_s"] == 4.0
    assert result["quality"]["pitch_hz"] == pytest.approx(440, rel=0.01)


@pytest.mark.parametrize(
    ("waveform", "says"),
    [
        (tone(0.5), "0.5 s long"),
        (encode(np.zeros(80_000, np.float32), 16_000, "wav").content, "no sound"),
        (encode(np.full(80_000, 0.5, np.float32), 16_000, "wav").content, "no sound"),
        (
            encode(np.clip(4 * np.sin(np.arange(80_000) / 9), -1, 1).astype(np.float32), 16_000, "wav").content,
            "clipped",
        ),
    ],
    ids=["T10-short", "T10-silent", "T10-dc", "T10-clipped"],
)
async def test_a_sample_for_cloning_is_refused_with_what_was_measured(
    server: Running, waveform: bytes, says: str
) -> None:
    answer = await upload(server, VALIDATE, waveform, purpose="clone")
    assert (answer.status_code, answer.json()["reason"]) == (422, "SAMPLE_UNUSABLE")
    assert says in answer.json()["detail"]
    assert (await upload(server, VALIDATE, waveform)).status_code == 200


async def test_full_quality_brings_the_round_trip_by_another_engine(server: Running, hears: pytest.MonkeyPatch) -> None:
    hears.setattr(Double, "hears", TEXT.replace("rained", "reigned"))
    quality = (await spoken(server)).json()["quality"]
    trip = quality["round_trip"]
    assert (trip["judge"], trip["transcript"]) == ("double", Double.hears)
    assert quality["intelligibility"] == trip["score"] == pytest.approx(11 / 12, abs=0.001)
    assert trip["low"] < trip["score"] < trip["high"]
    assert "intelligibility" not in quality["reasons"]
    assert 2 < len(Double.waveforms[-1]) / 4 / RATE_HZ < 8


async def test_what_is_heard_decides_and_is_no_constant(server: Running, hears: pytest.MonkeyPatch) -> None:
    scores = []
    for heard in (TEXT, TEXT.replace("river", "liver"), TEXT.replace("river", "liver").replace("night", "right")):
        hears.setattr(Double, "hears", heard)
        scores.append((await spoken(server)).json()["quality"]["intelligibility"])
    assert scores == sorted(set(scores), reverse=True)


@pytest.mark.parametrize(
    ("heard", "verdict"),
    [("", "cut"), ("The river stayed", "cut"), ("big bappers on top of a very large old camera", "unintelligible")],
)
async def test_speech_that_is_not_understood_is_made_again_once_and_then_refused(
    server: Running, hears: pytest.MonkeyPatch, heard: str, verdict: str
) -> None:
    hears.setattr(Double, "hears", heard)
    answer = await spoken(server)
    assert (answer.status_code, answer.json()["reason"]) == (502, "AUDIO_UNUSABLE")
    assert verdict in answer.json()["detail"]
    assert len(Double.waveforms) == 2


@pytest.mark.parametrize(
    ("fields", "heard", "says"),
    [({"language": "de"}, TEXT, "Only English"), ({}, None, "Nothing can be heard.")],
)
async def test_without_a_round_trip_the_speech_is_there_and_the_reason_too(
    server: Running, hears: pytest.MonkeyPatch, fields: dict[str, str], heard: str | None, says: str
) -> None:
    hears.setattr(Double, "hears", heard)
    answer = await spoken(server, **fields)
    assert answer.status_code == 200, answer.text
    quality = answer.json()["quality"]
    assert (quality["intelligibility"], quality["round_trip"]) == (None, None)
    assert says in quality["reasons"]["intelligibility"]


async def test_without_a_transcription_engine_both_say_so(tmp_path: Path) -> None:
    async with running(tmp_path) as bare:
        answer = await upload(bare, TRANSCRIBE, tone())
        assert (answer.status_code, answer.json()["reason"]) == (503, "ENGINE_UNAVAILABLE")
        quality = (await spoken(bare)).json()["quality"]
        assert quality["intelligibility"] is None
        assert "transcription" in quality["reasons"]["intelligibility"]


@pytest.mark.parametrize("content", NOT_AUDIO.values(), ids=NOT_AUDIO)
async def test_a_playlist_opens_no_file_and_no_connection(tmp_path: Path, content: bytes) -> None:
    upload_path = tmp_path / "upload-1"
    upload_path.write_bytes(content)
    program = f"""
import sys
from pathlib import Path
from corsac.api.tts.upload import *
from corsac.core.http.multipart import UploadedFile
upload = UploadedFile(Path({str(upload_path)!r}), "song.mp3", "audio/mpeg", {len(content)})
seen = []
sys.addaudithook(lambda event, args: seen.append((event, str(args[0]))) if event in
    ("open", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.posix_spawn") else None)
try:
    check_upload(upload, Limits(600))
except AudioTypeMismatch:
    print([each for each in seen if each != ("open", str(upload.path))])
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert ran.stdout == "[]\n", ran.stderr
