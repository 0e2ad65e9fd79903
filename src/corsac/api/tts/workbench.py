"""The child process that turns what an engine said into what a client gets."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from corsac.api.tts.audio import decode, encode
from corsac.api.tts.formats import AudioFormat
from corsac.api.tts.quality import measure, verdict


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
