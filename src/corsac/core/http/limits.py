"""What one connection may cost, and the clock that says when its client has been waited for enough."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProtocolLimits:
    """What one server takes from its clients.

    Attributes:
        header_bytes: Request line and header fields together; also what a body may hold between two pieces of
            content (chunk extensions, trailers).
        headers: Header fields of one request.
        header_timeout_s: From the connection, or from the first byte of a later request, to the header's end.
        body_idle_timeout_s: Longest pause inside a body.
        body_bytes_per_s: Slowest average rate of a body: every so many bytes buy one second beyond the first
            `body_idle_timeout_s`. 0 asks for no rate.
        write_timeout_s: How long a client may leave more than the write buffer (64 KiB) unread.
        keep_alive_s: How long an idle connection stays open; longer than the 60 s of usual proxies.
        unacknowledged_timeout_s: How long sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`, Linux).
        connections: Open connections, WebSockets included.
        pipelined: Requests that may wait on one connection for the answer to an earlier one.
        linger_s: How long a refused connection is kept for its client to read the answer.
        lingering: Connections kept so at one time; further ones are closed at once.
    """

    header_bytes: int = 65_536
    headers: int = 100
    header_timeout_s: float = 10.0
    body_idle_timeout_s: float = 15.0
    body_bytes_per_s: float = 1024.0
    write_timeout_s: float = 15.0
    keep_alive_s: int = 75
    unacknowledged_timeout_s: float = 30.0
    connections: int = 1000
    pipelined: int = 16
    linger_s: float = 1.0
    lingering: int = 256


class Phase(enum.Enum):
    """What the next byte from the client belongs to."""

    IDLE = "the next request, if there is one"
    HEADER = "a request line or header"
    BODY = "a body"


class RequestClock:
    """How long one connection's client is waited for.

    Args:
        limits: The time limits.
        monotonic: The clock, in seconds.

    Attributes:
        phase: What is being waited for.
        deadline: The clock's time at which waiting ends; None while nothing has to come.
    """

    __slots__ = ("_body_began", "_body_bytes", "_limits", "_monotonic", "deadline", "phase")

    def __init__(self, limits: ProtocolLimits, monotonic: Callable[[], float]) -> None:
        self.phase = Phase.HEADER
        self.deadline: float | None = None
        self._limits, self._monotonic = limits, monotonic
        self._body_began, self._body_bytes = 0.0, 0

    def expect_header(self) -> None:
        """The connection is new, or a further request's first byte is here."""
        self.deadline = self._monotonic() + self._limits.header_timeout_s

    def expect_body(self) -> None:
        """The header is whole."""
        self.phase = Phase.BODY
        self._body_began, self._body_bytes = self._monotonic(), 0
        self.deadline = self._body_began + self._limits.body_idle_timeout_s

    def receive_body(self, size_bytes: int) -> None:
        """A piece of the body is here."""
        self._body_bytes += size_bytes
        idle_s, rate = self._limits.body_idle_timeout_s, self._limits.body_bytes_per_s
        self.deadline = self._monotonic() + idle_s
        if rate:
            self.deadline = min(self.deadline, self._body_began + idle_s + self._body_bytes / rate)

    def expect_rest_of_answered_body(self) -> None:
        """The answer is out before the body is in; a short wait decides whether the connection is kept."""
        self.deadline = self._monotonic() + self._limits.linger_s

    def expect_nothing(self) -> None:
        """The request is whole."""
        self.phase, self.deadline = Phase.IDLE, None

    def restart(self) -> None:
        """The client could not send because of us: its time starts anew."""
        if self.phase is Phase.BODY:
            self.expect_body()
        elif self.deadline is not None:
            self.expect_header()
