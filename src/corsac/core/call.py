"""One call of one operation: who asked, under which id, and until when."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from uuid import uuid4

from corsac.core.exceptions import DeadlineExceeded
from corsac.core.identity import OWNER, Principal


@dataclass(slots=True)
class Call:
    """Handed to every operation that needs to know its caller or its deadline.

    The layers fill it while the request comes in; an operation reads it. From a notebook or the command line,
    `Call.local()` makes one.

    Args:
        request_id: 1 to 64 characters of A-Z, a-z, 0-9, dot, underscore and hyphen.
        caller: Who asked, or None where nobody was recognized.
        peer: The peer's address, `local` without a network.
        deadline: On the clock `monotonic`; None: no deadline.
        service: The service whose operation it is, empty until a route is found.
        operation: The operation's name, empty until a route is found.
        media_type: What the client accepts of what the operation produces.
        headers: Response headers that the layers and the operation add.
        status: The answer's HTTP status, 0 before there is one.
        reason: The error's reason, empty on success.
        sent_bytes: Bytes of the answer's body so far.
        monotonic: The clock of `deadline`, in seconds.
    """

    request_id: str
    caller: Principal | None = None
    peer: str = "local"
    deadline: float | None = None
    service: str = ""
    operation: str = ""
    media_type: str = ""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    status: int = 0
    reason: str = ""
    sent_bytes: int = 0
    monotonic: Callable[[], float] = time.monotonic

    @classmethod
    def local(cls, timeout_s: float | None = None) -> Call:
        """A call by the owner of the machine, without HTTP."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return cls(uuid4().hex, OWNER, deadline=deadline)

    @property
    def principal(self) -> Principal:
        """Who asked. Only routes without a scope have calls by nobody, and those do not ask.

        Raises:
            LookupError: Nobody was recognized.
        """
        if self.caller is None:
            raise LookupError("A public operation asked who called it.")
        return self.caller

    def log_context(self) -> tuple[tuple[str, str | None], ...]:
        """What every log line of the call says about it."""
        key_id = self.caller.key_id if self.caller else None
        return ("request_id", self.request_id), ("operation", self.operation or None), ("key_id", key_id)

    def remaining_s(self, at_most: float = 600.0) -> float:
        """Seconds until the deadline, for handing on to engines and workers.

        Args:
            at_most: Seconds that the work may take whatever the deadline.

        Raises:
            DeadlineExceeded: Nothing is left.
        """
        if self.deadline is None:
            return at_most
        left = self.deadline - self.monotonic()
        if left <= 0:
            raise DeadlineExceeded
        return min(left, at_most)


CURRENT_CALL: ContextVar[Call] = ContextVar("corsac_call")
"""Set for the time of a request by the outermost layer."""
