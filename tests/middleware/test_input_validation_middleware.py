"""A path is what it seems, and a deadline is a number of milliseconds."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from starlette.types import Receive, Scope, Send
from tests.conftest import Clock

from corsac.core.call import Call
from corsac.core.exceptions import InvalidId, InvalidTimeout
from corsac.core.http.crash_guard import CALL
from corsac.middleware.input_validation_middleware import InputValidationMiddleware

DISGUISED = r"""
/a/../b /.. /a/.. /./a /a/. /a/%2e%2e/b /%2E./b /a/%2e /%2e%2e%2fetc%2fpasswd /..\..\etc /a\b /a%5cb /a%2fb /a%2Fb
/a%252fb /a%00b /a%0d%0ab /a%1b[31m /a%7f /a%09
"""
PLAIN = "/ /a/b //admin /a..b /..a /a. /.well-known/x /%61dmin /a%20 /%C3%A9"


async def passed(raw_path: str, *headers: tuple[bytes, bytes], clock: Clock | None = None) -> Call:
    """The call of a request that the layer lets pass."""
    call, calls = Call("r1", monotonic=clock or Clock()), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(scope[CALL])

    scope = {"type": "http", "path": unquote(raw_path), "raw_path": raw_path.encode(), "headers": headers, CALL: call}
    await InputValidationMiddleware(app)(scope, None, None)  # type: ignore[arg-type]
    assert calls == [call]
    return call


@pytest.mark.parametrize("path", DISGUISED.split())
async def test_a_path_that_tries_to_be_another_is_refused(path: str) -> None:
    with pytest.raises(InvalidId):
        await passed(path)


@pytest.mark.parametrize("path", PLAIN.split())
async def test_any_other_path_is_left_to_the_routes(path: str) -> None:
    assert (await passed(path)).deadline is None


@pytest.mark.parametrize(("value", "seconds"), [(b"1", 0.001), (b"1500", 1.5), (b"600000", 600)])
async def test_a_client_sets_its_deadline(clock: Clock, value: bytes, seconds: float) -> None:
    call = await passed("/x", (b"x-request-timeout-ms", value), clock=clock)
    assert call.deadline == clock.now + seconds


@pytest.mark.parametrize(
    "value", ["-1", "0", "abc", "1000000000000", "600001", "1.5", "1e3", "+5", " ", "", "0x10", "1_000", "١"]
)
async def test_what_is_no_number_of_milliseconds_is_refused(value: str) -> None:
    with pytest.raises(InvalidTimeout, match="from 1 to 600000"):
        await passed("/x", (b"x-request-timeout-ms", value.encode()))
