"""Whisper on CTranslate2 (faster-whisper): accurate, and several times as fast as speech on two cores."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from corsac.core.exceptions import InvalidChoice
from corsac.core.service import EngineContext
from corsac.engines.supervised import NativeHalf
from corsac.engines.transcription.base import RATE_HZ, Segment, Transcript, TranscriptionEngine

if TYPE_CHECKING:
    import numpy as np
    from faster_whisper.transcribe import Segment as Heard
    from numpy.typing import NDArray

    from corsac.core.health_checks import Check

MODEL = "whisper:tiny.en"
THREADS = 2
IDLE_STOP_S = 300.0  # it takes 300 MB and starts again in a second or two
PROBE_S = 0.5
STRETCH_S, SEARCHED_S = 120, 10
TEMPERATURES = (0.0, 0.4)


class FasterWhisperEngine(TranscriptionEngine):
    """Transcribes with the pulled Whisper model.

    Args:
        context: From the composition root.
        monotonic: Seconds on a clock that never goes back.
    """

    rank: ClassVar[int] = 50

    def __init__(self, context: EngineContext, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(context)
        self._native = NativeHalf(
            context,
            target="corsac.engines.transcription.faster_whisper:WhisperListener",
            kind=self.kind,
            does="transcription",
            extra="transcribe",
            idle_stop_s=IDLE_STOP_S,
            monotonic=monotonic,
        )
        self._languages: frozenset[str] = frozenset()
        self._vocabulary: frozenset[str] = frozenset()

    def languages(self) -> AbstractSet[str]:
        """Primary tags of the languages that the model understands; empty before `start`."""
        return self._languages

    def vocabulary(self) -> AbstractSet[str]:
        """The words that are one token of the model's byte-pair encoding."""
        return self._vocabulary

    async def start(self) -> None:
        """Load the model.

        Raises:
            Refused: The model is not pulled, or the extra is not installed.
        """
        # Files that changed on disk are hashed again, which takes a while.
        folder = await asyncio.to_thread(self.context.models.folder, MODEL)
        answer = await self._native.start({"folder": str(folder), "threads": THREADS}, "describe")
        self._languages, self._vocabulary = frozenset(answer["languages"]), frozenset(answer["vocabulary"])

    async def stop(self) -> None:
        """End the worker."""
        self._languages = self._vocabulary = frozenset()
        await self._native.stop()

    async def transcribe(self, waveform: bytes, language: str | None = None, *, timeout_s: float) -> Transcript:
        """Write down one waveform; see the base class.

        Raises:
            InvalidChoice: The model does not understand the language.
            EngineUnavailable: It is not started, or what it needs has been removed since.
            WorkerCrashed, WorkerOutOfMemory, CircuitOpen, DeadlineExceeded, TooLarge: See `Worker.call`.
        """
        self._native.require_up()
        if language is not None and language not in self._languages:
            raise InvalidChoice(f"The transcription engine '{self.name}' does not understand this language.")
        result, _ = await self._native.ask("listen", {"language": language}, waveform, timeout_s=timeout_s)
        segments = tuple(Segment(**each) for each in result["segments"])
        text = " ".join(each.text for each in segments)
        return Transcript(text, result["language"], segments, len(waveform) / 4 / RATE_HZ)

    async def check(self) -> Sequence[Check]:
        """See `NativeHalf.check`; the smallest transcription is that of silence."""
        return await self._native.check(self._probe)

    async def _probe(self, timeout_s: float) -> str | None:
        silence = bytes(4 * int(PROBE_S * RATE_HZ))
        transcript = await self.transcribe(silence, timeout_s=timeout_s)
        return "It heard words in silence." if transcript.text else None


class WhisperListener:
    """The half in the worker process.

    Args:
        folder: Holds `model.bin`, `config.json`, `tokenizer.json` and `vocabulary.txt`.
        threads: Threads of one transcription.

    Raises:
        ImportError: The extra is not installed.
        FileNotFoundError: There is no tokenizer; faster-whisper would look for one on the network.
    """

    def __init__(self, folder: str, threads: int) -> None:
        import ctranslate2
        import faster_whisper
        import numpy

        self._tokens = json.loads((Path(folder) / "tokenizer.json").read_bytes())["model"]["vocab"]
        self._numpy = numpy
        self._set_seed = ctranslate2.set_random_seed
        self._model = faster_whisper.WhisperModel(
            folder, device="cpu", compute_type="int8", cpu_threads=threads, num_workers=1
        )

    def describe(self, payload: bytes) -> tuple[dict[str, Any], bytes]:
        """`languages` and `vocabulary`, the whole words among its tokens."""
        return {"languages": self._model.supported_languages, "vocabulary": sorted(whole_words(self._tokens))}, b""

    def listen(self, payload: bytes, language: str | None) -> tuple[dict[str, Any], bytes]:
        """Write down a waveform; the same waveform always gives the same text.

        Voices are found first (Silero's detector, part of faster-whisper), because Whisper hears words in silence:
        "You" in three seconds of zeros. Each window is heard for itself: one that goes wrong does not lead the next
        astray. One retry with samples where Whisper's own default is five: in noise those take ten times as long as
        the audio, for words that nobody said.
        """
        self._set_seed(0)
        waveform = self._numpy.frombuffer(payload, "<f4")
        segments: list[dict[str, Any]] = []
        for start, end in self._stretches(waveform):
            heard, about = self._model.transcribe(
                waveform[start:end],
                language=language,
                vad_filter=True,
                condition_on_previous_text=False,
                temperature=TEMPERATURES,
            )
            segments += [_shifted(each, start / RATE_HZ) for each in heard if each.text.strip()]
            language = about.language
        return {"language": language, "segments": segments}, b""

    def _stretches(self, waveform: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
        """Stretches of two minutes at most, parted at the quietest tenth of a second of their last ten seconds.

        Spectra are made of a whole waveform at once: ten minutes in one piece took 1.1 GB.
        """
        start, frame = 0, RATE_HZ // 10
        while len(waveform) - start > STRETCH_S * RATE_HZ:
            search = start + (STRETCH_S - SEARCHED_S) * RATE_HZ
            tail = waveform[search : search + SEARCHED_S * RATE_HZ].reshape(-1, frame)
            end = search + int((tail**2).sum(axis=1).argmin()) * frame + frame // 2
            yield start, end
            start = end
        yield start, len(waveform)


def _shifted(segment: Heard, offset_s: float) -> dict[str, Any]:
    start_s, end_s = (round(each + offset_s, 3) for each in (segment.start, segment.end))
    return {"text": segment.text.strip(), "start_s": start_s, "end_s": end_s}


def whole_words(tokens: Iterable[str]) -> set[str]:
    """The words of plain small letters among byte-pair tokens; a word known with a capital only, a name, is none.

    `Ġ` stands for the blank before a word (A. Radford et al., Language models are unsupervised multitask learners,
    2019, section 2.2).

    Example:
        >>> sorted(whole_words(["Ġhello", "ello", "ĠParis", "Ġ12", "Ġa"]))
        ['a', 'hello']
    """
    words = (token[1:] for token in tokens if token.startswith("Ġ"))
    return {word for word in words if word.isascii() and word.isalpha() and word.islower()}
