"""What the protocol refuses, and what it lets pass, seen from a raw socket."""

import json
import sys
import time

import pytest
from tests.core.http.conftest import RawServer, read, request, statuses

FIELD_OF_22_CHARACTERS = "X: 12345678901234567890"
CHUNKED = request("/upload", "Transfer-Encoding: chunked", method="POST")
TEN_BYTES = request("/upload", "Content-Length: 10", method="POST")
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade")
HANDSHAKE = (*UPGRADE, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


@pytest.fixture(scope="module")
def server():
    limits = {"header_timeout_s": 0.6, "body_idle_timeout_s": 0.6, "body_bytes_per_s": 1, "write_timeout_s": 1}
    server = RawServer(limits={**limits, "linger_s": 0.5})
    yield server
    server.close()


def problem(reply):
    head, _, body = reply.rpartition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    document = json.loads(body)
    assert b"x-request-id: " + document["request_id"].encode() in head
    return document


REFUSED = [
    ("200 kB in one header", request("/root", "X: " + "a" * 200_000), "HEADERS_TOO_LARGE"),
    ("200 kB in 90 headers", request("/root", *["X: " + "a" * 2200] * 90), "HEADERS_TOO_LARGE"),
    ("70 kB in one header", request("/root", "X: " + "a" * 70_000), "HEADERS_TOO_LARGE"),
    ("101 headers", request("/root", *["X: a"] * 100), "HEADERS_TOO_LARGE"),
    ("2,000 headers", request("/root", *["X: a"] * 2000), "HEADERS_TOO_LARGE"),
    ("a 70 kB target", request("/" + "a" * 70_000), "HEADERS_TOO_LARGE"),
    ("a chunk extension without end", CHUNKED + b"3;" + b"a" * 200_000, "HEADERS_TOO_LARGE"),
    ("trailers without end", CHUNKED + b"0\r\n" + b"X: a\r\n" * 200, "HEADERS_TOO_LARGE"),
    ("no byte at all", b"", "REQUEST_TIMEOUT"),
    ("half a header", b"GET / HT", "REQUEST_TIMEOUT"),
    ("a body that stops after 3 of 10 bytes", TEN_BYTES + b"abc", "REQUEST_TIMEOUT"),
    ("a chunked body that stops", CHUNKED + b"3\r\nab", "REQUEST_TIMEOUT"),
    ("method CLOSE", request(method="CLOSE"), "INVALID_REQUEST"),
    ("method __INIT__", request(method="__INIT__"), "INVALID_REQUEST"),
    ("a method in lower case", request(method="get"), "INVALID_REQUEST"),
    ("method CONNECT", request("x:80", method="CONNECT"), "INVALID_REQUEST"),
    ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00", "INVALID_REQUEST"),
    ("ESC in a header value", request("/root", "X: a\x1bb"), "INVALID_REQUEST"),
    ("CR in a header value", request("/root", "X: a\rb"), "INVALID_REQUEST"),
    ("a target that is not ASCII", request("/\xe9"), "INVALID_REQUEST"),
    (
        "Content-Length and Transfer-Encoding",
        TEN_BYTES[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "INVALID_REQUEST",
    ),
    ("a space before the colon", request("/upload", "Transfer-Encoding : chunked"), "INVALID_REQUEST"),
    ("two lengths", request("/upload", "Content-Length: 1", "Content-Length: 2"), "INVALID_REQUEST"),
    ("a bad chunk size", CHUNKED + b"zz\r\n", "INVALID_REQUEST"),
    ("a bad chunk end", CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", "INVALID_REQUEST"),
    ("two Hosts", request("/root", "Host: y"), "INVALID_REQUEST"),
    ("no Host", request(host=""), "INVALID_REQUEST"),
    ("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", "INVALID_REQUEST"),
    ("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "INVALID_REQUEST"),
    ("h2c with a body", TEN_BYTES[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "INVALID_REQUEST"),
    ("a WebSocket without a key", request("/ws", *UPGRADE), "INVALID_REQUEST"),
    ("a WebSocket of another version", request("/ws", *UPGRADE, HANDSHAKE[3]), "INVALID_REQUEST"),
    ("a WebSocket by POST", request("/ws", *HANDSHAKE, method="POST"), "INVALID_REQUEST"),
    (
        "a WebSocket with a 9 kB cookie",
        request("/ws", *HANDSHAKE, "Cookie: " + "a" * 9000),
        "INVALID_REQUEST",
    ),
]


@pytest.mark.parametrize(("data", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_as_a_problem_with_a_closed_connection(server, data, reason):
    reply, end = server.ask(data, seconds=3)
    document = problem(reply)
    assert document["reason"] == reason
    assert statuses(reply) == [document["status"]]
    assert end == "closed"


ANSWERED = [
    ("100 headers in 60 kB", request("/root", *["X: " + "a" * 600] * 99), [200]),
    ("two pipelined", request() * 2, [200, 200]),
    ("PROPFIND is for the application", request(method="PROPFIND"), [405]),
    ("RTSP is for the application", b"PLAY /root RTSP/1.0\r\nHost: x\r\n\r\n", [405]),
    ("HTTP/1.0 without a Host", b"GET /root HTTP/1.0\r\n\r\n", [200]),
    ("garbage behind a good request", request("/slow") + b"GARBAGE\r\n\r\n", [200, 400]),
    ("a broken body behind a good request", request("/slow") + CHUNKED + b"zz\r\n", [200, 400]),
    ("17 pipelined and some more", request("/slow") + request() * 20, [200] * 17 + [400]),
    ("a WebSocket behind an unanswered request", request("/slow") + request("/ws", *HANDSHAKE), [200, 400]),
    ("a megabyte that waits for us", request("/upload?wait=1", "Content-Length: 1000000", method="POST")
     + b"a" * 1_000_000, [200]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), [row[1:] for row in ANSWERED], ids=[row[0] for row in ANSWERED])
def test_answered_in_order(server, data, expected):
    reply, _ = server.ask(data, seconds=4, n_answers=len(expected))
    assert statuses(reply) == expected


def test_header_of_one_byte_at_a_time_times_out(server):
    with server.connect() as client:
        reply, began = b"", time.monotonic()
        for byte in request("/root", FIELD_OF_22_CHARACTERS):
            client.sendall(bytes([byte]))
            reply, _ = read(client, 0.1)
            if reply:
                break
    assert problem(reply)["reason"] == "REQUEST_TIMEOUT"
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("byte", [b"G", b"\r\n"])
def test_kept_connection_has_a_whole_header_s_time_from_the_first_byte(server, byte):
    with server.connect(request()) as client:
        assert statuses(read(client, 0.3, 1)[0]) == [200]
        time.sleep(0.8)
        client.sendall(byte)
        reply, end = read(client, 3)
    assert problem(reply)["reason"] == "REQUEST_TIMEOUT"
    assert end == "closed"


def test_slow_but_steady_body_is_read(server):
    with server.connect(TEN_BYTES) as client:
        for _ in range(10):
            client.sendall(b"a")
            time.sleep(0.1)
        assert statuses(read(client, 0.5, 1)[0]) == [200]


def test_body_below_the_lowest_rate_times_out(start_server):
    server = start_server(limits={"body_idle_timeout_s": 1, "body_bytes_per_s": 1000})
    with server.connect(TEN_BYTES) as client:
        reply = b""
        while not reply:
            client.sendall(b"a")
            reply, _ = read(client, 0.3)
    assert problem(reply)["reason"] == "REQUEST_TIMEOUT"


def test_client_that_waits_for_100_continue_is_not_timed_out(server):
    head = request("/upload?wait=1", "Expect: 100-continue", "Content-Length: 3", method="POST")
    with server.connect(head) as client:
        first, _ = read(client, 3, 1)
        client.sendall(b"abc")
        assert statuses(first + read(client, 0.5, 1)[0]) == [100, 200]


def test_trailer_does_not_become_a_header(server):
    reply, _ = server.ask(CHUNKED, b"3\r\nabc\r\n0\r\nX-Evil: 1\r\n\r\n", n_answers=1)
    assert reply.endswith(b'{"size": 3, "evil": []}')


@pytest.mark.parametrize("path", ["/early", "/early?close=1"])
def test_early_answer_reaches_a_client_that_still_sends_and_then_the_connection_ends(start_server, path):
    server = start_server(limits={"linger_s": 0.5})
    head = request(path, "Content-Length: 100000000", method="POST")
    with server.connect(head + b"a" * 1_000_000) as client:
        began = time.monotonic()
        reply, end = read(client, 3)
    assert statuses(reply) == [413]
    assert end == "closed"  # and not reset, which may lose the answer
    assert time.monotonic() - began < 1


def test_early_answer_keeps_the_connection_once_the_body_is_in(server):
    head = request("/early", "Content-Length: 10", method="POST")
    reply, _ = server.ask(head, b"0123456789" + request(), n_answers=2)
    assert statuses(reply) == [413, 200]


LEAVING = [
    ("a handler that sleeps", request("/sleep"), "cancelled"),
    ("a handler that sleeps, and a pipelined request", request("/sleep") + request(), "cancelled"),
    ("a handler that does not read its body",
     request("/sleep", "Content-Length: 150000", method="POST") + b"a" * 150_000, "cancelled"),
    ("a stream", request("/sse"), "stream ended"),
    ("a stream, and a pipelined request", request("/sse") + request(), "stream ended"),
    ("a stream that nobody reads", request("/sse?big=65536"), "stream ended"),
    ("work behind a complete answer", request("/sleep?answered=1"), "finished"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "event"), [row[1:] for row in LEAVING], ids=[row[0] for row in LEAVING])
def test_client_that_leaves_ends_its_unanswered_request_within_a_second(server, data, event):
    before = server.stats()["events"]
    client = server.connect(data)
    time.sleep(0.2)
    client.close()
    left = time.monotonic()
    while (after := server.stats()["events"]) == before and time.monotonic() - left < 1:
        pass
    assert after == [*before, event]
    assert server.lines.empty()  # nothing was logged about it


def test_reader_that_stops_reading_is_dropped(server):
    with server.connect(request("/sse?big=65536"), receive_buffer=4096):
        time.sleep(0.3)
        assert server.stats()["streams"] == 1
        time.sleep(1)
        assert server.stats()["streams"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the option is Linux's")
def test_unacknowledged_bytes_have_a_time_limit_on_every_connection(server):
    assert server.stats()["user_timeout_ms"] == 30_000


def test_upgrade_that_is_not_taken_is_answered_and_ends_the_connection(server):
    upgrade = request("/root", "Connection: Upgrade", "Upgrade: h2c")
    reply, end = server.ask(upgrade, request(), seconds=0.5)
    assert (statuses(reply), end) == ([200], "closed")


def test_websocket_echoes(server):
    with server.connect(request("/ws", *HANDSHAKE)) as client:
        assert statuses(read(client, 0.3)[0]) == [101]
        client.sendall(b"\x81\x82\0\0\0\0hi")
        assert read(client, 0.3)[0] == b"\x81\x02hi"


def test_every_refusal_is_reported_with_its_request_id_and_peer(server):
    reply, _ = server.ask(request(host=""))
    document = problem(reply)
    assert server.stats()["refusals"][-1] == ["INVALID_REQUEST", document["request_id"], "127.0.0.1"]


def test_connections_above_the_cap_get_a_503_and_leave_no_trace(start_server):
    server = start_server(limits={"connections": 20, "header_timeout_s": 30})
    clients = [server.connect() for _ in range(30)]
    replies = [read(client, 0.03) for client in clients]
    refused = [problem(reply)["reason"] for reply, end in replies if end == "closed"]
    for client in clients:
        client.close()
    assert refused == ["TOO_MANY_CONNECTIONS"] * 10
    assert [end for _, end in replies].count("open") == 20
    assert statuses(server.ask(request(), seconds=0.5)[0]) == [200]


def test_refused_client_may_linger_only_beside_so_many_others(start_server):
    server = start_server(limits={"lingering": 0})
    client = server.connect(request(host=""))
    client.settimeout(0.5)
    with client:
        assert statuses(read(client, 0.5)[0]) == [400]
        client.sendall(b"more")  # to a socket that is closed already: the system answers with a reset
        time.sleep(0.1)
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            client.sendall(b"more")


def test_keep_alive_ends_after_its_time(start_server):
    server = start_server(limits={"keep_alive_s": 1})
    reply, end = server.ask(request(), seconds=2)
    assert statuses(reply) == [200]
    assert end == "closed"
