"""Piper: neural voices that run in real time on a small machine.

piper-tts is under the GPL, so it is loaded in a worker process only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from corsac.engines.speech.language_tag import language_tag
from corsac.engines.speech.supervised import SupervisedSpeechEngine

if TYPE_CHECKING:
    from piper import PiperVoice

MODELS = ("piper:en_US-joe-medium",)
THREADS = 2  # more than the cores of a small machine make onnxruntime many times slower


class PiperEngine(SupervisedSpeechEngine):
    """Speaks with Piper; a voice's id is the name of its file."""

    rank: ClassVar[int] = 20
    languages: ClassVar[frozenset[str]] = frozenset({"en"})
    speaker: ClassVar[str] = "corsac.engines.speech.piper:PiperSpeaker"
    extra: ClassVar[str] = "piper"

    async def speaker_options(self) -> Mapping[str, Any]:
        """The folders of the pulled voices.

        Raises:
            Refused: The voice is not pulled.
        """
        # Files that changed on disk are hashed again, which takes a while.
        folders = [await asyncio.to_thread(self.context.models.folder, name) for name in MODELS]
        return {"folders": [str(folder) for folder in folders], "threads": THREADS}


class PiperSpeaker:
    """The half in the worker process; loads every voice in the folders.

    Args:
        folders: Each holds voices as pairs `<id>.onnx` and `<id>.onnx.json`.
        threads: Threads of one synthesis.

    Raises:
        ImportError: The extra is not installed.
    """

    def __init__(self, folders: Iterable[str], threads: int) -> None:
        import numpy
        import onnxruntime  # type: ignore[import-untyped]
        import piper

        self._numpy = numpy
        self._piper = piper
        self._onnxruntime = onnxruntime
        onnxruntime.set_seed(0)  # a fresh process says the same text with the same noise
        found = [file for folder in folders for file in sorted(Path(folder).glob("*.onnx"))]
        self._settings = {file.stem: json.loads(Path(f"{file}.json").read_bytes()) for file in found}
        self._voices = {file.stem: self._loaded(file, threads) for file in found}

    def voices(self, payload: bytes) -> tuple[dict[str, Any], bytes]:
        """The voices that are loaded."""
        return {"voices": [described(name, each) for name, each in self._settings.items()]}, b""

    def speak(self, payload: bytes, text: str, voice: str, speed: float) -> tuple[dict[str, Any], memoryview]:
        """Speak sentence by sentence; the waveform is (samples,) little-endian float32 in [-1, 1].

        The pace follows the speed loosely, since Piper rounds the length of every sound up: 2.0 takes 0.6 of
        the time, 0.5 takes 1.8 times as long.
        """
        speaker = self._voices[voice]
        pace = self._piper.SynthesisConfig(length_scale=speaker.config.length_scale / speed)
        plain = text.replace("[[", "[ [")  # Piper would read what stands in double brackets as phonemes
        sentences = [chunk.audio_float_array for chunk in speaker.synthesize(plain, pace)]
        waveform = self._numpy.concatenate([self._numpy.zeros(0, "<f4"), *sentences])
        return {"rate_hz": speaker.config.sample_rate}, waveform.astype("<f4").data

    def _loaded(self, file: Path, threads: int) -> PiperVoice:
        """What `PiperVoice.load` makes, but with a bound on threads, which it does not offer."""
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = self._onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        config = self._piper.PiperConfig.from_dict(self._settings[file.stem])
        return self._piper.PiperVoice(session=session, config=config)


def described(voice: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A voice in the words of `Voice`. Old files name the language only as espeak's voice."""
    language = settings.get("language", {}).get("code") or settings["espeak"]["voice"]
    name = f"{settings.get('dataset') or voice} ({settings['audio'].get('quality', 'unknown')} quality)"
    return {"id": voice, "language": language_tag(language), "name": name, "gender": None}
