"""Whisper with its real model: in the folder that CORSAC_TEST_WHISPER names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from structlog.testing import CapturingLogger

from corsac.core.exceptions import DeadlineExceeded, EngineUnavailable, InvalidChoice
from corsac.core.service import Broken, EngineContext, Refused
from corsac.engines.speech.espeak import EspeakEngine
from corsac.engines.transcription.faster_whisper import MODEL, FasterWhisperEngine, whole_words

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Folders:
    """One pulled model, or none."""

    def __init__(self, folder: Path | None) -> None:
        self.pulled = folder

    def folder(self, name: str) -> Path:
        if self.pulled is None:
            raise Refused(f"The model {name} has not been pulled.", f"corsac models pull {name}")
        return self.pulled


def made(folder: Path | None, monotonic: Callable[[], float] | None = None) -> FasterWhisperEngine:
    context = EngineContext("faster_whisper", CapturingLogger(), Folders(folder), {})
    return FasterWhisperEngine(context, monotonic) if monotonic else FasterWhisperEngine(context)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[FasterWhisperEngine]:
    pytest.importorskip("faster_whisper", reason="The extra transcribe is not installed.")
    folder = Path(os.environ.get("CORSAC_TEST_WHISPER", "-"))
    if not (folder / "model.bin").is_file():
        pytest.skip("CORSAC_TEST_WHISPER does not name a folder with model.bin.")
    engine = made(folder)
    await engine.start()
    yield engine
    await engine.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def speech() -> np.ndarray:
    """Two sentences by espeak at 16 kHz with a pause between them: (samples,) float32."""
    pytest.importorskip("espeakng_loader", reason="The extra espeak is not installed.")
    from corsac.api.tts.audio import resample

    speaker = EspeakEngine(EngineContext("espeak", CapturingLogger(), Folders(None), {}))
    await speaker.start()
    parts: list[Any] = []
    for text in ("The museum moved to a larger building near the park.", "How many boxes can you carry on your own?"):
        spoken = await speaker.synthesize(text, "en-us", timeout_s=20)
        parts += [resample(np.frombuffer(spoken.waveform, "<f4"), spoken.rate_hz, 16_000), np.zeros(24_000, "<f4")]
    await speaker.stop()
    return np.concatenate(parts).astype("<f4")


async def test_speech_becomes_text_with_times(engine: FasterWhisperEngine, speech: np.ndarray) -> None:
    heard = await engine.transcribe(speech.tobytes(), timeout_s=60)
    assert "museum moved to a larger building" in heard.text
    assert "boxes" in heard.text
    assert heard.language == "en"
    assert heard.duration_s == len(speech) / 16_000
    times = [time_s for each in heard.segments for time_s in (each.start_s, each.end_s)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= heard.duration_s
    assert " ".join(each.text for each in heard.segments) == heard.text


@pytest.mark.parametrize("kind", ["silence", "nothing", "ten samples", "noise"])
async def test_where_nobody_speaks_nothing_is_heard(engine: FasterWhisperEngine, kind: str) -> None:
    noise = (np.random.default_rng(0).standard_normal(48_000) * 0.1).astype("<f4")
    waveform = {"silence": noise * 0, "nothing": noise[:0], "ten samples": noise[:10], "noise": noise}[kind]
    heard = await engine.transcribe(waveform.tobytes(), "en", timeout_s=60)
    assert (heard.text, heard.segments) == ("", ())


async def test_the_same_waveform_gives_the_same_text_also_where_decoding_fails(
    engine: FasterWhisperEngine, speech: np.ndarray
) -> None:
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype("<f4") * speech.std()
    noisy = (speech + noise).astype("<f4").tobytes()
    texts = [(await engine.transcribe(noisy, "en", timeout_s=120)).text for _ in range(2)]
    assert texts[0] == texts[1]


async def test_long_audio_is_heard_whole_with_its_own_times_and_within_the_memory(
    engine: FasterWhisperEngine, speech: np.ndarray
) -> None:
    pause = np.zeros(140 * 16_000, "<f4")
    heard = await engine.transcribe(np.concatenate([speech, pause, speech]).tobytes(), timeout_s=120)
    assert heard.text.count("museum") == heard.text.count("boxes") == 2
    late = [each for each in heard.segments if each.start_s > 100]
    begins_s = (len(speech) + len(pause)) / 16_000
    assert begins_s - 1 < late[0].start_s < begins_s + 3


async def test_it_knows_its_languages_and_which_words_are_rare(engine: FasterWhisperEngine) -> None:
    assert engine.languages() == {"en"}
    assert {"river", "boxes", "thirty", "a"} <= engine.vocabulary()
    assert not {"siobhan", "reykjavik", "nguyen"} & engine.vocabulary()


async def test_a_language_that_it_does_not_know_is_refused(engine: FasterWhisperEngine) -> None:
    with pytest.raises(InvalidChoice):
        await engine.transcribe(bytes(64_000), "de", timeout_s=5)


async def test_a_deadline_ends_the_work_and_the_next_call_works(
    engine: FasterWhisperEngine, speech: np.ndarray
) -> None:
    with pytest.raises(DeadlineExceeded):
        await engine.transcribe(np.tile(speech, 20).tobytes(), timeout_s=0.3)
    assert (await engine.transcribe(speech.tobytes(), timeout_s=60)).text


async def test_an_idle_engine_is_checked_by_a_bit_of_silence(engine: FasterWhisperEngine) -> None:
    now = [0.0]
    other = made(engine.context.models.folder(MODEL), lambda: now[0])
    await other.start()
    now[0] += 61
    [probed] = await other.check()
    await other.stop()
    assert (probed.name, probed.status, probed.unit) == ("faster_whisper:transcription", "pass", "s")


async def test_without_the_model_the_start_is_refused_with_the_command() -> None:
    engine = made(None)
    with pytest.raises(Refused) as caught:
        await engine.start()
    assert caught.value.hint == "corsac models pull whisper:tiny.en"
    with pytest.raises(EngineUnavailable):
        await engine.transcribe(b"", timeout_s=5)
    await engine.stop()


@pytest.mark.parametrize("tokenizer", ["", '{"model": {"vocab": {}}}'])
async def test_a_damaged_model_breaks_the_start_and_nothing_is_fetched(tmp_path: Path, tokenizer: str) -> None:
    pytest.importorskip("faster_whisper", reason="The extra transcribe is not installed.")
    (tmp_path / "model.bin").write_bytes(b"no model")
    if tokenizer:
        (tmp_path / "tokenizer.json").write_text(tokenizer)
    engine = made(tmp_path)
    with pytest.raises(Broken) as caught:
        await engine.start()
    assert str(tmp_path) not in caught.value.detail
    await engine.stop()


async def test_whole_words_are_small_letters_after_a_blank() -> None:
    assert whole_words(["Ġthe", "the", "ĠThe", "Ġ1998", "Ġdon't", "Ġé", "Ġ"]) == {"the"}
