"""What goes over the wire of a streaming answer, message by message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import Message

from corsac.core.call import Call
from corsac.core.exceptions import Conflict, CorsacError, InvalidChoice
from corsac.core.identity import OWNER
from corsac.core.logging_config import Logger
from corsac.core.metrics import Metrics
from corsac.core.streaming_mixin import EventStreamResponse, StreamingResponseMixin, Wishes
from corsac.core.streams.event import Event, InvalidEventId, SlowConsumer
from corsac.core.streams.hub import StreamHub

SSE, NDJSON = "text/event-stream", "application/x-ndjson"


class Streamer(StreamingResponseMixin):
    """A router with nothing but streams."""

    def __init__(self, streams: StreamHub) -> None:
        self.streams = streams


@pytest.fixture
async def streamer(logger: Logger) -> AsyncIterator[Streamer]:
    streamer = Streamer(StreamHub(logger, Metrics()))
    yield streamer
    await streamer.streams.close()


def call_of(media_type: str = SSE) -> Call:
    return Call("r1", OWNER, service="echo", operation="count", media_type=media_type)


async def tokens(*texts: str, error: Exception | None = None, pause_s: float = 0.0) -> AsyncIterator[Event]:
    for text in texts:
        await asyncio.sleep(pause_s)
        yield Event("token", {"text": text})
    if error:
        raise error


class Client:
    """Takes ASGI messages.

    Args:
        slow_after: Number of messages after which it reads no more for a time.
        slow_s: That time in seconds.
    """

    def __init__(self, slow_after: int | None = None, slow_s: float = 3600) -> None:
        self.messages: list[Message] = []
        self.slow_after, self.slow_s = slow_after, slow_s

    async def send(self, message: Message) -> None:
        if self.slow_after is not None and len(self.messages) >= self.slow_after:
            self.slow_after = None
            await asyncio.sleep(self.slow_s)
        self.messages.append(message)

    @property
    def body(self) -> str:
        return b"".join(message.get("body", b"") for message in self.messages).decode()

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def complete(self) -> bool:
        return not self.messages[-1].get("more_body", True)


async def answered(
    response: EventStreamResponse, client: Client | None = None, method: str = "POST", **headers: str
) -> Client:
    client = client or Client()
    names = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "headers": names}

    async def receive() -> Message:
        raise AssertionError

    await response(scope, receive, client.send)
    return client


def events_of(client: Client) -> list[tuple[str, Any]]:
    events = []
    for block in client.body.split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in block.splitlines())
        if "event" in fields:
            events.append((fields["event"], json.loads(fields["data"])))
    return events


async def test_server_sent_events_have_their_headers_ids_and_end(streamer: Streamer) -> None:
    client = await answered(streamer.create_streaming_response(tokens("a", "b\n"), call_of()))
    assert client.complete
    assert client.body == (
        "retry: 2000\n\n"
        'id: 1\nevent: token\ndata: {"text":"a"}\n\n'
        'id: 2\nevent: token\ndata: {"text":"b\\n"}\n\n'
        'id: 3\nevent: done\ndata: {"n_events":2}\n\n'
    )
    location = client.headers.pop("location")
    assert location.startswith("/api/streams/")
    assert client.headers.items() >= {
        ("content-type", SSE),
        ("cache-control", "no-store"),
        ("x-accel-buffering", "no"),
    }


async def test_lines_of_json_carry_the_same_events_and_ids(streamer: Streamer) -> None:
    client = await answered(streamer.create_streaming_response(tokens("a"), call_of(NDJSON)))
    assert client.headers["content-type"] == NDJSON
    assert [json.loads(line) for line in client.body.splitlines()] == [
        {"id": 1, "type": "token", "data": {"text": "a"}},
        {"id": 2, "type": "done", "data": {"n_events": 1}},
    ]


async def test_create_sse_response_is_always_sse(streamer: Streamer) -> None:
    client = await answered(streamer.create_sse_response(tokens("a"), call_of(NDJSON)))
    assert client.headers["content-type"] == SSE


async def test_a_transform_filters_and_changes(streamer: Streamer) -> None:
    def loud(event: Event) -> Event | None:
        return None if event.data["text"] == "b" else Event("shout", event.data["text"].upper())

    client = await answered(streamer.create_streaming_response(tokens("a", "b", "c"), call_of(), transform=loud))
    assert events_of(client)[:-1] == [("shout", "A"), ("shout", "C")]


async def test_an_early_failure_is_raised_before_anything_is_sent(streamer: Streamer) -> None:
    client = Client()
    with pytest.raises(Conflict):
        await answered(streamer.create_streaming_response(tokens(error=Conflict()), call_of()), client)
    assert client.messages == []


async def test_a_late_failure_is_the_last_event_of_a_complete_body(streamer: Streamer) -> None:
    client = await answered(streamer.create_streaming_response(tokens("a", error=Conflict()), call_of()))
    assert [(name, data.get("reason")) for name, data in events_of(client)] == [("token", None), ("error", "CONFLICT")]
    assert client.complete


# What the client wishes


@pytest.mark.parametrize(
    ("prefer", "resume_s"),
    [
        ("resume=10", 10),
        ('respond-async, Resume = "7"', 7),
        ("resume=99999", 30),
        ("resume=5; x=1", 5),
        ("resume", 0),
        ("resume=-1", 0),
        ("xresume=3", 0),
        ("resume=1.5", 0),
    ],
)
def test_the_wish_to_resume_is_read_and_bounded(prefer: str, resume_s: float) -> None:
    scope = {"method": "POST", "headers": [(b"prefer", prefer.encode())]}
    assert Wishes.of(scope).resume_s == resume_s


async def test_a_granted_wish_is_confirmed(streamer: Streamer) -> None:
    client = await answered(streamer.create_streaming_response(tokens("a"), call_of()), prefer="resume=12")
    assert client.headers["preference-applied"] == "resume=12"


@pytest.mark.parametrize(
    ("method", "headers", "error"),
    [
        ("POST", {"last_event_id": "3"}, InvalidEventId),
        ("GET", {"last_event_id": "x'; DROP"}, InvalidEventId),
        ("GET", {"last_event_id": "-1"}, InvalidEventId),
        ("GET", {"last_event_id": "٣"}, InvalidEventId),
        ("GET", {"last_event_id": "9" * 30}, InvalidEventId),
        ("GET", {"last_event_id": ""}, InvalidEventId),
        ("POST", {"x_stream_granularity": "letter"}, InvalidChoice),
    ],
)
async def test_wishes_that_cannot_be_granted_are_refused_before_the_producer_begins(
    streamer: Streamer, method: str, headers: dict[str, str], error: type[CorsacError]
) -> None:
    client = Client()
    with pytest.raises(error):
        await answered(streamer.create_streaming_response(tokens("a"), call_of()), client, method, **headers)
    assert (client.messages, len(streamer.streams)) == ([], 0)


async def test_who_comes_back_to_a_stream_that_begins_anew_is_told(streamer: Streamer) -> None:
    client = await answered(
        streamer.create_streaming_response(tokens("a"), call_of()), method="GET", last_event_id="40"
    )
    assert [name for name, _ in events_of(client)] == ["reset", "token", "done"]


@pytest.mark.parametrize(
    ("granularity", "expected"), [("token", ["a", " b", " c"]), ("word", ["a", " b", " c"]), ("chunk", ["a", " b c"])]
)
async def test_granularity_joins_texts_and_is_confirmed(
    streamer: Streamer, granularity: str, expected: list[str]
) -> None:
    response = streamer.create_streaming_response(tokens("a", " b", " c"), call_of())
    client = await answered(response, x_stream_granularity=granularity)
    assert [data["text"] for name, data in events_of(client) if name == "token"] == expected
    assert client.headers["x-stream-granularity"] == granularity


async def test_a_held_back_text_is_sent_when_no_more_comes(streamer: Streamer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corsac.core.streaming_mixin.HOLD_S", 0.01)

    async def stalling() -> AsyncIterator[Event]:
        yield Event("token", {"text": "Hal"})
        await asyncio.sleep(3600)

    client = Client()
    response = streamer.create_streaming_response(stalling(), call_of())
    answering = asyncio.create_task(answered(response, client, x_stream_granularity="word"))
    await asyncio.sleep(0.1)
    answering.cancel()
    assert ("token", {"text": "Hal"}) in events_of(client)


# Slow readers and silence


async def test_silence_is_filled_with_heartbeats(streamer: Streamer) -> None:
    response = streamer.create_streaming_response(tokens("a", "b", pause_s=0.1), call_of())
    response.heartbeat_s = 0.02
    client = await answered(response)
    assert 2 <= client.body.count("\n\n:\n\n") <= 6
    assert [name for name, _ in events_of(client)] == ["token", "token", "done"]


async def test_a_client_that_lags_gets_fewer_and_larger_events(streamer: Streamer) -> None:
    words = [f" {n}" for n in range(300)]
    client = await answered(
        streamer.create_streaming_response(tokens(*words), call_of()), Client(slow_after=2, slow_s=0.06)
    )
    sent = [data["text"] for name, data in events_of(client) if name == "token"]
    assert "".join(sent) == "".join(words)
    assert len(sent) < 200


async def test_a_client_that_asks_for_tokens_gets_tokens_also_when_it_lags(streamer: Streamer) -> None:
    response = streamer.create_streaming_response(tokens(*["a"] * 300), call_of())
    client = await answered(response, Client(slow_after=2, slow_s=0.06), x_stream_granularity="token")
    assert len(events_of(client)) == 301


async def test_a_client_that_does_not_read_is_closed_and_the_hint_says_where_to_resume(streamer: Streamer) -> None:
    response = streamer.create_streaming_response(tokens(*["a"] * 9000), call_of())
    response.write_timeout_s = 0.05
    client = Client(slow_after=3)
    with pytest.raises(SlowConsumer):
        await answered(response, client, prefer="resume=30")
    name, problem = events_of(client)[-1]
    assert (name, problem["reason"]) == ("error", "SLOW_CONSUMER")
    assert client.headers["location"] in problem["hint"]
    assert not client.complete
    stream = streamer.streams.find(client.headers["location"].rpartition("/")[2], call_of())
    assert not stream.ended


async def test_a_client_that_leaves_ends_its_producer(streamer: Streamer) -> None:
    closed = asyncio.Event()

    async def flood() -> AsyncIterator[Event]:
        try:
            while True:
                yield Event("number", 1)
        finally:
            closed.set()

    answering = asyncio.create_task(answered(streamer.create_streaming_response(flood(), call_of())))
    await asyncio.sleep(0.05)
    answering.cancel()
    await asyncio.wait_for(closed.wait(), 1)
    assert len(streamer.streams) == 0
