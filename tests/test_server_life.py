"""A server's life: refused starts, drains, dead workers, clients that leave, reloads, keys and sessions."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.server import (
    JSON,
    SIGNED,
    Answer,
    Server,
    eventually,
    install_plugin,
    parents,
    request,
    run_command,
)

SPEAK, AUDIO, CONFIG = "/api/tts/synthesize", "/api/tts/audio", "/api/tts/config"
SLOWLY = b'{"text": "Speak slowly.", "voice": "slow"}'
HERE = {"Origin": "http://localhost"}
NO_INDEX = {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_CONFIG_FILE": os.devnull}
STARTER_VOICE = "piper:en_US-joe-medium"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed plugins: a slow voice, a service that rests, and one that cannot be imported."""
    folder = tmp_path_factory.mktemp("site")
    install_plugin(folder, "actor", {"corsac.engines.speech": {"actor": "actor:ActorEngine"}})
    install_plugin(folder, "workshop", {"corsac.services": {"workshop": "workshop:SERVICE"}})
    return install_plugin(folder, "broken", {"corsac.services": {"broken": "broken:SERVICE"}})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("life") / "data", plugins=[site]) as server:
        wait_for_the_voices(server)
        yield server


def wait_for_the_voices(server: Server) -> None:
    server.wait_until_ready("speech:espeak")
    server.wait_until_ready("speech:actor")


# Starts


@pytest.mark.parametrize(
    ("environment", "toml", "words"),
    [
        ({"CORSAC_HOST": "0.0.0.0", "CORSAC_AUTH": "false"}, "", "set CORSAC_HOST=127.0.0.1"),
        ({"CORSAC_LOG_LEVEL": "LOUD"}, "", "set as CORSAC_LOG_LEVEL"),
        ({"CORSAC_TTS__MAX_TEXT_CHARS": "many"}, "", "CORSAC_TTS__MAX_TEXT_CHARS: The value must be"),
        ({}, "[services.tts]\nformat = 'wav", "corsac.toml is not TOML"),
        ({}, "[service.tts]\n", "nearest: services"),
        ({}, "[services.tts]\nmax_text_chars = 0\n", "table services.tts"),
        ({}, "[server]\nmax_connections = 'many'\n", "max_connections is not valid. The value must be"),
        ({}, "[server]\nmax_conections = 9\n", "did you mean max_connections?"),
    ],
    ids=[
        "open to the network",
        "bad setting",
        "bad variable",
        "no TOML",
        "unknown table",
        "bad value",
        "bad server value",
        "unknown key",
    ],
)
def test_refused_start_exits_78_and_says_what_would_be_right(
    tmp_path: Path, environment: Mapping[str, str], toml: str, words: str
) -> None:
    (tmp_path / "corsac.toml").write_text(toml)
    ended = run_command(tmp_path, "serve", "--port", "0", environment=environment)
    assert ended.returncode == 78, ended.stderr
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_second_server_on_a_directory_exits_75_and_names_the_first(server: Server) -> None:
    ended = run_command(server.directory, "serve", "--port", "0")
    assert ended.returncode == 75
    assert f"process {server.pid}" in ended.stderr
    assert server.ask("GET", "/livez").status == 200


def test_plugin_that_cannot_be_imported_is_named_and_the_rest_starts(server: Server) -> None:
    registry = server.ask("GET", "/api/registry").json
    errors = {plugin["name"]: plugin["error"] for plugin in registry["plugins"]}
    assert "RuntimeError: This plugin has never worked." in errors.pop("broken")
    assert set(errors.values()) == {None}
    states = {part["name"]: part["state"] for part in registry["parts"]}
    assert states["workshop"] == states["speech:espeak"] == "ready"


