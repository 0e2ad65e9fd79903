"""One peer takes nothing from the others, and never keeps the owner out."""

from __future__ import annotations

from contextlib import suppress

import pytest
from starlette.types import Receive, Scope, Send
from tests.conftest import Clock

from corsac.core.call import Call
from corsac.core.exceptions import RateLimited
from corsac.core.http.crash_guard import CALL
from corsac.core.identity import OWNER, Principal
from corsac.core.load.rate_limiter import RateLimiter, per_minute
from corsac.middleware.rate_limiting import RateLimitingMiddleware

ALICE = Principal("alice", "k1", frozenset({"tts"}))


class Requests:
    """Counts those that pass."""

    def __init__(self, clock: Clock) -> None:
        self.n_passed = 0
        self.layer = RateLimitingMiddleware(self.app, RateLimiter(clock, lambda: 0.0), per_minute(3))

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.n_passed += 1

    async def send(self, n: int, peer: str, path: str = "/x", caller: Principal | None = None) -> int:
        """How many of `n` requests pass."""
        before = self.n_passed
        for _ in range(n):
            scope = {"type": "http", "path": path, CALL: Call("r1", peer=peer, caller=caller)}
            with suppress(RateLimited):
                await self.layer(scope, None, None)  # type: ignore[arg-type]
        return self.n_passed - before


@pytest.fixture
def requests(clock: Clock) -> Requests:
    return Requests(clock)


async def test_a_peer_has_its_limit_whoever_it_says_it_is(requests: Requests, clock: Clock) -> None:
    assert await requests.send(2, "192.0.2.1") == 2
    assert await requests.send(5, "192.0.2.1", "/y", ALICE) == 1
    assert await requests.send(5, "192.0.2.2") == 3
    clock.now += 20
    assert await requests.send(5, "192.0.2.1") == 1


async def test_an_ipv6_peer_is_its_whole_network(requests: Requests) -> None:
    assert [await requests.send(1, f"2001:db8::{n}") for n in range(5)] == [1, 1, 1, 0, 0]
    assert await requests.send(1, "2001:db8:0:1::1") == 1


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz", "/api/health"])
async def test_health_is_always_answered(requests: Requests, path: str) -> None:
    assert await requests.send(50, "192.0.2.1", path) == 50


async def test_the_owner_is_always_admitted(requests: Requests) -> None:
    await requests.send(50, "192.0.2.1")
    assert await requests.send(50, "192.0.2.1", caller=OWNER) == 50


async def test_a_refusal_says_when_to_come_back(clock: Clock) -> None:
    requests = Requests(clock)
    await requests.send(3, "192.0.2.1")
    with pytest.raises(RateLimited) as caught:
        await requests.layer({"type": "http", "path": "/x", CALL: Call("r1", peer="192.0.2.1")}, None, None)  # type: ignore[arg-type]
    assert caught.value.retry_after_s == 20
    assert caught.value.headers["ratelimit-policy"] == '"peer";q=3;w=60'
