"""Bad inputs against a real server: each row gets its clear answer, and nothing is left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bad_inputs import (
    AUDIO,
    CONFIG,
    CONFIGURATION,
    CORE,
    MARKER,
    MIB,
    MULTIPART_END,
    PATH_MARKER,
    SECRET,
    SPEAK,
    SPEECH,
    UPLOADS,
    Ask,
    echo,
    part,
    patched,
    uploaded,
)
from tests.server import Server, eventually, install_plugin, parents


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bad-inputs")
    services = {"workshop": "workshop:SERVICE", "workshop_too": "workshop:SERVICE"}
    services |= {"hen": "workshop:HEN", "egg": "workshop:EGG"}
    plugin = install_plugin(folder / "site", "workshop", {"corsac.services": services})
    with Server(folder / "data", plugins=[plugin]) as server:
        server.wait_until_ready("speech:espeak")
        yield server


@pytest.fixture(scope="module")
def request_ids() -> list[str]:
    """Of every answer that a row got."""
    return []


@pytest.fixture(scope="module")
def audio_id(server: Server) -> str:
    """An audio file of the owner's."""
    return str(server.ask("POST", SPEAK, {"text": "Hello."}).json["id"])


@pytest.mark.parametrize(("ask", "status", "reason", "says", "header"), [*CORE, *CONFIGURATION, *SPEECH, *UPLOADS])
def test_bad_input_gets_its_clear_answer(
    server: Server,
    request_ids: list[str],
    ask: bytes | Ask,
    status: int,
    reason: str,
    says: str,
    header: str,
) -> None:
    answer = server.send(ask) if isinstance(ask, bytes) else ask(server)
    problem = answer.problem
    request_ids.append(problem["request_id"])
    assert (answer.status, problem["reason"]) == (status, reason)
    assert says in " ".join([problem["detail"], *(f"{e['pointer']} {e['detail']}" for e in problem["errors"])])
    assert set(header.split()) <= answer.headers.keys()
    everything = answer.body + repr(answer.headers).encode()
    assert not any(marker in everything for marker in (MARKER.encode(), PATH_MARKER.encode()))
    assert answer.seconds < 1


@pytest.mark.slow
def test_c15_body_that_stops_gets_408_after_fifteen_idle_seconds(server: Server) -> None:
    answer = server.send(echo(b'{"prompt":', "Content-Length: 100"))
    assert (answer.status, answer.reason) == (408, "REQUEST_TIMEOUT")
    assert 14 < answer.seconds < 16


@pytest.mark.parametrize("method", [pytest.param("GET", id="C20-get"), pytest.param("DELETE", id="C20-delete")])
def test_another_s_id_gets_the_answer_of_a_random_one(server: Server, audio_id: str, method: str) -> None:
    key = server.create_key("mallory", "tts")
    answers = [server.ask(method, f"{AUDIO}/{each}", key=key) for each in (audio_id, "0" * 32)]
    assert [answer.status for answer in answers] == [404, 404]
    hers, nobodys = [answer.body.replace(answer.headers["x-request-id"].encode(), b"") for answer in answers]
    assert hers == nobodys
    assert answers[0].headers.keys() == answers[1].headers.keys()
    assert server.ask("GET", f"{AUDIO}/{audio_id}").status == 200


@pytest.mark.parametrize(
    ("ranges", "status"),
    [
        pytest.param("bytes=" + "0-1," * 10_000, 200, id="C25-10000-ranges"),
        pytest.param("bytes=" + "0-," * 10_000, 200, id="C25-10000-times-everything"),
        pytest.param("c4n4ry=0-1", 200, id="C25-another-unit"),
        pytest.param("bytes=100000000-", 416, id="C25-behind-the-end"),
        pytest.param("bytes=9-2", 416, id="C25-backwards"),
        pytest.param("bytes=c4n4ry", 416, id="C25-no-number"),
    ],
)
def test_ranges_cost_no_time(server: Server, audio_id: str, ranges: str, status: int) -> None:
    answers = [server.ask("GET", f"{AUDIO}/{audio_id}", headers={"Range": ranges}) for _ in range(3)]
    assert [answer.status for answer in answers] == [status] * 3
    assert status == 200 or answers[0].reason == "RANGE_NOT_SATISFIABLE"
    assert min(answer.seconds for answer in answers) < 0.1


def test_k02_refused_configuration_changes_nothing(server: Server) -> None:
    before = server.ask("GET", CONFIG).json
    for values in ('{"benches": 11}', '{"bench": 1}', '{"benches": 5, "doors": []}', '{"benches": 5, "api_key": 1}'):
        assert server.send(patched(values)).status in (409, 422)
    assert server.ask("GET", CONFIG).json == before


