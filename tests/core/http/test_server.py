"""The server's life, seen from outside: a real process, real signals."""

import signal
import socket
import time

import pytest
from tests.core.http.conftest import read, request, statuses

from corsac.core.exceptions import StartRefused
from corsac.core.http.lifespan import Lifespan
from corsac.core.http.listener import open_listener
from corsac.core.http.server import serve


def test_drain_refuses_new_work_answers_what_runs_ends_streams_and_exits_with_0(start_server):
    server = start_server()
    with (
        server.connect(request("/slow")) as slow,
        server.connect(request("/sse")) as stream,
        server.connect(request("/sse?big=65536"), receive_buffer=4096),
    ):
        time.sleep(0.3)
        server.send_signal()
        server.wait_for("draining", seconds=0.2)
        assert statuses(server.ask(request(), n_answers=1)[0]) == [503]
        assert statuses(read(slow, 2, 1)[0]) == [200]
        assert b"event: bye" in read(stream, 2)[0]
        assert server.exit_code(3) == 0
    server.wait_for("stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_server_ends_at_once(start_server, number):
    server = start_server()
    with server.connect(request()):
        server.send_signal(number)
        assert server.exit_code(1.5) == 0
    server.wait_for("stopped")


def test_second_signal_does_not_wait(start_server):
    server = start_server(drain_timeout_s=30)
    with (
        server.connect(request("/stuck")),
        server.connect(request("/sleep")),
        server.connect(request("/sse?big=65536"), receive_buffer=4096),
    ):
        time.sleep(0.3)
        server.send_signal()
        server.wait_for("draining")
        assert server.exit_code(0.2) is None
        server.send_signal()
        assert server.exit_code(3) == 0


def test_neither_a_stuck_thread_nor_a_slow_stop_of_the_application_holds_the_exit(start_server):
    stuck = start_server(drain_timeout_s=0.5)
    slow = start_server(drain_timeout_s=0.5, shutdown_s=60)
    with stuck.connect(request("/stuck")):
        time.sleep(0.3)
        stuck.send_signal()
        slow.send_signal()
        assert stuck.exit_code(0.5 + 5) == 0
        assert slow.exit_code(0.5) == 0


def test_open_websocket_does_not_hold_the_exit_and_is_told(start_server):
    server = start_server()
    key = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    with server.connect(request("/ws", "Upgrade: websocket", "Connection: Upgrade", *key)) as client:
        assert statuses(read(client, 1, 1)[0]) == [101]
        server.send_signal()
        assert read(client, 2) == (b"\x88\x02\x03\xf4", "closed")  # 1012: service restart
        assert server.exit_code(2) == 0


def test_signal_during_the_start_cancels_it(start_server):
    server = start_server(listening=False, startup_s=60)
    server.wait_for("starting")
    time.sleep(0.5)
    server.send_signal()
    server.wait_for("lifespan cancelled", seconds=1)
    assert server.exit_code(2) == 0


def test_hang_up_asks_for_a_reload_and_serving_goes_on(start_server):
    server = start_server()
    server.send_signal(signal.SIGHUP)
    server.wait_for("reload", seconds=1)
    assert statuses(server.ask(request(), n_answers=1)[0]) == [200]


@pytest.fixture
def occupied():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def never_called(scope, receive, send):
    raise AssertionError("The application was started.")


def test_occupied_port_is_refused_before_the_application_starts(occupied):
    with pytest.raises(StartRefused, match=f"Port {occupied} of 127.0.0.1 is in use .* set CORSAC_PORT"):
        serve(never_called, host="127.0.0.1", port=occupied)


@pytest.mark.parametrize("host", ["203.0.113.1", "host.invalid"])
def test_address_of_another_machine_is_refused(host):
    with pytest.raises(StartRefused, match="CORSAC_HOST"):
        open_listener(host, 0)


def test_port_that_another_start_took_meanwhile_is_refused_and_the_application_stopped():
    steps = []
    listener = open_listener("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()

    async def app(scope, receive, send):
        for step in ("startup", "shutdown"):
            await receive()
            steps.append((step, rival.listen()))
            await send({"type": f"lifespan.{step}.complete"})

    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(("127.0.0.1", port))  # bound and not yet listening: both binds succeed
        with pytest.raises(StartRefused, match="in use"):
            serve(app, host="127.0.0.1", port=port)
    assert [step for step, _ in steps] == ["startup", "shutdown"]


def test_refusal_of_the_application_to_start_comes_out_as_it_is():
    async def app(scope, receive, send):
        raise StartRefused("The token file is readable by everyone.")

    with pytest.raises(StartRefused, match="token file"):
        serve(app, host="127.0.0.1", port=0)


async def test_application_that_leaves_its_start_half_done_is_an_error():
    async def app(scope, receive, send):
        await send({"type": "lifespan.startup.failed"})

    with pytest.raises(RuntimeError, match="without completing its startup"):
        await Lifespan(app).startup()
