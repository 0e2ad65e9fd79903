"""What a WebSocket's client may do, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message
from tests.conftest import Clock
from tests.core.streams.conftest import call_of

from corsac.core.exceptions import Conflict, ShuttingDown
from corsac.core.http.crash_guard import CALL
from corsac.core.streams.event import Event, SlowConsumer
from corsac.core.streams.websocket import Socket, SocketEndpoint, SocketLimits, SocketPool, TooManySockets

LIMITS = SocketLimits(per_key=2, messages_per_s=10, burst=3, inbox=8, write_timeout_s=0.05)


async def echo(socket: Socket) -> None:
    async for text in socket:
        await socket.send(Event("echo", {"text": text}))


class Peer:
    """The other side of a connection."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.sent: list[Message] = []
        self.reads = True

    def say(self, **message: Any) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", **message})

    def leave(self) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def send(self, message: Message) -> None:
        if not self.reads and message["type"] == "websocket.send":
            await asyncio.sleep(3600)
        self.sent.append(message)

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.sent if message["type"] == "websocket.send"]

    @property
    def end(self) -> tuple[int, str]:
        """Code and reason of the close."""
        assert self.sent[-1]["type"] == "websocket.close"
        return self.sent[-1]["code"], self.sent[-1]["reason"]


@pytest.fixture
def pool() -> SocketPool:
    return SocketPool(CollectorRegistry(), LIMITS)


async def connected(pool: SocketPool, peer: Peer, handler: Callable[..., Awaitable[None]] = echo) -> None:
    scope = {"type": "websocket", CALL: call_of("alice"), "path_params": {}}
    async with asyncio.timeout(2):
        await SocketEndpoint(handler, pool)(scope, peer.incoming.get, peer.send)


async def test_texts_are_answered_with_numbered_events(pool: SocketPool) -> None:
    peer = Peer()
    peer.say(text="a")
    peer.say(text="b\u2028")
    talking = asyncio.create_task(connected(pool, peer))
    await asyncio.sleep(0.05)
    assert len(pool.open) == 1
    peer.leave()
    await talking
    assert peer.texts == [
        '{"id":1,"type":"echo","data":{"text":"a"}}',
        '{"id":2,"type":"echo","data":{"text":"b\\u2028"}}',
    ]
    assert not pool.open


@pytest.mark.parametrize(
    ("messages", "end"),
    [([{"bytes": b"x"}], (1003, "TEXT_ONLY")), ([{"text": "x"}] * 4, (1008, "RATE_LIMITED"))],
    ids=["binary", "flood"],
)
async def test_a_rule_that_is_broken_closes_the_connection(
    pool: SocketPool, messages: list[dict[str, Any]], end: tuple[int, str]
) -> None:
    peer = Peer()
    for message in messages:
        peer.say(**message)
    await connected(pool, peer)
    assert peer.end == end


async def test_the_allowance_of_messages_comes_back_with_time(clock: Clock) -> None:
    peer = Peer()
    socket = Socket(call_of("alice"), peer.incoming.get, peer.send, LIMITS, clock)
    serving = asyncio.create_task(socket.serve(echo))
    for n in range(12):
        clock.now += 0.1
        peer.say(text=str(n))
        await asyncio.sleep(0.005)
    assert len(peer.texts) == 12
    peer.leave()
    await serving


async def test_a_handler_that_does_not_read_is_not_buried(clock: Clock) -> None:
    peer = Peer()
    socket = Socket(call_of("alice"), peer.incoming.get, peer.send, SocketLimits(inbox=3, burst=100), clock)
    for _ in range(4):
        peer.say(text="x")
    await asyncio.wait_for(socket.serve(lambda _: asyncio.sleep(3600)), 2)
    assert peer.end == (1008, "RATE_LIMITED")


async def test_when_the_client_leaves_the_handler_is_cancelled(pool: SocketPool) -> None:
    ended = asyncio.Event()

    async def resting(_socket: Socket) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    peer = Peer()
    peer.leave()
    await connected(pool, peer, resting)
    assert ended.is_set()


async def test_a_handler_that_returns_closes_in_peace_and_one_that_fails_is_heard(pool: SocketPool) -> None:
    async def short(_socket: Socket) -> None:
        return

    async def failing(_socket: Socket) -> None:
        raise Conflict

    peer = Peer()
    await connected(pool, peer, short)
    assert peer.end == (1000, "")
    with pytest.raises(Conflict):
        await connected(pool, Peer(), failing)


async def test_a_peer_that_does_not_read_ends_the_handler(pool: SocketPool) -> None:
    peer = Peer()
    peer.reads = False
    peer.say(text="a")
    with pytest.raises(SlowConsumer):
        await connected(pool, peer)


async def test_a_key_has_a_number_of_connections_and_gets_its_place_back(pool: SocketPool) -> None:
    peers = [Peer(), Peer()]
    talking = [asyncio.create_task(connected(pool, peer)) for peer in peers]
    await asyncio.sleep(0.01)
    refused = Peer()
    with pytest.raises(TooManySockets):
        await connected(pool, refused)
    assert refused.sent == []
    peers[0].leave()
    await talking[0]
    third = Peer()
    third.leave()
    await connected(pool, third)
    peers[1].leave()
    await talking[1]


async def test_at_shutdown_connections_end_with_1012_and_no_new_ones_begin(pool: SocketPool) -> None:
    peer = Peer()
    talking = asyncio.create_task(connected(pool, peer))
    await asyncio.sleep(0.01)
    pool.shut_down()
    await talking
    assert peer.end == (1012, "SHUTTING_DOWN")
    with pytest.raises(ShuttingDown):
        await connected(pool, Peer())
