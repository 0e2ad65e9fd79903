import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import pytest_asyncio

from corsac.core.service import Broken, Refused
from corsac.engines.speech.base import Speech
from corsac.engines.speech.piper import PiperEngine

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL, VOICE = "piper:en_US-joe-medium", "en_US-joe-medium"


def samples(speech: Speech) -> Any:
    return numpy.frombuffer(speech.waveform, "<f4")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(engine_context: Callable[..., Any]) -> AsyncIterator[PiperEngine]:
    pytest.importorskip("piper", reason="The extra piper is not installed.")
    folder = Path(os.environ.get("CORSAC_TEST_VOICE", "-"))
    if not (folder / f"{VOICE}.onnx").is_file():
        pytest.skip(f"CORSAC_TEST_VOICE does not name a folder with {VOICE}.onnx.")
    engine = PiperEngine(engine_context("piper", {MODEL: folder}))
    await engine.start()
    yield engine
    await engine.stop()


async def test_several_sentences_become_one_waveform(engine: PiperEngine) -> None:
    one = await engine.synthesize("Hello there.", VOICE, timeout_s=20)
    two = await engine.synthesize("Hello there. How are you today?", VOICE, timeout_s=20)
    assert one.rate_hz == 22050
    assert two.duration_s > one.duration_s + 0.5
    assert numpy.count_nonzero(abs(samples(two)) > 0.02) / two.rate_hz > 0.5
    assert abs(samples(two)).max() <= 1


async def test_the_voice_is_described_by_its_file(engine: PiperEngine) -> None:
    [voice] = engine.voices()
    assert (voice.id, voice.engine, voice.language, voice.name) == (
        VOICE,
        "piper",
        "en-US",
        "joe (medium quality)",
    )


@pytest.mark.parametrize(("speed", "ratio"), [(2.0, 0.62), (0.5, 1.8)])
async def test_speed_changes_the_duration(engine: PiperEngine, speed: float, ratio: float) -> None:
    text = "The quick brown fox jumps over the lazy dog, and then it does so again."
    plain = await engine.synthesize(text, VOICE, timeout_s=20)
    changed = await engine.synthesize(text, VOICE, speed=speed, timeout_s=20)
    assert changed.duration_s / plain.duration_s == pytest.approx(ratio, rel=0.15)


async def test_brackets_are_text_and_not_phonemes(engine: PiperEngine) -> None:
    bracketed = await engine.synthesize("[[a long line of words]]", VOICE, timeout_s=20)
    plain = await engine.synthesize("a long line of words", VOICE, timeout_s=20)
    assert bracketed.duration_s == pytest.approx(plain.duration_s, rel=0.3)


async def test_two_fresh_engines_say_the_same(engine: PiperEngine) -> None:
    durations_s = set()
    for fresh in (PiperEngine(engine.context), PiperEngine(engine.context)):
        await fresh.start()
        durations_s.add((await fresh.synthesize("Hello there.", VOICE, timeout_s=20)).duration_s)
        await fresh.stop()
    assert len(durations_s) == 1


async def test_a_check_passes_on_a_success(engine: PiperEngine) -> None:
    pytest.importorskip("corsac.core.health_checks")
    await engine.synthesize("Hello there.", VOICE, timeout_s=20)
    [check] = await engine.check()
    assert (check.name, check.status, check.unit) == ("piper:synthesis", "pass", "s")


async def test_without_the_voice_the_start_is_refused_with_the_command(
    engine_context: Callable[..., Any],
) -> None:
    engine = PiperEngine(engine_context("piper"))
    with pytest.raises(Refused) as caught:
        await engine.start()
    assert caught.value.hint == f"corsac models pull {MODEL}"
    await engine.stop()


async def test_a_damaged_voice_breaks_the_start_without_harm(
    engine_context: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("piper", reason="The extra piper is not installed.")
    (tmp_path / f"{VOICE}.onnx").write_bytes(b"no model")
    (tmp_path / f"{VOICE}.onnx.json").write_text("{}")
    engine = PiperEngine(engine_context("piper", {MODEL: tmp_path}))
    with pytest.raises(Broken) as caught:
        await engine.start()
    assert str(tmp_path) not in caught.value.detail
    await engine.stop()