def test_without_a_network_espeak_speaks_and_the_missing_voice_is_named(tmp_path: Path) -> None:
    with Server(tmp_path / "data", environment={"CORSAC_STARTER": "speech", **NO_INDEX}) as server:
        failed = server.wait_for_log(event="pull failed", seconds=20)
        spoken = server.ask("POST", SPEAK, {"text": "Good morning."}).json
        doctor = run_command(server.directory, "doctor").stdout
    assert (failed["model"], failed["reason"]) == (STARTER_VOICE, "MODEL_SOURCE_UNAVAILABLE")
    assert (spoken["served_by"], spoken["degraded"]) == ("espeak", True)
    line = next(line for line in doctor.splitlines() if STARTER_VOICE in line)
    assert "not here" in line
    assert f"corsac models pull {STARTER_VOICE}" in line


# Ends


@pytest.mark.parametrize("n_times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_sigterm_under_load_answers_what_is_in_flight_and_refuses_the_rest(
    tmp_path: Path, site: Path, n_times: int
) -> None:
    with Server(tmp_path / "data", plugins=[site]) as server:
        for n in range(n_times):
            if n > 0:
                server.start()
            server.wait_until_ready("speech:espeak")
            drain_under_load(server)


def drain_under_load(server: Server) -> None:
    """End a server while it rests and speaks for twelve clients, and twelve more come."""
    with ThreadPoolExecutor(24) as clients:
        resting = [clients.submit(server.ask, "POST", "/api/workshop/rest", {"seconds": 1}) for _ in range(10)]
        speaking = [clients.submit(server.ask, "POST", SPEAK, {"text": "One. " * 60}) for _ in range(2)]
        time.sleep(0.4)
        server.process.terminate()
        time.sleep(0.3)
        late = [clients.submit(server.ask, "POST", "/api/workshop/rest", {"seconds": 0}) for _ in range(12)]
        exit_code = server.process.wait(25)
    assert statuses(resting + speaking) == {200}
    assert {answer.result().reason for answer in late} == {"SHUTTING_DOWN"}
    assert exit_code == 0


def statuses(answers: list[Future[Answer]]) -> set[int]:
    return {answer.result().status for answer in answers}


# Workers


def worker_of_the_actor(server: Server) -> int:
    """The process of the slow voice, which is a child of the server."""
    pid = int(server.wait_for_log(event="worker started", worker="actor")["pid"])
    assert pid in server.children()
    return pid


def test_killed_worker_is_one_clear_503_and_the_next_request_works(server: Server) -> None:
    worker = worker_of_the_actor(server)
    with ThreadPoolExecutor() as clients:
        asked = clients.submit(server.ask, "POST", SPEAK, SLOWLY)
        time.sleep(0.5)
        os.kill(worker, signal.SIGKILL)
        answer = asked.result(5)
    assert (answer.status, answer.reason) == (503, "WORKER_CRASHED")
    assert server.ask("POST", SPEAK, {"text": "Again.", "voice": "slow"}).status == 200
    assert worker_of_the_actor(server) != worker
    assert server.process.poll() is None


def test_client_that_leaves_takes_its_synthesis_along_within_a_second(server: Server) -> None:
    assert server.ask("POST", SPEAK, {"text": "Warm up.", "voice": "slow"}).status == 200
    worker = worker_of_the_actor(server)
    client = server.connect(request("POST", SPEAK, SIGNED, JSON, body=SLOWLY))
    time.sleep(0.5)
    client.close()
    eventually(lambda: worker not in parents(), 1, "the worker has stopped")
    line = server.wait_for_log(event="request", outcome="cancelled")
    assert (line["operation"], line["level"]) == ("synthesize", "info")
    assert server.ask("POST", SPEAK, {"text": "Again.", "voice": "slow"}).status == 200


def test_deadline_of_the_client_stops_the_work(server: Server) -> None:
    assert server.ask("POST", SPEAK, {"text": "Warm up.", "voice": "slow"}).status == 200
    worker = worker_of_the_actor(server)
    answer = server.ask("POST", SPEAK, SLOWLY, headers={"X-Request-Timeout-Ms": "500"})
    assert (answer.status, answer.reason) == (504, "DEADLINE_EXCEEDED")
    assert 0.5 <= answer.seconds < 1.5
    eventually(lambda: worker not in parents(), 1, "the worker has stopped")


