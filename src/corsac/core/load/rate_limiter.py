"""Rate limits: GCRA in memory, and the header fields that tell clients what is left.

    limiter = RateLimiter()
    decision = limiter.require("chat", f"chat:{key_id}", per_minute(60))
    response_headers += decision.headers("chat")

The generic cell rate algorithm keeps one number per key, the time at which the key's whole burst is available
again. It admits at most `burst + rate * time` units in any stretch of time, and an idle key needs no memory.

Source: ITU-T I.371, annex A (virtual scheduling); draft-ietf-httpapi-ratelimit-headers, revision 8 and later.
"""

from __future__ import annotations

import math
import random
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from corsac.core.exceptions import Invalid, RateLimited

# Seconds or units: sums of times are exact to far less, and no limit that a person sets notices so little.
ROUNDING = 1e-6

# Each new key looks at two old ones, so the sweep always overtakes the growth.
SWEPT_PER_NEW_KEY = 2


class CostTooLarge(Invalid):
    """The request costs more than the limit ever admits at once.

    Waiting does not help. The detail gives the cost and the limit: ask for less, in several requests.
    """

    reason = "COST_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Limit:
    """How much a key may use.

    Args:
        rate_per_minute: Units that come back per minute, above 0. A unit is what the operation counts: a
            request, a token, a second of audio.
        burst: Units that may be used at once after a rest, at least 1.
    """

    rate_per_minute: float
    burst: int

    def __post_init__(self) -> None:
        if not 0.0 < self.rate_per_minute < math.inf:
            raise ValueError(f"The rate of a limit is a number above 0, not {self.rate_per_minute}.")
        if self.burst < 1:
            raise ValueError(f"The burst of a limit is at least 1, not {self.burst}.")

    @property
    def window_s(self) -> float:
        """Seconds in which an exhausted burst comes back."""
        return self.burst * 60.0 / self.rate_per_minute


