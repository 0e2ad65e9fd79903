"""One stream: the ring that its producer fills, and the readers that follow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from corsac.core.streams.encoding import to_json
from corsac.core.streams.event import MAX_EVENT_BYTES, RESET, TYPE, Event, Record
from corsac.core.streams.ring import Ring, RingLimits

if TYPE_CHECKING:
    from corsac.core.call import Call
    from corsac.core.streams.metrics import ServiceStreams

SPAN_S = 0.5
"""What the ring of a lossless stream that may be resumed spans at least: whoever comes back within half of it, counted
from the last event read, finds what was on its way. It bounds such a stream to 4000 events or 2 MiB a second."""
PACE_STEP_S = 0.01
BATCH_BYTES = 64 << 10  # what the server's write buffer takes, so that one write is one step of a slow reader


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How much waits for whom.

    Args:
        ring: What is kept for those who come back.
        queue_events: Events that may wait for one reader.
        queue_bytes: Bytes of JSON that may wait for one reader.
    """

    ring: RingLimits = field(default_factory=RingLimits)
    queue_events: int = 256
    queue_bytes: int = 1 << 20


class Stream:
    """A numbered sequence of events, from one producer to its owner's readers.

    `StreamHub.open` makes it. The producer's side is `append` and `room`, the readers' side `read` and `attach`.

    Args:
        stream_id: Names it in `/api/streams/{id}`.
        call: Whose it is, and of which operation.
        resume_s: How long it may be without a reader, in seconds; 0: it ends with its last reader.
        lossless: Whether the producer waits for slow readers; else they miss the oldest events.
        limits: How much waits for whom.
        metrics: Of the call's service.
        on_readers: Called after a reader came or left.
        monotonic: Seconds.
    """

    def __init__(
        self,
        stream_id: str,
        call: Call,
        *,
        resume_s: float,
        lossless: bool,
        limits: StreamLimits,
        metrics: ServiceStreams,
        on_readers: Callable[[Stream], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id, self.call, self.owner = stream_id, call, call.caller.id if call.caller else ""
        self.resume_s, self.lossless, self.limits, self.metrics = resume_s, lossless, limits, metrics
        self.ended = False
        self.readers: set[Reader] = set()
        kept = RingLimits(limits.queue_events, limits.queue_bytes, limits.ring.age_s)
        self.ring = Ring(limits.ring if lossless else kept)
        self._on_readers, self._monotonic = on_readers, monotonic
        self._known_types: set[str] = set()
        self._last_at = self.began_at = monotonic()
        self._read_until = self._read_bytes = 0  # how far any reader ever came
        self._paced_until = self._paced_bytes = 0
        self._next_at = self.began_at
        self._space: asyncio.Future[None] | None = None

    @property
    def location(self) -> str:
        """Where it can be read again."""
        return f"/api/streams/{self.id}"

    # The producer's side

    def append(self, event: Event) -> None:
        """Number an event, keep it and wake whoever waits for it.

        Raises:
            ValueError: The type, the id or the size cannot be.
            TypeError: JSON cannot express the data.
        """
        if event.type not in self._known_types:
            if not TYPE.fullmatch(event.type):
                raise ValueError("An event's type is 1 to 32 characters of a-z and underscore.")
            self._known_types.add(event.type)
        json = to_json(event.data)
        if len(json) > MAX_EVENT_BYTES:
            raise ValueError(f"An event has at most {MAX_EVENT_BYTES} bytes of JSON, not {len(json)}.")
        now, metrics = self._monotonic(), self.metrics
        if self.ring.end:
            metrics.pace.observe_gap(now - self._last_at)
        else:
            metrics.first_event.observe(now - self.began_at)
        metrics.pace.n_events += 1
        self._last_at = now
        keep_from = min((reader.position for reader in self.readers), default=None) if self.lossless else None
        self.ring.append(event.id, event.type, json, now, keep_from)
        for reader in self.readers:
            reader.wake(at_end=False)

    def end(self, final: Event | None) -> None:
        """Append the last event, if there is one, and tell the readers that no more will come."""
        if self.ended:
            return
        if final is not None:
            self.append(final)
        self.ended = True
        for reader in self.readers:
            reader.wake(at_end=True)

    async def room(self) -> None:
        """Let everybody else run, and wait until there is room for one more event.

        A producer that never waits itself would otherwise hold the whole server.
        """
        await asyncio.sleep(self._too_early_s() if self.resume_s and self.lossless else 0)
        while self.lossless and self._full():
            for reader in self.readers:
                reader.wake(at_end=True)
            self._space = asyncio.get_running_loop().create_future()
            await self._space

    def _too_early_s(self) -> float:
        """How long the producer has to wait so that the ring spans its time; short waits are added up."""
        ring, limits, now = self.ring, self.limits.ring, self._monotonic()
        n_new, n_new_bytes = ring.end - self._paced_until, ring.end_bytes - self._paced_bytes
        self._paced_until, self._paced_bytes = ring.end, ring.end_bytes
        share = max(n_new / limits.events, n_new_bytes / limits.bytes)
        self._next_at = max(self._next_at, now) + share * SPAN_S
        early_s = self._next_at - now
        return early_s if early_s > PACE_STEP_S else 0.0

    def _full(self) -> bool:
        ring, limits = self.ring, self.limits
        if self.readers:
            return any(
                ring.end - each.position >= limits.queue_events or ring.end_bytes - each.bytes >= limits.queue_bytes
                for each in self.readers
            )
        # Without a reader it runs half a ring ahead; the other half holds what was sent and lost on the way.
        n_ahead, n_bytes_ahead = ring.end - self._read_until, ring.end_bytes - self._read_bytes
        return n_ahead * 2 >= limits.ring.events or n_bytes_ahead * 2 >= limits.ring.bytes

    # The readers' side

    async def read(self, after: int = 0) -> AsyncIterator[Event]:
        """The events after an id, to the stream's end; the first may be a `reset`."""
        with self.attach(after) as reader:
            while records := await reader.next():
                for record in records:
                    yield Event(record.type, orjson.loads(record.json), record.id)

    @contextmanager
    def attach(self, after: int = 0) -> Iterator[Reader]:
        """A reader of what comes after an id, for as long as the block lasts.

        Args:
            after: Id of the last event that arrived; 0: all that are kept.
        """
        reader = Reader(self, after)
        self.readers.add(reader)
        self._on_readers(self)
        try:
            yield reader
        finally:
            self.readers.discard(reader)
            self.make_room()
            self._on_readers(self)

    def make_room(self) -> None:
        """Tell the producer that somebody has read or left."""
        for reader in self.readers:
            if reader.position > self._read_until:
                self._read_until, self._read_bytes = reader.position, reader.bytes
        if not self.resume_s and self.readers:
            self.ring.forget(min(reader.position for reader in self.readers))
        if self._space is not None and not self._full():
            _wake(self._space)


class Reader:
    """One reader's place in a stream.

    Args:
        stream: What it reads.
        after: Id of the last event that it has.
    """

    def __init__(self, stream: Stream, after: int) -> None:
        self.stream = stream
        self.reset: Record | None = None
        ring = stream.ring
        try:
            position = ring.position_after(after)
            reason, detail = "EXPIRED", "Events after this id are no longer kept; those that follow are all there are."
        except LookupError:
            position, reason, detail = None, "UNKNOWN_ID", "The stream has no event of this id; it begins again."
        if position is None:
            position = ring.start
            self.reset = Record(0, RESET, to_json({"reason": reason, "detail": detail, "after": after}))
        self.position = position
        first = next(ring.read(position), None)
        self.bytes = ring.end_bytes if first is None else first.end_bytes - len(first.json)
        self._wanted = 1
        self._waiter: asyncio.Future[None] | None = None

    @property
    def pending(self) -> int:
        """How many events wait."""
        return self.stream.ring.end - self.position

    @property
    def finished(self) -> bool:
        """Whether the stream has ended and all of it was taken."""
        return self.stream.ended and not self.pending

    def wake(self, *, at_end: bool) -> None:
        """End the wait if there is enough, or anyway at the stream's end."""
        if self._waiter is not None and (at_end or self.pending >= self._wanted):
            _wake(self._waiter)

    async def wait(self, n_events: int, timeout_s: float) -> None:
        """Wait until so many events are pending, the producer needs room, the stream ends, or the time is over."""
        if self.pending >= n_events or self.stream.ended:
            return
        loop = asyncio.get_running_loop()
        self._wanted, waiter = n_events, loop.create_future()
        self._waiter = waiter
        timer = loop.call_later(timeout_s, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def take(self, max_bytes: int = BATCH_BYTES) -> list[Record]:
        """The next records, at least one if any is pending, up to about `max_bytes` of JSON."""
        ring = self.stream.ring
        taken: list[Record] = []
        if self.position < ring.start:
            self.stream.metrics.dropped.inc(ring.start - self.position)
            self.position = ring.start
        began = None
        for record in ring.read(self.position):
            began = record.end_bytes - len(record.json) if began is None else began
            if taken and record.end_bytes - began > max_bytes:
                break
            taken.append(record)
        if taken:
            self.position += len(taken)
            self.bytes = taken[-1].end_bytes
            self.stream.make_room()
        return taken

    async def next(self) -> list[Record]:
        """The next records, the `reset` among them; none at the stream's end."""
        reset, self.reset = self.reset, None
        if reset is not None:
            return [reset]
        while not self.pending and not self.stream.ended:
            await self.wait(1, 3600)
        return self.take()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
