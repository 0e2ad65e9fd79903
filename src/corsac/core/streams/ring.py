"""The last events of one stream, by number and by position."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from corsac.core.streams.event import Record


@dataclass(frozen=True, slots=True)
class RingLimits:
    """How much a ring keeps.

    Args:
        events: At most so many.
        bytes: At most so many bytes of JSON, though always the newest event.
        age_s: None older than this, in seconds.
    """

    events: int = 2000
    bytes: int = 1 << 20
    age_s: float = 900.0


class Ring:
    """Keeps the newest records; the oldest go first.

    Ids may have holes, as those of a journal do. Positions count all records that ever came, from 0.

    Args:
        limits: How much is kept.
    """

    def __init__(self, limits: RingLimits) -> None:
        self.limits = limits
        self.start = 0
        """Position of the oldest record that is kept."""
        self.gone_id = 0
        """Number of the newest record that is gone; 0 before any is."""
        self.last_id = 0
        self.end_bytes = 0
        self._gone_bytes = 0
        self._records: deque[Record] = deque()

    def __len__(self) -> int:
        return len(self._records)

    @property
    def end(self) -> int:
        """Position of the record that comes next."""
        return self.start + len(self._records)

    @property
    def size_bytes(self) -> int:
        """Bytes of JSON that are kept."""
        return self.end_bytes - self._gone_bytes

    def append(self, number: int, event_type: str, json: bytes, at: float, keep_from: int | None = None) -> None:
        """Add a record.

        Args:
            number: Its id, above all before it; 0: the next one.
            event_type: The event's type.
            json: Its data.
            at: Now, in seconds.
            keep_from: Position from which on nothing may go, because somebody has yet to read it.

        Raises:
            ValueError: The id does not rise.
        """
        number = number or self.last_id + 1
        if number <= self.last_id:
            raise ValueError(f"Ids of events rise; {number} came after {self.last_id}.")
        self.end_bytes += len(json)
        self._records.append(Record(number, event_type, json, at, self.end_bytes))
        self.last_id = number
        limits, records = self.limits, self._records
        oldest = records[0]
        while len(records) > 1 and (
            len(records) > limits.events or self.size_bytes > limits.bytes or at - oldest.at > limits.age_s
        ):
            if keep_from is not None and self.start >= keep_from:
                return
            self._forget_oldest()
            oldest = records[0]

    def forget(self, until: int) -> None:
        """Drop the records before a position."""
        while self.start < until and self._records:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        gone = self._records.popleft()
        self.start += 1
        self.gone_id, self._gone_bytes = gone.id, gone.end_bytes

    def position_after(self, number: int) -> int | None:
        """Position of the first record with a greater id, or None: that record, or one before it, is gone.

        Raises:
            LookupError: No record has an id as great as `number`.
        """
        if number > self.last_id:
            raise LookupError("No event of the stream has this number yet.")
        if number < self.gone_id:
            return None
        newer = 0
        for record in reversed(self._records):  # whoever resumes has seen most of them
            if record.id <= number:
                break
            newer += 1
        return self.end - newer

    def read(self, position: int) -> Iterator[Record]:
        """The records from a position on, which is not before `start`."""
        records = self._records
        for index in range(position - self.end, 0):  # from the right, where a deque finds its members at once
            yield records[index]
