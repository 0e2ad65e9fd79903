"""A server of its own process for these tests: `python raw_app.py '{"limits": {…}, "drain_timeout_s": 5}'`.

It writes one line for each thing that happens to it. No framework: one ASGI function.
"""

import asyncio
import json
import logging
import socket
import sys
import time
from urllib.parse import parse_qs

from corsac.core.http.limits import ProtocolLimits
from corsac.core.http.listener import open_listener
from corsac.core.http.server import Hooks, Server


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


class RawApp:
    def __init__(self, startup_s=0.0, shutdown_s=0.0):
        self.startup_s, self.shutdown_s = startup_s, shutdown_s
        self.streams, self.events, self.refusals = set(), [], []
        self.closing = asyncio.Event()
        self.server = None

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self.lifespan(receive, send)
        elif scope["type"] == "websocket":
            await self.echo(receive, send)
        elif self.server.draining and scope["path"] != "/stats":
            await answer(send, {"draining": True}, status=503)
        else:
            arguments = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
            operation = getattr(self, "do_" + scope["path"].strip("/"), None)
            if operation is None or scope["method"] not in ("GET", "POST"):
                await answer(send, {}, status=405)
            else:
                await operation(scope, receive, send, **arguments)

    async def lifespan(self, receive, send):
        try:
            await receive()
            await asyncio.sleep(self.startup_s)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await asyncio.sleep(self.shutdown_s)
            say("stopped")
            await send({"type": "lifespan.shutdown.complete"})
        except asyncio.CancelledError:
            say("lifespan cancelled")
            raise

    async def echo(self, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    async def do_root(self, scope, receive, send):
        await answer(send, {"ok": True})

    async def do_upload(self, scope, receive, send, wait="0"):
        await asyncio.sleep(float(wait))
        size_bytes, more = 0, True
        while more:
            message = await receive()
            size_bytes += len(message.get("body", b""))
            more = message.get("more_body", False)
        evil = [value.decode() for name, value in scope["headers"] if name == b"x-evil"]
        await answer(send, {"size": size_bytes, "evil": evil})

    async def do_early(self, scope, receive, send, close=""):
        await answer(send, {}, status=413, headers=[(b"connection", b"close")] if close else [])

    async def do_slow(self, scope, receive, send):
        await asyncio.sleep(0.5)
        await answer(send, {"slow": True})

    async def do_sleep(self, scope, receive, send, answered=""):
        if answered:
            await answer(send, {})
        try:
            await asyncio.sleep(0.3 if answered else 60)
            self.events.append("finished")
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise

    async def do_stuck(self, scope, receive, send):
        await asyncio.to_thread(time.sleep, 40)

    async def do_sse(self, scope, receive, send, big="8"):
        stream = object()
        self.streams.add(stream)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            event = b"data: " + b"x" * int(big) + b"\n\n"
            while not self.closing.is_set():
                await send({"type": "http.response.body", "body": event, "more_body": True})
                await asyncio.sleep(0 if int(big) > 8 else 0.1)
            await send({"type": "http.response.body", "body": b"event: bye\n\n"})
        finally:
            self.streams.discard(stream)
            self.events.append("stream ended")

    async def do_stats(self, scope, receive, send):
        connections = [c for c in self.server.server_state.connections if hasattr(c, "running")]
        sockets = [c.transport.get_extra_info("socket") for c in connections]
        user_timeout = getattr(socket, "TCP_USER_TIMEOUT", 18)
        await answer(
            send,
            {
                "connections": len(connections),
                "streams": len(self.streams),
                "events": self.events,
                "refusals": self.refusals,
                "user_timeout_ms": sockets[0].getsockopt(socket.IPPROTO_TCP, user_timeout),
            },
        )

    def refused(self, error, request_id, peer):
        self.refusals.append([error.reason, request_id, peer])


async def answer(send, content, status=200, headers=()):
    body = json.dumps(content).encode()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


def main(limits=None, drain_timeout_s=5.0, port=0, startup_s=0.0, shutdown_s=0.0):
    logging.basicConfig(stream=sys.stdout, format="log %(message)s")
    app = RawApp(startup_s, shutdown_s)
    hooks = Hooks(
        on_listening=lambda address: say("listening", address[1]),
        on_drain=lambda: say("draining"),
        on_reload=lambda: say("reload"),
        on_refusal=app.refused,
        stop_streams=app.closing.set,
        open_streams=lambda: len(app.streams),
    )
    limits = ProtocolLimits(**(limits or {}))
    listener = open_listener("127.0.0.1", port, unacknowledged_timeout_s=limits.unacknowledged_timeout_s)
    app.server = Server(app, listener, limits=limits, hooks=hooks, drain_timeout_s=drain_timeout_s)
    say("starting")
    app.server.run()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
