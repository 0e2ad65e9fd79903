"""Waveforms to files and back. Imports numpy and soundfile: for worker processes only."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import soundfile as sf
from numpy.typing import NDArray
from scipy.signal import resample_poly

from corsac.api.tts.formats import AudioFormat

MPEG_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
BLOCK_SAMPLES = 1 << 16  # the Vorbis encoder takes its stack from the size of one write


class _ReadForward(sf.SoundFile):  # type: ignore[misc]
    """A file that is read from its start to its end: a streamed FLAC, without its length in the header, cannot seek."""

    def seekable(self) -> bool:
        """Soundfile seeks after every read where this is true."""
        return False


@dataclass(frozen=True, slots=True)
class Codec:
    """How a format is written.

    Args:
        container: libsndfile's name of the container.
        subtype: libsndfile's name of the encoding.
        rates_hz: Rates that it can hold; empty: all.
        tolerance_s: How much longer or shorter decoded audio may be: one frame of the codec. Here
            libsndfile 1.2 gave back every sample (8 to 48 kHz, 1 sample to 40 s); a build that leaves the encoder's
            padding in does not.
    """

    container: str
    subtype: str
    rates_hz: tuple[int, ...]
    tolerance_s: float


CODECS: Mapping[AudioFormat, Codec] = MappingProxyType(
    {
        "wav": Codec("WAV", "PCM_16", (), 0.0),
        "flac": Codec("FLAC", "PCM_16", (), 0.0),
        "ogg": Codec("OGG", "VORBIS", (), 0.0),
        "mp3": Codec("MP3", "MPEG_LAYER_III", MPEG_RATES_HZ, 0.072),
        "opus": Codec("OGG", "OPUS", (24000, 48000), 0.02),
    }
)


class EncodingFailed(RuntimeError):
    """What an encoder wrote does not decode to as much audio as it was given."""


class AudioUndecodable(ValueError):
    """The content is not audio in a format that can be decoded."""


class AudioOverlong(ValueError):
    """There is more audio than was asked for."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An audio file.

    Args:
        content: The file's bytes.
        clipped_samples: Samples that were beyond ±1 and are at ±1 now.
    """

    content: bytes
    clipped_samples: int


def encode(waveform: NDArray[np.float32], rate_hz: int, audio_format: AudioFormat) -> Encoded:
    """Write a waveform as a file and read it back once.

    Args:
        waveform: (samples,) float32, finite, at least one; what is beyond ±1 is clipped.
        rate_hz: Samples per second; the file's rate is the next one that its format can hold.
        audio_format: One of `CODECS`.

    Raises:
        EncodingFailed: The file holds more or less audio than the waveform, beyond the format's tolerance.
        ValueError: The waveform is empty, of another shape, or not finite.
    """
    if waveform.ndim != 1 or not len(waveform) or not np.isfinite(waveform).all():
        raise ValueError("A waveform of one channel with at least one sample, all finite, can be encoded.")
    codec = CODECS[audio_format]
    clipped_samples = int(np.count_nonzero(np.abs(waveform) > 1))
    file_rate_hz = file_rate(codec, rate_hz)
    samples = np.clip(resample(waveform, rate_hz, file_rate_hz), -1, 1)
    buffer = io.BytesIO()
    with sf.SoundFile(buffer, "w", file_rate_hz, 1, subtype=codec.subtype, format=codec.container) as file:
        for start in range(0, len(samples), BLOCK_SAMPLES):
            file.write(samples[start : start + BLOCK_SAMPLES])
    content = buffer.getvalue()
    decoded, decoded_rate_hz = decode(content)
    difference_s = len(decoded) / decoded_rate_hz - len(samples) / file_rate_hz
    if abs(difference_s) > codec.tolerance_s:
        raise EncodingFailed(f"The {audio_format} file is {difference_s:+.3f} s off its waveform.")
    return Encoded(content, clipped_samples)


def decode(content: bytes) -> tuple[NDArray[np.float32], int]:
    """Read an audio file, its channels mixed to one.

    Returns:
        The waveform, (samples,) float32, and its samples per second.

    Raises:
        AudioUndecodable: It is not audio that can be read.
    """
    try:
        samples, rate_hz = sf.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except sf.LibsndfileError as error:
        raise AudioUndecodable("The content is not audio that can be decoded.") from error
    return samples.mean(axis=1, dtype=np.float32), int(rate_hz)


def decode_file(path: str, max_s: float) -> tuple[NDArray[np.float32], int]:
    """Read an audio file block by block, its channels mixed to one; samples that are no numbers become silence.

    Args:
        path: A file whose header was found to be one of ours.
        max_s: Seconds at which reading stops, whatever the header promised.

    Returns:
        The waveform, (samples,) float32, and its samples per second.

    Raises:
        AudioUndecodable: It is not audio that can be read, or holds no samples.
        AudioOverlong: It goes on after `max_s`.
    """
    blocks = []
    try:
        with _ReadForward(path) as file:
            left, rate_hz = math.ceil(max_s * file.samplerate), int(file.samplerate)
            while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                blocks.append(np.nan_to_num(block.mean(axis=1), nan=0, posinf=0, neginf=0))
                left -= len(block)
                if left < 0:
                    raise AudioOverlong
    except (sf.LibsndfileError, RuntimeError) as error:
        raise AudioUndecodable("The content is not audio that can be decoded.") from error
    if not sum(map(len, blocks)):
        raise AudioUndecodable("The file holds no samples.")
    return np.concatenate(blocks), rate_hz


def file_rate(codec: Codec, rate_hz: int) -> int:
    """The lowest rate of a codec that loses nothing of `rate_hz`, else its highest."""
    enough = [rate for rate in codec.rates_hz if rate >= rate_hz]
    return min(enough) if enough else max(codec.rates_hz, default=rate_hz)


def resample(waveform: NDArray[np.float32], rate_hz: int, wanted_hz: int) -> NDArray[np.float32]:
    """The same sound at another rate (polyphase filter)."""
    if rate_hz == wanted_hz:
        return waveform
    divisor = math.gcd(rate_hz, wanted_hz)
    resampled: NDArray[np.float32] = resample_poly(waveform, wanted_hz // divisor, rate_hz // divisor)
    return resampled.astype(np.float32, copy=False)
