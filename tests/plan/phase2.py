"""Phase 2, services: what is there of speech."""

from __future__ import annotations

import ast
import math

import pytest
from tests.in_process import Running
from tests.plan.checklist import HOME, proves

from corsac.api.tts.endpoints import TTSServiceRouter
from corsac.core.base_router import BaseServiceRouter

SPEAK = "/api/tts/synthesize"


@proves("2.3.a")
async def speech_inherits_the_base_routers_operations(server: Running) -> None:
    assert issubclass(TTSServiceRouter, BaseServiceRouter)
    health = (await server.owner.get("/api/tts/health")).json()
    assert health["serviceId"] == "tts"
    assert "health" not in vars(TTSServiceRouter)


@proves("2.3.b")
async def speech_raises_and_the_core_answers(server: Running) -> None:
    tree = ast.parse((HOME / "src/corsac/api/tts/endpoints.py").read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
    await server.corsac.registry.engines("speech", 30)
    answer = await server.owner.post(SPEAK, json={"text": "Hello.", "voice": "nobody"})
    problem = answer.json()
    assert (answer.status_code, problem["reason"], problem["service"]) == (422, "VOICE_UNKNOWN", "tts")
    assert problem["operation"] == "synthesize"


@proves("2.3.e")
async def speech_logs_under_its_name(server: Running) -> None:
    await server.owner.patch("/api/tts/config", json={"values": {"max_text_chars": 4999}})
    await server.owner.post("/api/tts/config/reset")
    server.corsac.log_sink.flush()
    lines = server.corsac.log_store.query(service="tts", q="configuration changed")
    assert lines[0]["fields"] == ["max_text_chars"]
    sources = [file.read_text(encoding="utf-8") for file in (HOME / "src/corsac/api/tts").glob("*.py")]
    assert not [source for source in sources if "import logging" in source or "get_logger" in source]


@proves("2.3.+2")
async def every_result_comes_with_measures(server: Running) -> None:
    pytest.importorskip("espeakng_loader", reason="The extra espeak is not installed.")
    await server.corsac.registry.engines("speech", 30)
    answer = await server.owner.post(SPEAK, json={"text": "The quick brown fox jumps over the lazy dog."})
    quality = answer.json()["quality"]
    assert answer.status_code == 200, answer.text
    assert quality["clipped_ratio"] < 0.01
    assert -60 < quality["loudness_lufs"] < 0
    assert all(quality[name] is not None for name in ("clarity", "naturalness", "snr_db", "words_per_min"))
    none = await server.owner.post(SPEAK, json={"text": "Hello.", "quality": "off"})
    assert none.json()["quality"] is None


@proves("2.3.c")
async def uploads_go_to_disk_with_limits_and_are_gone_afterwards(server: Running) -> None:
    too_large = await server.owner.post("/api/tts/validate-audio", files={"file": ("a.wav", b"x" * (65 << 20))})
    assert (too_large.status_code, too_large.json()["reason"]) == (413, "BODY_TOO_LARGE")
    torn = await server.owner.post("/api/tts/validate-audio", files={"file": ("../a.wav", b"RIFF")})
    assert torn.status_code in (415, 422)
    assert not list(server.corsac.directory.uploads.iterdir())


@proves("2.3.+1")
async def audio_is_judged_by_its_content(server: Running) -> None:
    tone = b"".join(int(9000 * math.sin(n / 9)).to_bytes(2, "little", signed=True) for n in range(16_000))
    header = b"RIFF" + (36 + len(tone)).to_bytes(4, "little") + b"WAVEfmt " + bytes.fromhex("10000000 0100 0100")
    header += (16_000).to_bytes(4, "little") + (32_000).to_bytes(4, "little") + bytes.fromhex("0200 1000") + b"data"
    wav = header + len(tone).to_bytes(4, "little") + tone
    answer = await server.owner.post("/api/tts/validate-audio", files={"file": ("tone.wav", wav, "audio/wav")})
    found = answer.json()
    assert answer.status_code == 200, answer.text
    assert (found["rate_hz"], found["channels"], round(found["duration_s"], 3)) == (16_000, 1, 1.0)
    wrong = await server.owner.post("/api/tts/validate-audio", files={"file": ("tone.mp3", wav, "audio/mpeg")})
    assert (wrong.status_code, wrong.json()["reason"]) == (415, "AUDIO_TYPE_MISMATCH")
