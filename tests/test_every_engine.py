"""What every engine keeps to, ours and everybody's: checked on all that are installed and can start here."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import CapturingLogger

from corsac.core.exceptions import CorsacError, DeadlineExceeded, EngineUnavailable
from corsac.core.plugins import ENGINES, Plugin, discover
from corsac.core.service import EngineContext, Part, Refused
from corsac.engines.speech.base import Speech, SpeechEngine
from corsac.engines.transcription.base import TranscriptionEngine

PLUGINS = [each for each in discover() if each.view.group.startswith(ENGINES)]
BASES = {"speech": SpeechEngine, "transcription": TranscriptionEngine}
"""The protocol of each kind. A kind without one here has no contract yet, and fails."""
LONG = "All work and no play makes Jack a dull boy. " * 5000

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Models:
    """The pulled models: those in the folder that CORSAC_TEST_VOICE names."""

    asked: list[str] = field(default_factory=list)

    def folder(self, name: str) -> Path:
        self.asked.append(name)
        folder = Path(os.environ.get("CORSAC_TEST_VOICE", "-"))
        if not (folder / f"{name.rpartition(':')[2]}.onnx").is_file():
            raise Refused(f"The model {name} has not been pulled.", f"corsac models pull {name}")
        return folder


def made(plugin: Plugin) -> SpeechEngine:
    engine: SpeechEngine = plugin.loaded(EngineContext(plugin.view.name, CapturingLogger(), Models(), {}))
    return engine


def kind_of(plugin: Plugin) -> str:
    return plugin.view.group.removeprefix(ENGINES)


def ids(plugin: Plugin) -> str:
    return f"{kind_of(plugin)}:{plugin.view.name}"


every_engine = pytest.mark.parametrize("plugin", PLUGINS, ids=ids)


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[p for p in PLUGINS if kind_of(p) == "speech"], ids=ids
)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[SpeechEngine]:
    """A speech engine that has started."""
    engine = made(request.param)
    try:
        await engine.start()
    except Refused as refusal:
        pytest.skip(refusal.detail)
    yield engine
    await engine.stop()


async def speak(engine: SpeechEngine, text: str = "Hello.", timeout_s: float = 20) -> Speech:
    return await engine.synthesize(text, engine.voices()[0].id, timeout_s=timeout_s)


@every_engine
async def test_it_is_what_its_entry_point_says(plugin: Plugin) -> None:
    assert plugin.view.error is None
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,63}", plugin.view.name)
    assert issubclass(plugin.loaded, BASES[kind_of(plugin)])
    assert plugin.loaded.kind == kind_of(plugin)


async def used(engine: Part) -> None:
    """The smallest piece of work of an engine that offers nothing yet."""
    if isinstance(engine, TranscriptionEngine):
        assert not engine.languages() | engine.vocabulary()
        await engine.transcribe(bytes(64_000), timeout_s=5)
    elif isinstance(engine, SpeechEngine):
        assert not engine.voices()
        await engine.synthesize("Hello.", "any", timeout_s=5)


@every_engine
async def test_before_its_start_it_works_not_and_says_so(plugin: Plugin) -> None:
    engine: Part = made(plugin)
    with pytest.raises(EngineUnavailable):
        await used(engine)
    assert all(check.name.startswith(plugin.view.name) for check in await engine.check())


@every_engine
async def test_its_stop_does_no_harm_however_often(plugin: Plugin) -> None:
    engine = made(plugin)
    await engine.stop()
    await engine.stop()


@every_engine
async def test_what_refuses_to_start_says_what_to_do(plugin: Plugin) -> None:
    engine = made(plugin)
    refusal = None
    try:
        await engine.start()
    except Refused as error:
        refusal = error
    await engine.stop()
    assert refusal is None or (refusal.detail.endswith(".") and refusal.hint)


async def test_its_voices_are_its_own_and_told_apart(engine: SpeechEngine) -> None:
    voices = engine.voices()
    assert voices
    assert {voice.engine for voice in voices} == {engine.name}
    assert len({voice.id for voice in voices}) == len(voices)
    assert all(re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})*", voice.language) for voice in voices)
    assert {voice.gender for voice in voices} <= {"female", "male", None}
    primary = {voice.language.partition("-")[0] for voice in voices}
    assert engine.languages <= primary


async def test_it_speaks_finite_mono_samples_at_its_rate(engine: SpeechEngine) -> None:
    numpy = pytest.importorskip("numpy")
    speech = await speak(engine)
    wave = numpy.frombuffer(speech.waveform, "<f4")
    assert 8000 <= speech.rate_hz <= 48000
    assert numpy.isfinite(wave).all()
    assert 0.05 < abs(wave).max() <= 1
    assert 0.2 < speech.duration_s < 5


async def test_twice_the_text_takes_longer_and_a_faster_pace_shorter(engine: SpeechEngine) -> None:
    voice = engine.voices()[0].id
    once = await engine.synthesize("One two three four five.", voice, timeout_s=20)
    twice = await engine.synthesize("One two three four five. " * 2, voice, timeout_s=20)
    fast = await engine.synthesize("One two three four five.", voice, speed=2.0, timeout_s=20)
    assert fast.duration_s < once.duration_s < twice.duration_s


async def test_an_unknown_voice_is_an_error_of_ours_that_does_not_repeat_it(engine: SpeechEngine) -> None:
    with pytest.raises(CorsacError) as caught:
        await engine.synthesize("Hello.", "no-such-voice", timeout_s=5)
    assert 400 <= caught.value.status < 500
    assert "no-such-voice" not in caught.value.detail


async def test_a_cancel_is_felt_within_a_second_and_the_next_call_works(engine: SpeechEngine) -> None:
    work = asyncio.create_task(speak(engine, LONG))
    await asyncio.sleep(0.2)
    assert not work.done(), "The text was not long enough."
    began = time.monotonic()
    work.cancel()
    await asyncio.wait({work}, timeout=5)
    assert work.cancelled()
    assert time.monotonic() - began < 1
    assert (await speak(engine)).waveform


async def test_a_deadline_ends_the_work_and_the_next_call_works(engine: SpeechEngine) -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await speak(engine, LONG, timeout_s=0.3)
    assert time.monotonic() - began < 1.3
    assert (await speak(engine)).waveform


async def test_a_crash_is_an_error_of_ours_and_the_next_call_works(engine: SpeechEngine) -> None:
    started = [call for call in engine.context.logger.calls if call.args == ("worker started",)]  # type: ignore[attr-defined]
    if not started:
        pytest.skip(f"{engine.name} has no process of its own.")
    work = asyncio.create_task(speak(engine, LONG))
    await asyncio.sleep(0.2)
    os.kill(started[-1].kwargs["pid"], signal.SIGKILL)
    with pytest.raises(CorsacError) as caught:
        await work
    assert (caught.value.status, caught.value.retry) == (503, "retry")
    assert (await speak(engine)).waveform


async def test_its_check_takes_two_seconds_at_most_and_passes_after_a_success(engine: SpeechEngine) -> None:
    await speak(engine)
    began = time.monotonic()
    checks = await engine.check()
    assert time.monotonic() - began < 2
    assert [check.status for check in checks] == ["pass"] * len(checks)
    assert checks


async def test_it_can_be_started_again(engine: SpeechEngine) -> None:
    await engine.stop()
    await engine.stop()
    assert not engine.voices()
    await engine.start()
    assert (await speak(engine)).waveform