# Configuration


def max_text_chars(server: Server) -> tuple[int, str]:
    """The present limit and where it comes from."""
    view = server.ask("GET", CONFIG).json
    return view["values"]["max_text_chars"], view["origins"]["max_text_chars"]


def test_change_over_the_api_survives_a_restart(server: Server) -> None:
    changed = server.ask("PATCH", CONFIG, {"values": {"max_text_chars": 321}})
    server.stop()
    server.start()
    wait_for_the_voices(server)
    assert max_text_chars(server) == (321, "api")
    assert server.ask("GET", CONFIG).headers["etag"] == changed.headers["etag"]
    assert server.ask("POST", f"{CONFIG}/reset").status == 200
    assert max_text_chars(server) == (5000, "default")


def test_edited_file_is_applied_while_the_server_runs(server: Server) -> None:
    file, longer = server.directory / "corsac.toml", {"text": "More than twelve characters."}
    file.write_text("[services.tts]\nmax_text_chars = 12\n")
    eventually(lambda: max_text_chars(server) == (12, "file"), 5, "the file is applied")
    assert server.ask("POST", SPEAK, longer).reason == "TEXT_TOO_LONG"
    file.write_text("")
    eventually(lambda: max_text_chars(server) == (5000, "default"), 5, "the file is applied again")
    assert server.ask("POST", SPEAK, longer).status == 200


def test_sighup_reads_the_file_again(server: Server) -> None:
    before = len(server.log_lines(event="configuration file applied"))
    os.kill(server.pid, signal.SIGHUP)
    eventually(lambda: len(server.log_lines(event="configuration file applied")) > before, 5, "it is read")
    assert server.ask("GET", "/livez").status == 200


# Callers


def test_key_with_the_scope_tts_speaks_and_does_not_administrate(server: Server) -> None:
    key = server.create_key("alice", "tts")
    assert server.ask("POST", SPEAK, {"text": "Hello."}, key=key).status == 200
    forbidden = [("GET", "/api/keys"), ("GET", CONFIG), ("POST", "/api/registry/tts/stop"), ("GET", "/api/admin/logs")]
    answers = [server.ask(method, path, key=key) for method, path in forbidden]
    assert [(answer.status, answer.reason) for answer in answers] == [(403, "SCOPE_MISSING")] * len(forbidden)


def test_audio_belongs_to_a_principal_whatever_the_key(server: Server) -> None:
    key, second_key, foreign_key = (server.create_key(name, "tts") for name in ("alice", "alice", "bob"))
    url = server.ask("POST", SPEAK, {"text": "Hello."}, key=key).json["url"]
    assert server.ask("GET", url, key=second_key).status == 200
    answers = [server.ask("GET", path, key=foreign_key) for path in (url, f"{AUDIO}/{'0' * 32}")]
    hers, nobodys = [answer.body.replace(answer.problem["request_id"].encode(), b"") for answer in answers]
    assert hers == nobodys
    assert server.ask("GET", AUDIO, key=foreign_key).json["items"] == []


def test_ticket_becomes_a_cookie_once_and_the_cookie_needs_an_origin(server: Server) -> None:
    ticket = server.ask("POST", "/api/session/tickets").json
    started = server.ask("POST", "/api/session", ticket, key="", headers=HERE)
    assert started.status == 204
    cookie, *attributes = started.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=strict"} <= set(attributes)
    assert server.ask("POST", "/api/session", ticket, key="", headers=HERE).reason == "UNAUTHENTICATED"
    with_cookie = {"Cookie": cookie}
    assert server.ask("GET", "/api/session", key="", headers=with_cookie).json["principal"] == "owner"
    new_ticket = "POST", "/api/session/tickets"
    assert server.ask(*new_ticket, key="", headers=with_cookie).reason == "ORIGIN_NOT_ALLOWED"
    assert server.ask(*new_ticket, key="", headers=with_cookie | HERE).status == 200
