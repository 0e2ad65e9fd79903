"""espeak-ng: 130 languages, tiny and fast, a robot's voice.

It is under the GPL and keeps one global state per process, so it is loaded in a worker process only.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from corsac.engines.speech.language_tag import language_tag
from corsac.engines.speech.supervised import SupervisedSpeechEngine

WORDS_PER_MINUTE = 175  # espeak-ng's own pace; it takes 80 to 450

# speak_lib.h of espeak-ng 1.52
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_DONT_EXIT = 0x8000
CHARS_UTF8 = 1
END_PAUSE = 0x1000
POS_CHARACTER = 1
RATE = 1
PHONEMES_IPA = 2
GENDERS = {1: "male", 2: "female"}


class EspeakEngine(SupervisedSpeechEngine):
    """Speaks with espeak-ng; a voice's id is the name that `espeak-ng -v` takes, in lower case."""

    rank: ClassVar[int] = 90
    speaker: ClassVar[str] = "corsac.engines.speech.espeak:EspeakSpeaker"
    extra: ClassVar[str] = "espeak"

    async def speaker_options(self) -> Mapping[str, Any]:
        """None: the data files come with the library."""
        return {}


class VoiceRecord(ctypes.Structure):
    """espeak_VOICE of speak_lib.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class EspeakSpeaker:
    """The half in the worker process.

    Raises:
        ImportError: The extra is not installed.
        RuntimeError: The library did not find or read its data.
    """

    def __init__(self) -> None:
        import espeakng_loader
        import numpy

        self._numpy = numpy
        self._library = declared(ctypes.CDLL(espeakng_loader.get_library_path()))
        os.chdir(Path(espeakng_loader.get_data_path()).parent)  # espeak-ng cannot hold a path of over 160 bytes
        options = AUDIO_OUTPUT_SYNCHRONOUS, 0, b"espeak-ng-data", INITIALIZE_DONT_EXIT
        self._rate_hz: int = self._library.espeak_Initialize(*options)
        if self._rate_hz <= 0:
            raise RuntimeError("espeak_Initialize failed.")
        self._pieces: list[bytes] = []
        self._callback = SynthCallback(self._take)  # kept here: the library holds only its address
        self._library.espeak_SetSynthCallback(self._callback)
        records = sorted(self._listed(), key=lambda record: voice_id(record).count("-"))  # "en" before "en-029"
        self._records = {voice_id(record): record for record in records if self._has_words(record)}

    def voices(self, payload: bytes) -> tuple[dict[str, Any], bytes]:
        """The voices whose dictionaries are installed, each language's plain one before its varieties."""
        voices = [
            {
                "id": name,
                "language": language_tag(ctypes.string_at(record.languages + 1).decode()),
                "name": record.name.decode().strip(),
                "gender": GENDERS.get(record.gender),
            }
            for name, record in self._records.items()
        ]
        return {"voices": voices}, b""

    def speak(self, payload: bytes, text: str, voice: str, speed: float) -> tuple[dict[str, Any], memoryview]:
        """Speak; the waveform is (samples,) little-endian float32 in [-1, 1]."""
        self._choose(self._records[voice])
        self._library.espeak_SetParameter(RATE, round(WORDS_PER_MINUTE * speed), 0)
        spoken = text.replace("\0", " ").encode(errors="replace") + b"\0"
        self._pieces.clear()
        code = self._library.espeak_Synth(spoken, len(spoken), 0, POS_CHARACTER, 0, CHARS_UTF8 | END_PAUSE, None, None)
        if code != 0:
            raise RuntimeError(f"espeak_Synth returned {code}.")
        samples = self._numpy.frombuffer(b"".join(self._pieces), "int16")
        self._pieces.clear()
        return {"rate_hz": self._rate_hz}, (samples / 32768).astype("<f4").data

    def _take(self, samples: int | None, n_samples: int, events: int | None) -> int:
        if samples and n_samples > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * n_samples))
        return 0  # go on

    def _listed(self) -> Iterator[VoiceRecord]:
        listed = self._library.espeak_ListVoices(None)
        n = 0
        while listed[n]:
            yield listed[n].contents
            n += 1

    def _choose(self, record: VoiceRecord) -> None:
        code = self._library.espeak_SetVoiceByName(record.identifier)
        if code != 0:
            raise RuntimeError(f"espeak_SetVoiceByName returned {code}.")

    def _has_words(self, record: VoiceRecord) -> bool:
        """Whether the voice says anything: it is silent when its dictionary is not installed."""
        self._choose(record)
        text = ctypes.create_string_buffer(b"mama 7")
        rest = ctypes.c_void_p(ctypes.addressof(text))
        return bool(self._library.espeak_TextToPhonemes(ctypes.byref(rest), CHARS_UTF8, PHONEMES_IPA).strip())


def voice_id(record: VoiceRecord) -> str:
    """`en-us` for the file `gmw/en-US`: unique, where the languages of voices are not."""
    return str(record.identifier.decode().rpartition("/")[2].lower())


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of the functions that are called here."""
    voice_list = ctypes.POINTER(ctypes.POINTER(VoiceRecord))
    number, text, pointer = ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
    signatures: dict[str, tuple[Any, ...]] = {  # result, arguments
        "espeak_Initialize": (number, number, number, text, number),
        "espeak_SetSynthCallback": (None, SynthCallback),
        "espeak_ListVoices": (voice_list, pointer),
        "espeak_SetVoiceByName": (number, text),
        "espeak_SetParameter": (number, number, number, number),
        "espeak_TextToPhonemes": (text, pointer, number, number),
        "espeak_Synth": (
            number,
            text,
            ctypes.c_size_t,
            ctypes.c_uint,
            number,
            ctypes.c_uint,
            ctypes.c_uint,
            pointer,
            pointer,
        ),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