def test_k03_lockout_is_taken_with_force_and_a_reason(server: Server) -> None:
    forced = server.send(patched('{"doors": []}', "?force=true&reason=Moving"))
    assert (forced.status, forced.json["values"]["doors"]) == (200, [])
    server.send(patched('{"doors": ["front"]}'))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"[services.workshop]\nbenches = ", id="K04-half-written"),
        pytest.param(b"[services.workshop]\nbenches = 99\n", id="K04-out-of-range"),
        pytest.param(b"[services.worskhop]\nbenches = 5\n", id="K04-unknown-service"),
        pytest.param(bytes(range(256)) * 100, id="K04-binary"),
        pytest.param(b"", id="K04-100-mib"),
        pytest.param(b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", id="K04-anchor-bomb"),
        pytest.param(b"!!python/object/apply:os.system ['touch c4n4ry']\n", id="K04-python-object"),
    ],
)
def test_bad_configuration_file_is_refused_and_the_old_values_stay(server: Server, content: bytes) -> None:
    before, n_refused = server.ask("GET", CONFIG).json["values"], len(refusals_of_the_file(server))
    replace_file(server.directory / "corsac.toml", content, size_bytes=None if content else 100 * MIB)
    eventually(lambda: len(refusals_of_the_file(server)) > n_refused, 5, "the file is refused")
    assert server.ask("GET", CONFIG).json["values"] == before
    checks = server.ask("GET", "/api/health").json["checks"]
    assert any(check["status"] == "warn" for name, found in checks.items() if "config:file" in name for check in found)
    assert MARKER not in server.log_lines(event="configuration file refused")[-1]["detail"]


def test_k06_secret_of_the_configuration_is_never_shown(server: Server) -> None:
    changed = server.send(patched(json.dumps({"api_key": SECRET})))
    paths = ["", "/history", f"/diff?from=0&to={changed.json['version']}"]
    answers = [changed, *(server.ask("GET", CONFIG + path) for path in paths)]
    assert [answer.status for answer in answers] == [200] * 4
    assert [answer.json["values"]["api_key"] for answer in answers[:2]] == ["***"] * 2
    assert not any(SECRET.encode() in answer.body for answer in answers)


@pytest.mark.parametrize(
    ("plugin", "error"),
    [
        pytest.param("workshop_too", "AlreadyRegistered: workshop is registered already.", id="K07-registered-twice"),
        pytest.param("hen", "DependencyCycle: egg → hen → egg need each other in a circle.", id="K07-cycle"),
    ],
)
def test_plugin_that_cannot_be_registered_is_named_with_the_reason(server: Server, plugin: str, error: str) -> None:
    plugins = server.ask("GET", "/api/registry").json["plugins"]
    assert [each["error"] for each in plugins if each["name"] == plugin] == [error]


def test_unforeseen_failure_is_a_500_that_says_nothing_of_it(server: Server) -> None:
    answer = server.ask("POST", "/api/workshop/crash")
    assert (answer.status, answer.reason) == (500, "INTERNAL_ERROR")
    assert server.token.encode() not in answer.body
    assert b"upstream" not in answer.body


def test_uploaded_file_is_gone_after_the_answer(server: Server) -> None:
    answer = server.send(uploaded(part('; name="a"; filename="../../p4th"', b"x" * 5000) + MULTIPART_END))
    assert answer.json == {"files": {"a": 5000}}
    assert server.half_written_files() == []


def test_after_all_that_nothing_is_left_behind(server: Server, request_ids: list[str]) -> None:
    assert server.ask("GET", "/livez").status == 200
    children = server.children()
    assert server.stop() == 0
    assert children
    assert not children & parents().keys()
    assert server.half_written_files() == []
    logged = [line["request_id"] for event in ("request", "refused") for line in server.log_lines(event=event)]
    assert sorted(id_ for id_ in logged if id_ in request_ids) == sorted(request_ids)
    tracebacks = [line["event"] for line in server.log_lines() if "Traceback" in str(line)]
    assert tracebacks == ["plugin failed", "plugin failed", "operation failed"]
    log = b"".join(file.read_bytes() for file in (server.directory / "logs").iterdir())
    assert not any(each.encode() in log for each in (server.token, SECRET, MARKER))
    assert not any(byte < 32 for byte in log.replace(b"\n", b""))


def replace_file(path: Path, content: bytes, size_bytes: int | None) -> None:
    """Put a file in place whole; a size makes it so long without writing that much."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    if size_bytes is not None:
        os.truncate(new, size_bytes)
    new.replace(path)


def refusals_of_the_file(server: Server) -> list[dict[str, Any]]:
    return server.log_lines(event="configuration file refused")