def per_minute(rate: float) -> Limit:
    """The limit of `rate` units per minute, all of which may be used at once."""
    return Limit(rate, max(1, math.floor(rate)))


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether one request is admitted, and what is left.

    Args:
        allowed: Whether it is admitted.
        limit: The limit it was checked against.
        remaining: Units that could be used at once now, 0 to `limit.burst`.
        reset_after_s: Seconds until the whole burst is available again.
        retry_after_s: Seconds after which the same request has a chance, lengthened at random so that refused
            clients do not return together; 0 if it was admitted.
    """

    allowed: bool
    limit: Limit
    remaining: float
    reset_after_s: float
    retry_after_s: float

    def headers(self, policy: str) -> list[tuple[bytes, bytes]]:
        """The header fields for a request that met this limit alone; see `rate_limit_headers`."""
        return rate_limit_headers([(policy, self)])


def rate_limit_headers(decisions: Sequence[tuple[str, Decision]]) -> list[tuple[bytes, bytes]]:
    """`RateLimit-Policy` and `RateLimit` for all limits that a request met.

    Args:
        decisions: At least one pair of the policy's name (letters, digits, `.`, `_`, `-`) and its decision.

    Example:
        >>> full = RateLimiter().take("key", Limit(60, 12), cost=2)
        >>> rate_limit_headers([("chat", full)])
        [(b'ratelimit-policy', b'"chat";q=12;w=12'), (b'ratelimit', b'"chat";r=10;t=2')]
    """
    policies, states = [], []
    for name, decision in decisions:
        limit = decision.limit
        # A client that reads only `t` must not return before Retry-After.
        reset_s = math.ceil(max(decision.reset_after_s, decision.retry_after_s) - ROUNDING)
        policies.append(f'"{name}";q={limit.burst};w={math.ceil(limit.window_s - ROUNDING)}')
        states.append(f'"{name}";r={math.floor(decision.remaining + ROUNDING)};t={reset_s}')
    return [
        (b"ratelimit-policy", ", ".join(policies).encode("ascii")),
        (b"ratelimit", ", ".join(states).encode("ascii")),
    ]


class RateLimiter:
    """All limits of one server. Belongs to one event loop; no call waits.

    Memory is bounded: each new key looks at two old ones and forgets those that have their whole burst again.
    With `max_keys` in use it forgets the one of the two that is nearer to that, so a greedy key stays.

    Args:
        monotonic: Seconds on a clock that never jumps.
        random: Uniform in [0, 1).
        max_keys: Keys that are remembered, at least 1; each takes about 200 bytes.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
        max_keys: int = 100_000,
    ) -> None:
        self._monotonic = monotonic
        self._random = random
        self._max_keys = max_keys
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._full_at)

    def take(self, key: str, limit: Limit, cost: float = 1.0) -> Decision:
        """Use `cost` units if the key has them. A refused request uses nothing.

        Args:
            key: Who, and for what. Keep to one limit per key.
            limit: What the key may use.
            cost: Units, 0 to `limit.burst`; 0 asks without using.

        Raises:
            CostTooLarge: The cost is above the burst, so that it would never be admitted.
        """
        if not 0.0 <= cost <= limit.burst:  # also refuses NaN, which would admit everything from then on
            raise _unpayable(cost, limit)
        now = self._monotonic()
        unit_s = 60.0 / limit.rate_per_minute
        window_s = limit.burst * unit_s
        known = self._full_at.get(key)
        used_s = 0.0 if known is None or known <= now else known - now
        wanted_s = used_s + cost * unit_s
        if wanted_s > window_s + ROUNDING:
            wait_s = wanted_s - window_s
            wait_s += self._random() * max(1.0, wait_s / 4)
            return Decision(False, limit, max(0.0, (window_s - used_s) / unit_s), used_s, wait_s)
        if known is None:
            self._make_room(now)
        self._full_at[key] = now + wanted_s
        return Decision(True, limit, max(0.0, (window_s - wanted_s) / unit_s), wanted_s, 0.0)

    def require(self, policy: str, key: str, limit: Limit, cost: float = 1.0) -> Decision:
        """Like `take`, for callers who go no further when refused.

        Args:
            policy: The policy's name in the header fields.
            key: As for `take`.
            limit: As for `take`.
            cost: As for `take`.

        Raises:
            RateLimited: Not now; has `retry_after_s` in whole seconds and the header fields.
            CostTooLarge: Never.
        """
        decision = self.take(key, limit, cost)
        if decision.allowed:
            return decision
        headers = {name.decode(): value.decode() for name, value in decision.headers(policy)}
        raise RateLimited(
            f"The limit {policy} is {limit.burst} in {limit.window_s:.6g} seconds.",
            retry_after_s=max(1, math.ceil(decision.retry_after_s)),
            headers=headers,
        )

    def give_back(self, key: str, limit: Limit, cost: float) -> None:
        """Return units that were taken and not used, for example where an estimate was too high.

        Args:
            key: As it was given to `take`.
            limit: As it was given to `take`.
            cost: Units, 0 to what was taken.
        """
        if not 0.0 <= cost <= limit.burst:
            raise ValueError(f"From 0 to {limit.burst} units can be given back, not {cost}.")
        if key in self._full_at:
            self._full_at[key] -= cost * 60.0 / limit.rate_per_minute

    def _make_room(self, now: float) -> None:
        keys = self._full_at
        nearest, nearest_at = "", math.inf
        for _ in range(min(SWEPT_PER_NEW_KEY, len(keys))):
            key = next(iter(keys))
            full_at = keys[key]
            if full_at <= now:
                del keys[key]
            else:
                keys.move_to_end(key)
                if full_at < nearest_at:
                    nearest, nearest_at = key, full_at
        if len(keys) >= self._max_keys:
            del keys[nearest]


def _unpayable(cost: float, limit: Limit) -> Exception:
    if cost > limit.burst:
        return CostTooLarge(f"This costs {cost:.6g} units, and no more than {limit.burst} are ever admitted at once.")
    return ValueError(f"A cost is a number of units from 0, not {cost}.")


def peer_key(host: str) -> str:
    """The key under which an address is limited.

    Args:
        host: The peer's address as text.

    Returns:
        An IPv4 address as it is (also when mapped into IPv6), the /64 network of an IPv6 address, because its
        owner has all of it, or `unknown`.

    Example:
        >>> peer_key("2001:db8::7"), peer_key("::ffff:192.0.2.1"), peer_key("@")
        ('2001:db8::/64', '192.0.2.1', 'unknown')
    """
    # inet_pton is exact like ipaddress and takes a tenth of its time.
    try:
        if ":" not in host:
            socket.inet_pton(socket.AF_INET, host)
            return host
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):
        return "unknown"
    if packed.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8)) + "/64"
