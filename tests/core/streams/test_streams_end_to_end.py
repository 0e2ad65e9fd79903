"""Streams and sockets of a stranger's service, through a real server and its connections."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.server import JSON, SIGNED, Server, eventually, install_plugin, read_answer, request
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

FLOW, TALLY = "/api/fountain/flow", "/api/fountain/tally"
EVENT = re.compile(rb"(?:id: (\d+)\n)?event: (\w+)\ndata: (.*)\n\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    return install_plugin(folder, "fountain", {"corsac.services": {"fountain": "fountain:SERVICE"}})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("streams") / "data", plugins=[site]) as server:
        server.wait_until_ready("fountain")
        yield server


class Reading:
    """One connection to a stream.

    Args:
        server: The server.
        method: As of HTTP.
        path: As of HTTP.
        body: JSON, or None.
        fields: Header fields.
    """

    def __init__(self, server: Server, method: str, path: str, body: Any = None, *fields: str) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        types = [JSON] if content else []
        self.client = server.connect(request(method, path, SIGNED, "Connection: close", *types, *fields, body=content))
        self.head, self._raw, self._body = b"", b"", b""
        self.events: list[tuple[int, str, Any]] = []
        while b"\r\n\r\n" not in self._raw and (more := self.client.recv(65536)):
            self._raw += more
        self.head, _, self._raw = self._raw.partition(b"\r\n\r\n")
        self._dechunk()

    @property
    def status(self) -> int:
        return int(self.head.split(b" ")[1])

    @property
    def location(self) -> str:
        return re.search(rb"location: (\S+)", self.head)[1].decode()  # type: ignore[index]

    def more(self) -> bool:
        """Receive what there is; False at the connection's end."""
        try:
            received = self.client.recv(65536)
        except ConnectionError:
            return False
        self._raw += received
        self._dechunk()
        return bool(received)

    def _dechunk(self) -> None:
        if b"content-length" in self.head:
            self._body += self._raw
            self._raw = b""
        while (match := re.match(rb"([0-9a-f]+)\r\n", self._raw)) and int(match[1], 16):
            end = match.end() + int(match[1], 16)
            if len(self._raw) < end + 2:
                return
            self._body += self._raw[match.end() : end]
            self._raw = self._raw[end + 2 :]
        whole, separator, self._body = self._body.rpartition(b"\n\n")
        for number, kind, data in EVENT.findall(whole + separator):
            self.events.append((int(number or 0), kind.decode(), json.loads(data)))

    def to_its_end(self) -> list[tuple[int, str, Any]]:
        while self.more():
            pass
        self.client.close()
        return self.events

    def close(self) -> None:
        """Vanish with a reset, as a lost connection does."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.client.close()


def running(server: Server) -> int:
    return int(server.ask("GET", TALLY).json["running"])


# Streams


def test_a_stream_arrives_whole_in_both_formats(server: Server) -> None:
    sse = Reading(server, "POST", FLOW, {"n": 5})
    assert [(n, kind) for n, kind, _ in sse.to_its_end()] == [(n, "number") for n in range(1, 6)] + [(6, "done")]
    ndjson = server.ask("POST", FLOW, {"n": 5}, headers={"Accept": "application/x-ndjson"})
    lines = [json.loads(line) for line in ndjson.body.splitlines()]
    assert [(each["id"], each["type"], each["data"]) for each in lines] == sse.events
    assert ndjson.headers["content-type"] == "application/x-ndjson"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "reason"),
    [
        ("POST", FLOW, {"n": 0, "fails": True}, {}, 409, "CONFLICT"),
        ("POST", FLOW, {"n": 1}, {"Accept": "image/png"}, 406, "NOT_ACCEPTABLE"),
        ("POST", FLOW, {"n": 1}, {"Accept": "application/json"}, 406, "NOT_ACCEPTABLE"),
        ("POST", FLOW, {"n": 1}, {"Last-Event-ID": "1"}, 400, "INVALID_EVENT_ID"),
        ("POST", FLOW, {"n": 1}, {"X-Stream-Granularity": "letter"}, 422, "INVALID_CHOICE"),
        ("GET", "/api/streams/nothing", None, {}, 404, "NOT_FOUND"),
        ("GET", "/api/streams/..%5C", None, {}, 422, "INVALID_ID"),
        ("GET", "/api/streams/nothing", None, {"Last-Event-ID": "x'; DROP"}, 400, "INVALID_EVENT_ID"),
    ],
)
def test_an_early_refusal_is_a_problem_with_its_status(
    server: Server, method: str, path: str, body: Any, headers: dict[str, str], status: int, reason: str
) -> None:
    answer = server.ask(method, path, body, headers=headers)
    assert (answer.status, answer.reason) == (status, reason)


def test_a_late_failure_is_an_event(server: Server) -> None:
    *_, (number, kind, problem) = Reading(server, "POST", FLOW, {"n": 2, "fails": True}).to_its_end()
    assert (number, kind, problem["reason"], problem["detail"]) == (3, "error", "CONFLICT", "The fountain is dry.")


def test_events_and_errors_of_a_stream_are_documented(server: Server) -> None:
    operation = server.ask("GET", "/openapi.json").json["paths"][FLOW]["post"]
    assert operation["x-corsac-events"].keys() == {"number", "done", "error", "reset", "shutdown"}
    assert operation["x-corsac-events"]["number"]["properties"].keys() == {"n", "filling"}
    assert {"400", "406", "503"} <= operation["responses"].keys()
    assert operation["x-corsac-timeout-s"] == 600


@pytest.mark.parametrize("pause_ms", [0, 5])
def test_a_stream_stops_within_a_second_after_its_client_left(server: Server, pause_ms: float) -> None:
    reading = Reading(server, "POST", FLOW, {"n": 10**9, "pause_ms": pause_ms})
    reading.more()
    assert running(server) == 1
    reading.close()
    eventually(lambda: running(server) == 0, 1, "the producer has stopped")


def test_a_stream_asked_to_be_resumable_goes_on_as_long_as_asked(server: Server) -> None:
    reading = Reading(server, "POST", FLOW, {"n": 10**9, "pause_ms": 5}, "Prefer: resume=2")
    reading.close()
    began = time.monotonic()
    eventually(lambda: running(server) == 0, 4, "the producer has stopped")
    assert 1 < time.monotonic() - began < 3


def test_a_flood_disturbs_nobody(server: Server) -> None:
    with ThreadPoolExecutor(2) as clients:
        flood = Reading(server, "POST", FLOW, {"n": 10**9, "size": 100})
        clients.submit(flood.to_its_end)
        seconds = sorted(server.ask("GET", "/livez").seconds for _ in range(100))
        flood.close()
    assert seconds[50] < 0.1
    assert seconds[99] < 0.5


def cut_and_resume(server: Server, n_events: int, n_cuts: int, pause_ms: float) -> list[tuple[int, str, Any]]:
    """All events of a stream whose connection is cut at random moments."""
    random, received = Random(7), list[tuple[int, str, Any]]()
    reading = Reading(server, "POST", FLOW, {"n": n_events, "pause_ms": pause_ms}, "Prefer: resume=30")
    location, cuts = reading.location, sorted(random.sample(range(n_events), n_cuts))
    while True:
        target = cuts.pop(0) if cuts else n_events + 1
        while len(received) + len(reading.events) < target and reading.more():
            pass
        received += reading.events
        reading.close()
        if received and received[-1][1] == "done":
            return received
        last = received[-1][0] if received else 0
        reading = Reading(server, "GET", location, None, f"Last-Event-ID: {last}")


@pytest.mark.parametrize(
    ("n_events", "n_cuts", "pause_ms"),
    [(1000, 40, 1), pytest.param(10_000, 200, 1, marks=pytest.mark.slow), (10_000, 200, 0)],
)
def test_random_cuts_lose_and_repeat_nothing(server: Server, n_events: int, n_cuts: int, pause_ms: float) -> None:
    received = cut_and_resume(server, n_events, n_cuts, pause_ms)
    assert [number for number, _, _ in received] == list(range(1, n_events + 2))
    assert [data["n"] for _, kind, data in received if kind == "number"] == list(range(1, n_events + 1))
    assert received[-1][2] == {"n_events": n_events}


def test_anothers_stream_looks_like_none(server: Server) -> None:
    reading = Reading(server, "POST", FLOW, {"n": 10**6, "pause_ms": 5}, "Prefer: resume=5")
    stranger = server.create_key("mallory", "fountain")
    answers = [server.ask("GET", path, key=stranger) for path in (reading.location, reading.location[:-1] + "_")]
    reading.close()
    unlike = [{k: v for k, v in each.problem.items() if k not in ("instance", "request_id")} for each in answers]
    assert unlike[0] == unlike[1]
    assert unlike[0]["reason"] == "NOT_FOUND"


def test_an_id_of_the_future_is_answered_with_a_reset(server: Server) -> None:
    reading = Reading(server, "POST", FLOW, {"n": 3}, "Prefer: resume=5")
    reading.to_its_end()
    [reset, *rest] = Reading(server, "GET", reading.location + "?after=999").to_its_end()
    assert (reset[1], reset[2]["reason"], len(rest)) == ("reset", "UNKNOWN_ID", 4)


def resident_mib(pid: int) -> float:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024  # type: ignore[index]


@pytest.mark.slow
def test_200_clients_that_do_not_read_are_closed_and_memory_is_bounded(server: Server) -> None:
    before = resident_mib(server.pid)
    body = json.dumps({"n": 10**9, "size": 1000}).encode()
    deaf = []
    for _ in range(200):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(server._signed(request("POST", FLOW, SIGNED, JSON, body=body)))
        deaf.append(client)
    eventually(lambda: running(server) >= 190, 20, "they all stream")
    peak = max(resident_mib(server.pid) for _ in range(50) if not time.sleep(0.02))
    assert server.ask("GET", "/livez").status == 200
    eventually(lambda: running(server) == 0, 30, "all were closed")
    assert peak - before < 250
    assert len(server.log_lines(event="request", reason="SLOW_CONSUMER")) >= 190
    for client in deaf:
        client.close()


# Ends


def test_at_sigterm_a_stream_says_where_to_go_on_and_later_that_it_cannot(tmp_path: Path, site: Path) -> None:
    with Server(tmp_path / "data", plugins=[site]) as server:
        server.wait_until_ready("fountain")
        reading = Reading(server, "POST", FLOW, {"n": 10**6, "pause_ms": 20}, "Prefer: resume=5")
        began = time.monotonic()
        server.process.terminate()
        *_, before, (_, kind, place) = reading.to_its_end()
        assert server.process.wait(25) == 0
        assert time.monotonic() - began < 8
        assert (kind, place["location"], place["last_event_id"]) == ("shutdown", reading.location, before[0])
        server.start()
        again = Reading(server, "GET", reading.location, None, f"Last-Event-ID: {before[0]}")
        assert [(kind, data["reason"]) for _, kind, data in again.to_its_end()] == [("reset", "RESTARTED")]


# Events of the server


def test_events_are_followed_replayed_and_counted(server: Server) -> None:
    live = Reading(server, "GET", "/api/events?type=drop")
    server.ask("POST", "/api/fountain/publish", {"n": 300})
    eventually(lambda: live.more() and len(live.events) == 301, 5, "all events have arrived")
    live.close()
    [ready, *seen] = live.events
    assert ready[1] == "ready"
    assert [data["data"]["n"] for _, _, data in seen] == list(range(300))
    middle = seen[99][0]
    late = Reading(server, "GET", f"/api/events?service=fountain&after={middle}")
    eventually(lambda: len(late.events) == 201 or not late.more(), 5, "the rest has arrived")
    late.close()
    assert late.events[1:] == seen[100:]
    page = server.ask("GET", f"/api/events/replay?type=drop&after={middle}&limit=50").json
    assert [each["number"] for each in page["events"]] == [each[0] for each in seen[100:150]]
    assert page["next_after"] == seen[149][0]
    assert server.ask("GET", "/api/events/replay?from=2100-01-01T00:00:00Z").json["events"] == []
    assert server.ask("GET", "/api/events/analytics").json["by_type"]["drop"] >= 300


@pytest.mark.parametrize("path", ["/api/events", "/api/events/replay", "/api/events/analytics"])
def test_events_are_for_administrators(server: Server, path: str) -> None:
    assert server.ask("GET", path, key=server.create_key("mallory", "fountain")).reason == "SCOPE_MISSING"


def test_streams_are_measured_by_service(server: Server) -> None:
    Reading(server, "POST", FLOW, {"n": 5}).to_its_end()
    exposed = server.ask("GET", "/metrics").body.decode()
    for name in (
        "streams_open",
        "streams_detached",
        "stream_bytes_total",
        "stream_resumes_total",
        "stream_gap_seconds_sum",
    ):
        assert f'corsac_{name}{{service="fountain"}}' in exposed


# WebSockets


def dial(server: Server, path: str = "/api/fountain/echo/hall", **headers: str) -> ClientConnection:
    credential = {"Authorization": f"Bearer {server.token}"}
    return connect(f"ws://127.0.0.1:{server.port}{path}", additional_headers={**credential, **headers}, close_timeout=2)


def test_a_socket_echoes_with_the_paths_parameters(server: Server) -> None:
    with dial(server) as client:
        client.send("hi")
        answer = json.loads(client.recv(5))
    assert answer == {"id": 1, "type": "echo", "data": {"room": "hall", "who": "owner", "text": "hi"}}


@pytest.mark.parametrize(
    ("path", "headers", "status", "reason"),
    [
        ("/api/fountain/echo/hall", {"Origin": "https://evil.example"}, 403, "ORIGIN_NOT_ALLOWED"),
        ("/api/fountain/echo/hall", {"Origin": "null"}, 403, "ORIGIN_NOT_ALLOWED"),
        ("/api/fountain/echo/hall", {"Authorization": "Bearer wrong"}, 401, "UNAUTHENTICATED"),
        ("/api/fountain/echo/hall?token=x", {}, 422, "UNKNOWN_FIELD"),
        ("/api/fountain/nowhere", {}, 404, "NOT_FOUND"),
        ("/api/fountain/tally", {}, 404, "NOT_FOUND"),
    ],
)
def test_a_socket_is_refused_before_the_handshake_in_problem_form(
    server: Server, path: str, headers: dict[str, str], status: int, reason: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        dial(server, path, **headers).__enter__()
    response = refused.value.response
    assert (response.status_code, json.loads(response.body)["reason"]) == (status, reason)
    assert response.headers["content-type"] == "application/problem+json"


def test_without_a_token_there_is_no_handshake(server: Server) -> None:
    fields = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    raw = request("GET", "/api/fountain/echo/hall", *fields, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    with server.connect(raw) as client:
        assert read_answer(client, time.monotonic()).reason == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("messages", "code"),
    [(["x" * (2 << 20)], 1009), ([b"binary"], 1003), (["x"] * 1000, 1008)],
    ids=["2 MiB", "binary", "1000 messages"],
)
def test_a_client_that_breaks_a_rule_is_closed_with_its_code(
    server: Server, messages: list[str | bytes], code: int
) -> None:
    with dial(server) as client:
        with suppress(ConnectionClosed):
            for message in messages:
                client.send(message)
        assert last_words(client) == code


def last_words(client: ClientConnection) -> int | None:
    """The code with which the server closes."""
    with suppress(ConnectionClosed):
        while True:
            client.recv(5)
    return client.close_code


def test_a_key_may_have_16_sockets(server: Server) -> None:
    with ExitStack() as clients:
        for _ in range(16):
            clients.enter_context(dial(server))
        with pytest.raises(InvalidStatus) as refused:
            dial(server).__enter__()
    assert (refused.value.response.status_code, b"TOO_MANY_SOCKETS" in refused.value.response.body) == (429, True)


@pytest.mark.slow
def test_a_peer_that_answers_no_ping_is_gone_within_45_seconds(server: Server) -> None:
    fields = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    raw = request("GET", "/api/fountain/echo/hall", SIGNED, *fields, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    began = time.monotonic()
    with server.connect(raw, timeout_s=60) as client:
        received = b""
        while more := client.recv(4096):
            received += more
    assert 35 < time.monotonic() - began < 45
    assert b"\x03\xf3keepalive ping timeout" in received
