"""Phase 2, services: what is there of speech."""

from __future__ import annotations

import ast

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
