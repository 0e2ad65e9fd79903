import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy
import pytest

from corsac.core.exceptions import DeadlineExceeded, EngineUnavailable, InvalidChoice, WorkerCrashed
from corsac.core.service import Broken, NotReady, Refused
from corsac.engines.speech.base import Speech
from corsac.engines.speech.espeak import EspeakEngine

pytest.importorskip("espeakng_loader", reason="The extra espeak is not installed.")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Half:
    """Speakers that cannot start, for the engine's other half."""

    class WithoutLibrary(EspeakEngine):
        speaker = "no_such_library:Speaker"

    class WithoutClass(EspeakEngine):
        speaker = "corsac.engines.speech.espeak:NoSuchSpeaker"

    class Crashing(EspeakEngine):
        speaker = "os:abort"


def samples(speech: Speech) -> Any:
    return numpy.frombuffer(speech.waveform, "<f4")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def engine(engine_context: Callable[..., Any], clock: Clock) -> AsyncIterator[EspeakEngine]:
    engine = EspeakEngine(engine_context("espeak"), clock)
    await engine.start()
    yield engine
    await engine.stop()


def worker_pid(engine: EspeakEngine) -> int:
    started = [call.kwargs for call in engine.context.logger.calls if call.args == ("worker started",)]
    return int(started[-1]["pid"])


async def test_hello_is_heard(engine: EspeakEngine) -> None:
    speech = await engine.synthesize("Hello", "en-us", timeout_s=10)
    wave = samples(speech)
    assert speech.rate_hz == 22050
    assert numpy.count_nonzero(abs(wave) > 0.02) / speech.rate_hz > 0.2
    assert 0.1 < abs(wave).max() <= 1


@pytest.mark.parametrize(
    ("voice", "text"), [("de", "Guten Tag, schöne Grüße"), ("cmn", "你好"), ("ar", "مرحبا"), ("hi", "नमस्ते")]
)
async def test_other_languages_are_spoken_in_their_scripts(engine: EspeakEngine, voice: str, text: str) -> None:
    assert (await engine.synthesize(text, voice, timeout_s=10)).duration_s > 0.4


async def test_voices_have_tags_names_and_genders(engine: EspeakEngine) -> None:
    voices = {voice.id: voice for voice in engine.voices()}
    assert (voices["en-us"].language, voices["en-us"].gender) == ("en-US", "male")
    assert voices["en"].language == "en-GB"
    assert voices["cmn"].language == "zh"
    assert len({voice.language.partition("-")[0] for voice in engine.voices()}) > 100
    assert {voice.engine for voice in engine.voices()} == {"espeak"}


async def test_every_voice_that_is_offered_makes_a_sound(engine: EspeakEngine) -> None:
    silent = []
    for voice in engine.voices():
        wave = samples(await engine.synthesize("mama 7", voice.id, timeout_s=10))
        if not (abs(wave) > 0.02).any():
            silent.append(voice.id)
    assert not silent


@pytest.mark.parametrize(("speed", "ratio"), [(2.0, 0.5), (0.5, 2.0)])
async def test_speed_changes_the_duration(engine: EspeakEngine, speed: float, ratio: float) -> None:
    text = "The quick brown fox jumps over the lazy dog, twice."
    plain = await engine.synthesize(text, "en-us", timeout_s=10)
    changed = await engine.synthesize(text, "en-us", speed=speed, timeout_s=10)
    assert changed.duration_s / plain.duration_s == pytest.approx(ratio, rel=0.15)


async def test_markup_is_read_out_and_a_nul_does_not_end_the_text(engine: EspeakEngine) -> None:
    async def duration_s(text: str) -> float:
        return (await engine.synthesize(text, "en-us", timeout_s=10)).duration_s

    assert await duration_s('one <break time="3s"/>') > await duration_s("one break time 3s")
    assert await duration_s("one\0two three four") > await duration_s("one") + 0.5


async def test_an_unknown_voice_is_refused_without_repeating_it(engine: EspeakEngine) -> None:
    with pytest.raises(InvalidChoice) as caught:
        await engine.synthesize("Hello", "../../klingon", timeout_s=10)
    assert "klingon" not in caught.value.detail


async def test_after_a_crash_the_next_call_speaks(engine: EspeakEngine) -> None:
    asyncio.get_running_loop().call_later(0.1, os.kill, worker_pid(engine), signal.SIGSEGV)
    with pytest.raises(WorkerCrashed):
        await engine.synthesize("All work and no play. " * 20000, "en-us", timeout_s=10)
    assert (await engine.synthesize("Hello", "en-us", timeout_s=10)).duration_s > 0.2


async def test_a_deadline_stops_a_long_text(engine: EspeakEngine) -> None:
    with pytest.raises(DeadlineExceeded):
        await engine.synthesize("All work and no play. " * 20000, "en-us", timeout_s=0.1)
    assert (await engine.synthesize("Hello", "en-us", timeout_s=10)).duration_s > 0.2


async def test_a_check_tells_the_last_success_or_tries_one(engine: EspeakEngine, clock: Clock) -> None:
    pytest.importorskip("corsac.core.health_checks")
    await engine.synthesize("Hello", "en-us", timeout_s=10)
    clock.now_s += 30
    [check] = await engine.check()
    assert (check.name, check.status, check.observed_value, check.unit) == (
        "espeak:synthesis",
        "pass",
        30,
        "s",
    )
    clock.now_s += 60
    [check] = await engine.check()
    assert (check.status, check.observed_value) == ("pass", 0)
    clock.now_s += 30
    assert (await engine.check())[0].observed_value == 30


async def test_a_check_waits_for_no_one_and_starts_nothing(engine: EspeakEngine, clock: Clock) -> None:
    pytest.importorskip("corsac.core.health_checks")
    clock.now_s += 61
    work = asyncio.create_task(engine.synthesize("All work and no play. " * 20000, "en-us", timeout_s=10))
    await asyncio.sleep(0.05)
    assert [check.status for check in await engine.check()] == ["warn"]
    work.cancel()
    await asyncio.wait({work})
    [check] = await engine.check()
    assert (check.status, check.output) == ("pass", "Unloaded; the next request loads it.")


async def test_an_engine_that_was_not_started_says_so(engine_context: Callable[..., Any]) -> None:
    engine = EspeakEngine(engine_context("espeak"))
    assert engine.voices() == ()
    with pytest.raises(EngineUnavailable):
        await engine.synthesize("Hello", "en-us", timeout_s=10)
    pytest.importorskip("corsac.core.health_checks")
    assert [check.output for check in await engine.check()] == ["Unloaded."]
    await engine.stop()


@pytest.mark.parametrize(
    ("half", "failure", "hint"),
    [
        (Half.WithoutLibrary, Refused, "pip install 'corsac[espeak]'"),
        (Half.WithoutClass, Broken, None),
        (Half.Crashing, NotReady, None),
    ],
)
async def test_a_start_that_fails_says_who_has_to_act(
    engine_context: Callable[..., Any], half: type[EspeakEngine], failure: type[Exception], hint: str | None
) -> None:
    engine = half(engine_context("espeak"))
    with pytest.raises(failure) as caught:
        await engine.start()
    assert caught.value.hint == hint
    await engine.stop()


async def test_an_engine_can_be_started_again(engine: EspeakEngine) -> None:
    await engine.stop()
    assert engine.voices() == ()
    await engine.start()
    assert (await engine.synthesize("Hello", "en-us", timeout_s=10)).duration_s > 0.2
