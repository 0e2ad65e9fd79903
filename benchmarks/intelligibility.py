"""Intelligibility by round trip: what tiny Whisper hears of Piper and espeak, and of what was damaged on purpose.

    python -m benchmarks.intelligibility FOLDER [N_HONEST]

FOLDER keeps the models (about 140 MB, pulled if they are missing). Ten varied sentences are printed one by one for both
engines; then the real-time factors, the verdict on damaged audio, and how many of N_HONEST (200) whole sentences would
have been refused: the aim is none.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from corsac.api.tts.audio import resample
from corsac.api.tts.intelligibility import round_trip, trip_verdict, wilson_interval
from corsac.api.tts.quality import verdict
from corsac.api.tts.quality_report import RoundTrip
from corsac.core.service import EngineContext
from corsac.engines.speech.base import SpeechEngine
from corsac.engines.speech.espeak import EspeakEngine
from corsac.engines.speech.piper import PiperEngine
from corsac.engines.transcription.base import RATE_HZ, Transcript
from corsac.engines.transcription.faster_whisper import FasterWhisperEngine
from corsac.models.catalog import Catalog
from corsac.models.index_source import IndexSource
from corsac.models.store import ModelStore

Waveform = NDArray[np.float32]
MODELS = ("piper:en_US-joe-medium", "whisper:tiny.en")
VOICES = {"piper": "en_US-joe-medium", "espeak": "en-us"}
SENTENCES = (
    "The morning bus leaves the station at half past seven.",
    "She poured the tea slowly, as if there were no hurry at all.",
    "How many of these boxes can you carry on your own?",
    "Siobhan and Xavier met Doctor Nguyen in Reykjavik last winter.",
    "The invoice comes to 1,250 dollars, due within 30 days.",
    "Peter Piper picked a peck of pickled peppers.",
    "Although it had rained all night, the river stayed within its banks.",
    "Please turn the machine off before you open the cover.",
    "In 1998 the museum moved to a larger building near the park.",
    "Water boils at a lower temperature in the mountains, so the beans need more time.",
)
WHO = ("The teacher", "My older brother", "A young doctor", "The whole team", "Our neighbor")
DID = ("found the missing key", "asked for a second opinion", "missed the last train", "wrote a long letter")
WHERE = ("on the way home", "in the old library", "behind the garden wall", "before the meeting began", "at 10:30")
ENDS = (".", ", and nobody noticed.")


def honest_sentences() -> list[str]:
    """Two hundred whole sentences, every one different."""
    return [f"{who} {did} {where}{end}" for who, did, where, end in itertools.product(WHO, DID, WHERE, ENDS)]


@dataclass
class Bench:
    """The engines, and how long they took for how much audio."""

    judge: FasterWhisperEngine
    speakers: dict[str, SpeechEngine]
    seconds: dict[str, float] = field(default_factory=dict)
    audio_s: dict[str, float] = field(default_factory=dict)

    async def speak(self, engine: str, text: str) -> Waveform:
        began = time.perf_counter()
        speech = await self.speakers[engine].synthesize(text, VOICES[engine], timeout_s=60)
        self._count(engine, began, speech.duration_s)
        return resample(np.frombuffer(speech.waveform, "<f4"), speech.rate_hz, RATE_HZ)

    async def listen(self, waveform: Waveform) -> Transcript:
        began = time.perf_counter()
        heard = await self.judge.transcribe(waveform.astype("<f4").tobytes(), "en", timeout_s=120)
        self._count("faster_whisper", began, heard.duration_s)
        return heard

    async def trip(self, text: str, waveform: Waveform) -> RoundTrip:
        heard = await self.listen(waveform)
        trip = round_trip(text, heard.text, self.judge.vocabulary(), self.judge.name)
        if isinstance(trip, str):
            raise TypeError(trip)
        return trip

    def _count(self, name: str, began: float, audio_s: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - began
        self.audio_s[name] = self.audio_s.get(name, 0) + audio_s


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[Bench]:
    """The engines, on models that are pulled if they are not there."""
    log = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr), wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )
    store = ModelStore(folder, Catalog.load(folder / "catalog.d"), {"index": IndexSource(log)}, logger=log)
    for name in MODELS:
        if store.status(name).state != "present":
            await store.pull(name)

    def context(name: str) -> EngineContext:
        return EngineContext(name, log, store, {})

    judge = FasterWhisperEngine(context("faster_whisper"))
    speakers: dict[str, SpeechEngine] = {
        "piper": PiperEngine(context("piper")),
        "espeak": EspeakEngine(context("espeak")),
    }
    engines = (judge, *speakers.values())
    try:
        for each in engines:
            await each.start()
        yield Bench(judge, speakers)
    finally:
        for each in engines:
            await each.stop()


async def ten_sentences(bench: Bench) -> None:
    for engine in VOICES:
        right = words = 0
        print(f"{engine}: score (95 % interval) errors/words, masked heard/masked, transcript")
        for text in SENTENCES:
            trip = await bench.trip(text, await bench.speak(engine, text))
            errors = trip.substitutions + trip.deletions + trip.insertions
            right, words = right + max(0, trip.n_words - errors), words + trip.n_words
            print(
                f"  {trip.score:.2f} ({trip.low:.2f} to {trip.high:.2f}) {errors}/{trip.n_words}, "
                f"{trip.masked.n_heard}/{trip.masked.n_words}  {trip.transcript}"
            )
        low, high = wilson_interval(right, words)
        print(f"  all: {right / words:.3f} ({low:.3f} to {high:.3f}) over {words} words")


def damaged(waveform: Waveform) -> dict[str, Waveform]:
    """A waveform, and what can go wrong with it."""
    noise = np.random.default_rng(0).standard_normal(len(waveform)).astype(np.float32)
    noise *= np.sqrt((waveform**2).mean())
    half = len(waveform) // 2
    return {
        "whole": waveform,
        "noise at 10 dB": waveform + noise * np.float32(10**-0.5),
        "noise at 0 dB": waveform + noise,
        "noise at -10 dB": waveform + noise * np.float32(10**0.5),
        "noise alone": noise,
        "first half": waveform[:half],
        "first half, then silence": np.concatenate([waveform[:half], np.zeros(half, np.float32)]),
        "first three quarters": waveform[: len(waveform) * 3 // 4],
        "silence": np.zeros_like(waveform),
    }


async def damage(bench: Bench) -> None:
    print("damage, of ten sentences by piper: mean score; refused by the signal, by the round trip, by either")
    found: dict[str, list[tuple[float, bool, bool]]] = {}
    for text in SENTENCES:
        for name, waveform in damaged(await bench.speak("piper", text)).items():
            trip = await bench.trip(text, waveform)
            by_signal = verdict(waveform, RATE_HZ, text) != "ok"
            found.setdefault(name, []).append((trip.score, by_signal, trip_verdict(trip) != "ok"))
    for name, each in found.items():
        score = sum(row[0] for row in each) / len(each)
        signal, trip_, either = (
            sum(map(bool, rows)) for rows in zip(*((s, t, s or t) for _, s, t in each), strict=True)
        )
        print(f"  {name:26} {score:.2f}  {signal:2}  {trip_:2}  {either:2}")


async def honest(bench: Bench, n_sentences: int) -> None:
    for engine in VOICES:
        refused, scores = [], []
        for text in honest_sentences()[:n_sentences]:
            trip = await bench.trip(text, await bench.speak(engine, text))
            scores.append(trip.score)
            if trip_verdict(trip) != "ok":
                refused.append((text, trip.transcript))
        print(
            f"honest sentences by {engine}: {len(refused)} of {len(scores)} refused; "
            f"mean score {np.mean(scores):.3f}, lowest {min(scores):.2f}"
        )
        for text, transcript in refused:
            print(f"  {text!r} heard as {transcript!r}")


async def measure(folder: Path, n_honest: int) -> None:
    async with started(folder) as bench:
        await bench.listen(np.zeros(RATE_HZ, np.float32))
        bench.seconds.clear()
        bench.audio_s.clear()
        await ten_sentences(bench)
        factors = ", ".join(f"{name} {bench.seconds[name] / bench.audio_s[name]:.3f}" for name in bench.seconds)
        print(f"real-time factor: {factors}")
        await damage(bench)
        await honest(bench, n_honest)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("models")
    asyncio.run(measure(folder, int(sys.argv[2]) if len(sys.argv) > 2 else 200))


if __name__ == "__main__":
    main()
