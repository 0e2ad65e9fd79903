"""The peers: the same stream in a raw ASGI loop and by sse-starlette: `python -m benchmarks.streams_raw PORT PEER`."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import uvicorn

HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


def wanted(scope: Any) -> int:
    """How many events the query asks for."""
    return int(parse_qs(scope["query_string"].decode())["n"][0])


async def raw(scope: Any, _receive: Any, send: Any) -> None:
    """One ASGI message for each event, and nothing else."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    for n in range(1, wanted(scope) + 1):
        data = json.dumps({"text": " word", "n": n}).encode()
        body = b"id: %d\nevent: token\ndata: %b\n\n" % (n, data)
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"event: done\ndata: {}\n\n"})


async def by_sse_starlette(scope: Any, receive: Any, send: Any) -> None:
    """The same events by the usual library."""
    from sse_starlette import EventSourceResponse

    async def events() -> AsyncIterator[dict[str, Any]]:
        for n in range(1, wanted(scope) + 1):
            yield {"id": str(n), "event": "token", "data": json.dumps({"text": " word", "n": n})}
        yield {"event": "done", "data": "{}"}

    await EventSourceResponse(events())(scope, receive, send)


PEERS = {"raw": raw, "sse-starlette": by_sse_starlette}

if __name__ == "__main__":
    app = PEERS[sys.argv[2]]
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical", access_log=False, lifespan="off")
