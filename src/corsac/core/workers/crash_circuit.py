"""Leaves a worker alone that crashes again and again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from corsac.core.exceptions import CircuitOpen


class CrashCircuit:
    """Opens after `limit` crashes within `window_s`; after the pause the next start is a trial.

    A crash in the trial opens it again for twice as long, a success closes it.

    Args:
        name: The worker's, for the message.
        monotonic: Seconds on a clock that never goes back.
        limit: Crashes that open it.
        window_s: Seconds within which they count.
        pause_s: Seconds of the first pause.
        longest_pause_s: Seconds that no pause exceeds.
    """

    def __init__(
        self,
        name: str,
        monotonic: Callable[[], float],
        *,
        limit: int = 3,
        window_s: float = 60.0,
        pause_s: float = 10.0,
        longest_pause_s: float = 120.0,
    ) -> None:
        self._name = name
        self._monotonic = monotonic
        self._limit = limit
        self._window_s = window_s
        self._first_pause_s = pause_s
        self._longest_pause_s = longest_pause_s
        self._crashes: deque[float] = deque(maxlen=limit)
        self._next_pause_s = pause_s
        self._open_until = float("-inf")
        self._on_trial = False

    @property
    def open_s(self) -> float:
        """Seconds until the next trial; 0 when work may be tried."""
        return max(0.0, self._open_until - self._monotonic())

    def check(self) -> None:
        """Raise CircuitOpen while it is open."""
        if (left_s := self.open_s) > 0:
            detail = f"The worker '{self._name}' crashed again and again and is left alone for a while."
            raise CircuitOpen(detail, retry_after_s=left_s)

    def crashed(self) -> None:
        """Count a crash."""
        now = self._monotonic()
        self._crashes.append(now)
        many = len(self._crashes) == self._limit and now - self._crashes[0] <= self._window_s
        if many or self._on_trial:
            self._crashes.clear()
            self._on_trial = True
            self._open_until = now + self._next_pause_s
            self._next_pause_s = min(2 * self._next_pause_s, self._longest_pause_s)

    def succeeded(self) -> None:
        """Close it: the trial went well."""
        self._on_trial = False
        self._next_pause_s = self._first_pause_s
