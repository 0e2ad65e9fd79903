"""The child process that turns what an engine said into what a client gets."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from corsac.api.tts.audio import AudioOverlong, AudioUndecodable, decode, decode_file, encode, resample
from corsac.api.tts.formats import AudioFormat
from corsac.api.tts.intelligibility import round_trip
from corsac.api.tts.quality import measure, verdict
from corsac.core.workers.protocol import Rejected


class AudioWorkbench:
    """Judges, measures and encodes waveforms, in a worker's child."""

    def finish(
        self,
        payload: bytes,
        rate_hz: int,
        format: AudioFormat,  # noqa: A002 - the name on the wire
        text: str,
        quality: Literal["off", "signal"],
    ) -> tuple[dict[str, Any], bytes]:
        """Judge, measure and encode one waveform.

        Args:
            payload: (samples,) little-endian float32, mono.
            rate_hz: Samples per second.
            format: Of the file.
            text: What the waveform should say.
            quality: `off` measures nothing beyond the verdict.

        Returns:
            `verdict`, `duration_s`, `clipped_samples` (beyond full scale, clipped by encoding) and `quality`
            (a `QualityReport` as JSON, or None), and the file: empty unless the verdict is `ok`.

        Raises:
            EncodingFailed: The file does not hold what it should.
            ValueError: The payload is no float32.
        """
        waveform = np.frombuffer(payload, "<f4")
        judged = verdict(waveform, rate_hz, text)
        measured = quality != "off" and judged != "damaged"
        result = {
            "verdict": judged,
            "duration_s": len(waveform) / rate_hz,
            "clipped_samples": 0,
            "quality": measure(waveform, rate_hz, text).model_dump(mode="json") if measured else None,
        }
        if judged != "ok":
            return result, b""
        encoded = encode(waveform, rate_hz, format)
        return result | {"clipped_samples": encoded.clipped_samples}, encoded.content

    def narrow(self, payload: bytes, rate_hz: int, wanted_hz: int) -> tuple[dict[str, Any], memoryview]:
        """The waveform at another rate, both (samples,) little-endian float32, mono."""
        return {}, resample(np.frombuffer(payload, "<f4"), rate_hz, wanted_hz).astype("<f4").data

    def hear(self, payload: bytes, path: str, max_s: float, wanted_hz: int) -> tuple[dict[str, Any], memoryview]:
        """Decode a file for a transcription engine.

        Args:
            payload: Nothing.
            path: The uploaded file.
            max_s: Seconds that are taken.
            wanted_hz: Rate of the waveform that comes back.

        Returns:
            `duration_s`, `rate_hz` (of the file), and the waveform: (samples,) little-endian float32, mono.

        Raises:
            Rejected: `AUDIO_INVALID` or `AUDIO_TOO_LONG`.
        """
        waveform, rate_hz = self._decoded(path, max_s)
        about = {"duration_s": len(waveform) / rate_hz, "rate_hz": rate_hz}
        return about, np.clip(resample(waveform, rate_hz, wanted_hz), -1, 1).astype("<f4").data

    def inspect(self, payload: bytes, path: str, max_s: float, measured_s: float) -> tuple[dict[str, Any], bytes]:
        """Decode a file to its end and measure its beginning.

        Args:
            payload: Nothing.
            path: The uploaded file.
            max_s: Seconds that are taken.
            measured_s: Seconds that are measured.

        Returns:
            `duration_s`, `rate_hz` and `quality`, a `QualityReport` as JSON.

        Raises:
            Rejected: `AUDIO_INVALID` or `AUDIO_TOO_LONG`.
        """
        waveform, rate_hz = self._decoded(path, max_s)
        report = measure(waveform[: round(measured_s * rate_hz)], rate_hz, None)
        about = {"duration_s": len(waveform) / rate_hz, "rate_hz": rate_hz}
        return about | {"quality": report.model_dump(mode="json")}, b""

    def _decoded(self, path: str, max_s: float) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
        try:
            return decode_file(path, max_s)
        except AudioUndecodable as error:
            raise Rejected("AUDIO_INVALID", str(error)) from error
        except AudioOverlong as error:
            raise Rejected("AUDIO_TOO_LONG", f"The audio goes on after the {max_s:.0f} s that are taken.") from error

    def compare(self, payload: bytes, text: str, transcript: str, judge: str) -> tuple[dict[str, Any], bytes]:
        """Compare a text with its transcript; see `intelligibility.round_trip`. The alignment can take a second.

        Args:
            payload: The words that the judge knows, in UTF-8, by blanks.
            text: What was to be said.
            transcript: What was heard.
            judge: Name of the engine that heard it.

        Returns:
            `trip` (a `RoundTrip` as JSON) or `reason`, why there is none.
        """
        trip = round_trip(text, transcript, frozenset(payload.decode().split()), judge)
        return ({"reason": trip} if isinstance(trip, str) else {"trip": trip.model_dump(mode="json")}), b""

    def self_test(self, payload: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Encode, decode and measure half a second of a tone that fades; for health checks.

        Returns:
            `formats`: those that came back as the tone that went in; `measured`: whether its pitch was found.
        """
        rate_hz = 24_000
        time_s = np.arange(rate_hz // 2, dtype=np.float32) / rate_hz
        tone = (0.5 * np.sin(2 * np.pi * 200 * time_s) * np.hanning(len(time_s))).astype(np.float32)
        working = []
        for audio_format in get_args(AudioFormat):
            waveform, decoded_hz = decode(encode(tone, rate_hz, audio_format).content)
            if decoded_hz == rate_hz and abs(float(waveform.std()) / float(tone.std()) - 1) < 0.1:
                working.append(audio_format)
        pitch_hz = measure(tone, rate_hz, None).pitch_hz
        return {"formats": working, "measured": pitch_hz is not None and abs(pitch_hz - 200) < 2}, b""
