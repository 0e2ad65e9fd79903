"""The route of an operation that honours `Idempotency-Key`.

It lies between the route's gate and the framework. The key is taken when the last byte of the body has come in, and
so before the operation begins; the answer is kept before it is sent. Requests without the header pass untouched.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from python_multipart.multipart import parse_options_header
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corsac.core.call import Call
from corsac.core.exceptions import CorsacError, StorageFailed, StorageFull
from corsac.core.http.crash_guard import CALL
from corsac.core.http.problem import BodyRefused, from_framework
from corsac.core.idempotency import (
    IDEMPOTENCY_ERRORS,
    IdempotencyStore,
    KeptAnswer,
    Slot,
    error_again,
    is_deterministic,
    kept_error,
    key_of,
)

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger

REPLAYED = (b"idempotency-replayed", b"true")
MAX_KEPT_BYTES = 256 << 10
KEPT_HEADERS = frozenset({"content-type", "location", "content-location", "x-corsac-served-by"})


class IdempotentRoute:
    """Answers a repeated request as before. What it keeps:

    - a JSON answer of up to 256 KiB, whole;
    - any other success that names where it is (`Content-Location`, or a stream's `Location`): that place, to which a
      repetition is sent with 303 See Other. A stream that was cancelled with its client is not kept;
    - an error of the 400s that a correction of the request has to mend.

    Everything else frees the key.

    Args:
        app: The route's own app.
        store: Keeps the answers.
        route: Names the operation, for example `tts.synthesize`.
        reads_body: Whether the operation reads a body; else the key is taken at once.
        logger: Hears of answers that could not be kept.
    """

    def __init__(self, app: ASGIApp, store: IdempotencyStore, route: str, logger: Logger, *, reads_body: bool) -> None:
        self.app, self.store, self.route, self.logger = app, store, route, logger
        self.reads_body = reads_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = key_of(scope["headers"])
        if key is None:
            await self.app(scope, receive, send)
            return
        call: Call = scope[CALL]
        exchange = _Exchange(self, Slot(call.principal.id, self.route, key), scope, receive, send)
        try:
            await exchange.run()
        except _AnsweredBefore as before:
            call.headers.append(REPLAYED)
            await _send_again(before.answer, send)


class _AnsweredBefore(BaseException):
    """Ends an operation before it begins. No handler catches it, as it catches no cancellation.

    Args:
        answer: What to answer instead.
    """

    def __init__(self, answer: KeptAnswer) -> None:
        self.answer = answer


class _Exchange:
    """One keyed request and its answer."""

    def __init__(self, route: IdempotentRoute, slot: Slot, scope: Scope, receive: Receive, send: Send) -> None:
        self.route, self.slot, self.scope = route, slot, scope
        self.receive_raw, self.send_raw = receive, send
        self.claim = route.store.new_claim()
        self.request = _RequestDigest(scope)
        self.asked = self.taken = self.began = self.kept = self.outlives_client = False
        self.start: Message | None = None
        self.body = b""

    async def run(self) -> None:
        try:
            if not self.route.reads_body:
                await self.take()
            await self.route.app(self.scope, self.receive, self.send)
        except Exception as error:
            ours = from_framework(error) or error
            if self.taken and not self.began and isinstance(ours, CorsacError) and is_deterministic(ours):
                await self.keep(kept_error(ours))
            await self.free_unless(kept=self.kept)
            raise
        except BaseException:
            await self.free_unless(kept=self.kept and self.outlives_client)
            raise
        await self.free_unless(kept=self.kept)

    async def receive(self) -> Message:
        message = await self.receive_raw()
        if message["type"] == "http.request" and not self.asked:
            self.request.update(message.get("body", b""))
            if not message.get("more_body"):
                await self.take()
        return message

    async def take(self) -> None:
        """Take the key, or end the operation.

        Raises:
            BodyRefused: The key was used for another request or is in flight, or storage failed.
        """
        self.asked = self.taken = True  # before it is so: a cancelled wait does not cancel the write
        try:
            before = await self.route.store.take(self.slot, self.request.sha256(), self.claim)
        except CorsacError as error:
            self.taken = not isinstance(error, IDEMPOTENCY_ERRORS)
            raise BodyRefused(error) from error
        if before is None:
            return
        self.taken = False
        if before.status < 400:
            raise _AnsweredBefore(before)
        call: Call = self.scope[CALL]
        call.headers.append(REPLAYED)
        raise BodyRefused(error_again(before))

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self.taken:
            self.began = True
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
            if message["status"] < 300 and _is_small_json(message["status"], headers):
                self.start = message
                return
            await self._keep_place(message["status"], headers)
        elif message["type"] == "http.response.body" and self.start is not None:
            self.body += message.get("body", b"")
            if message.get("more_body"):
                return
            start, message = self.start, {**message, "body": self.body}
            pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
            subset = [each for each in pairs if each[0] in KEPT_HEADERS]
            self.outlives_client = True
            await self.keep(KeptAnswer(start["status"], subset, self.body))
            await self.send_raw(start)
        await self.send_raw(message)

    async def _keep_place(self, status: int, headers: dict[str, str]) -> None:
        place = headers.get("content-location") or headers.get("location")
        if status < 300 and place:
            resumable = "resume" in headers.get("preference-applied", "")
            self.outlives_client = "content-location" in headers or resumable
            await self.keep(KeptAnswer(303, [("location", place)]))

    async def keep(self, answer: KeptAnswer) -> None:
        try:
            await self.route.store.keep(self.slot, self.claim, answer)
            self.kept = True
        except (StorageFailed, StorageFull):  # the work is done: its answer is worth more than its repetition
            self.route.logger.warning("an answer could not be kept for its key", route=self.slot.route)

    async def free_unless(self, *, kept: bool) -> None:
        if self.taken and not kept:
            try:
                await self.route.store.free(self.slot, self.claim)
            except (StorageFailed, StorageFull):
                self.route.logger.warning("a key stays taken until the next start", route=self.slot.route)


class _RequestDigest:
    """The hash of what a repeated request has in common with the first.

    A client makes up a new boundary for every multipart body, so the boundary is left out.
    """

    def __init__(self, scope: Scope) -> None:
        self.hash = hashlib.sha256()
        call: Call = scope[CALL]
        for part in (scope["path"].encode(), scope["query_string"], call.media_type.encode()):
            self.hash.update(b"%d:%b" % (len(part), part))
        content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        self.boundary = parse_options_header(content_type[:1024])[1].get(b"boundary", b"")
        self.rest = b""

    def update(self, chunk: bytes) -> None:
        if not self.boundary:
            self.hash.update(chunk)
            return
        *whole, rest = (self.rest + chunk).split(self.boundary)
        for each in whole:
            self.hash.update(each)
        keep = len(self.boundary) - 1  # the boundary may go on in the next chunk
        self.hash.update(rest[: max(0, len(rest) - keep)])
        self.rest = rest[max(0, len(rest) - keep) :]

    def sha256(self) -> bytes:
        self.hash.update(self.rest)
        return self.hash.digest()


def _is_small_json(status: int, headers: dict[str, str]) -> bool:
    if status == 204:
        return True
    is_json = headers.get("content-type", "").partition(";")[0] == "application/json"
    length = headers.get("content-length", "")
    return is_json and length.isdigit() and int(length) <= MAX_KEPT_BYTES


async def _send_again(answer: KeptAnswer, send: Send) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    if answer.status != 204:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
