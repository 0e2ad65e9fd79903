"""Speech end to end: from a sentence to files that other programs can decode."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.server import Server, install_plugin

SPEAK, AUDIO, VOICES = "/api/tts/synthesize", "/api/tts/audio", "/api/tts/voices"
SENTENCE = "The quick brown fox jumps over the lazy dog."
FORMATS = {"wav": "audio/wav", "mp3": "audio/mpeg", "ogg": "audio/ogg", "flac": "audio/flac", "opus": "audio/opus"}
DECODE = """
import json, sys, soundfile
samples, rate_hz = soundfile.read(sys.argv[1], dtype="float32")
rms = float((samples ** 2).mean() ** 0.5)
print(json.dumps({"duration_s": len(samples) / rate_hz, "n_dims": samples.ndim, "rms": rms}))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("speech")
    actor = install_plugin(folder / "site", "actor", {"corsac.engines.speech": {"actor": "actor:ActorEngine"}})
    with Server(folder / "data", plugins=[actor]) as server:
        server.wait_until_ready("speech:espeak")
        server.wait_until_ready("speech:actor")
        yield server


@pytest.fixture(scope="module", params=FORMATS)
def spoken(server: Server, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the server says about a sentence in each format."""
    answer: dict[str, Any] = server.ask("POST", SPEAK, {"text": SENTENCE, "format": request.param}).json
    return answer


@pytest.fixture
def file(server: Server, spoken: dict[str, Any], tmp_path: Path) -> Path:
    """The audio of `spoken`."""
    path = tmp_path / f"speech.{spoken['format']}"
    path.write_bytes(server.ask("GET", spoken["url"]).body)
    return path


def printed_by(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_file_is_what_the_answer_says(server: Server, spoken: dict[str, Any]) -> None:
    audio = server.ask("GET", spoken["url"])
    assert audio.headers["content-type"] == spoken["media_type"] == FORMATS[spoken["format"]]
    assert len(audio.body) == spoken["size_bytes"]
    assert (spoken["served_by"], spoken["retried"]) == ("espeak", False)
    assert spoken["language"].startswith("en")


def test_soundfile_decodes_it_to_its_duration(spoken: dict[str, Any], file: Path) -> None:
    decoded = json.loads(printed_by(sys.executable, "-c", DECODE, str(file)))
    assert decoded["duration_s"] == pytest.approx(spoken["duration_s"], abs=0.1)
    assert decoded["n_dims"] == 1
    assert decoded["rms"] > 0.01


def test_another_decoder_decodes_it_to_its_duration(spoken: dict[str, Any], file: Path, tmp_path: Path) -> None:
    command, plain = "opusdec" if spoken["format"] == "opus" else "sox", tmp_path / "plain.wav"
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not installed; tests/system-packages.sh brings it.")
    printed_by(command, str(file), str(plain))
    decoded = json.loads(printed_by(sys.executable, "-c", DECODE, str(plain)))
    assert decoded["duration_s"] == pytest.approx(spoken["duration_s"], abs=0.1)
    assert decoded["rms"] > 0.01


def test_every_measure_is_a_number_or_has_a_reason(spoken: dict[str, Any]) -> None:
    quality = spoken["quality"]
    measures = {name: value for name, value in quality.items() if name not in ("reasons", "findings", "round_trip")}
    missing = {name for name, value in measures.items() if value is None}
    assert missing == set(quality["reasons"]) == {"intelligibility"}
    assert all(math.isfinite(value) for value in measures.values() if value is not None)
    assert quality["duration_s"] == spoken["duration_s"]
    assert 100 < quality["words_per_min"] < 300


def test_silence_is_refused_after_one_more_try(server: Server) -> None:
    answer = server.ask("POST", SPEAK, {"text": SENTENCE, "voice": "silent"})
    assert (answer.status, answer.reason) == (502, "AUDIO_UNUSABLE")
    assert answer.problem["detail"] == "The audio was empty, twice."
    assert server.wait_for_log(event="unusable audio")["verdict"] == "empty"


def test_voice_that_is_silent_once_is_asked_again(server: Server) -> None:
    answer = server.ask("POST", SPEAK, {"text": "Once more.", "voice": "hesitant"})
    assert (answer.status, answer.json["retried"]) == (200, True)


def paged(server: Server, path: str, limit: int, key: str | None = None) -> list[list[Any]]:
    """All pages of a list."""
    pages, cursor = [], ""
    while cursor is not None:
        page = server.ask("GET", f"{path}?limit={limit}&cursor={cursor}", key=key).json
        pages.append(page["items"])
        cursor = page["next_cursor"]
    return pages


def test_voices_are_paged_without_gap_or_duplicate(server: Server) -> None:
    whole = server.ask("GET", VOICES).json
    pages = paged(server, VOICES, 20)
    assert whole["next_cursor"] is None
    assert [len(page) for page in pages[:-1]] == [20] * (len(pages) - 1)
    assert [voice for page in pages for voice in page] == whole["items"]
    assert len({(voice["engine"], voice["id"]) for voice in whole["items"]}) == len(whole["items"]) > 100


def test_voices_of_a_language_or_an_engine(server: Server) -> None:
    german = server.ask("GET", f"{VOICES}?language=de").json["items"]
    assert {voice["language"].partition("-")[0] for voice in german} == {"de"}
    actors = server.ask("GET", f"{VOICES}?engine=actor").json["items"]
    assert [voice["id"] for voice in actors] == ["slow", "silent", "hesitant"]


def test_audio_is_listed_newest_first_and_deleted(server: Server) -> None:
    key = server.create_key("carol", "tts")
    request = {"text": "Hello.", "quality": "off"}
    ids = [server.ask("POST", SPEAK, request, key=key).json["id"] for _ in range(5)]
    pages = paged(server, AUDIO, 2, key)
    assert [[audio["id"] for audio in page] for page in pages] == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]
    assert server.ask("DELETE", f"{AUDIO}/{ids[2]}", key=key).status == 204
    assert server.ask("GET", f"{AUDIO}/{ids[2]}", key=key).status == 404
    assert [audio["id"] for audio in paged(server, AUDIO, 9, key)[0]] == [ids[4], ids[3], ids[1], ids[0]]
    assert list(server.directory.rglob(f"{ids[2]}*")) == []


def test_accepting_audio_gets_the_audio_itself(server: Server) -> None:
    answer = server.ask("POST", SPEAK, {"text": SENTENCE, "format": "mp3"}, headers={"Accept": "audio/*"})
    assert (answer.status, answer.headers["content-type"]) == (200, "audio/mpeg")
    assert answer.headers["x-corsac-served-by"] == "espeak"
    assert server.ask("GET", answer.headers["content-location"]).body == answer.body


@pytest.mark.parametrize(
    ("ranges", "status", "start", "end"),
    [("bytes=4-11", 206, 4, 12), ("bytes=-8", 206, -8, None), ("bytes=" + "0-1," * 10_000, 200, 0, None)],
    ids=["a few bytes", "the last bytes", "10,000 ranges"],
)
def test_ranges_of_a_file(server: Server, ranges: str, status: int, start: int, end: int | None) -> None:
    url = server.ask("POST", SPEAK, {"text": "Hello.", "quality": "off"}).json["url"]
    whole, asked = server.ask("GET", url).body, server.ask("GET", url, headers={"Range": ranges})
    assert asked.status == status
    assert asked.body == whole[start:end]
