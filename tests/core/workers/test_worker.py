import asyncio
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from corsac.core.exceptions import (
    CircuitOpen,
    DeadlineExceeded,
    TooLarge,
    Unavailable,
    WorkerCrashed,
    WorkerOutOfMemory,
)
from corsac.core.workers.protocol import WorkerError, WorkerRejected, WorkerStartFailed
from corsac.core.workers.worker import Worker

HERE = Path(__file__).parent
Start = Callable[..., Worker]


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Makes workers over `Stubborn`; they are stopped after the test."""
    monkeypatch.syspath_prepend(HERE)
    made: list[Worker] = []

    def make(target: str = "stubborn:Stubborn", options: dict[str, Any] | None = None, **more: Any) -> Worker:
        made.append(Worker(target, options or {}, name="test", **more))
        return made[-1]

    yield make
    for worker in made:
        await worker.stop()


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


async def is_dead(pid: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        await asyncio.sleep(0.01)
    return False


def n_open_sockets() -> int:
    links = [Path("/proc/self/fd") / fd for fd in os.listdir("/proc/self/fd")]
    return sum(str(link.readlink()).startswith("socket:") for link in links if link.is_symlink())


async def test_a_call_returns_what_the_method_returned(start: Start) -> None:
    worker = start()
    payload = os.urandom(3 << 20)
    assert await worker.call("echo", {"name": "ä", "n": 1}, payload, timeout_s=10) == (
        {"name": "ä", "n": 1},
        payload,
    )
    assert worker.pid not in (None, os.getpid())
    assert worker.rss_bytes > 1 << 20
    assert worker.restarts == 0


async def test_a_success_is_remembered_on_the_injected_clock(start: Start) -> None:
    clock = Clock()
    worker = start(monotonic=clock)
    await worker.start()
    assert worker.last_success_at is None
    await worker.call("echo", {}, timeout_s=10)
    assert worker.last_success_at == clock.now_s


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [("crash", {}, "SIGSEGV (segmentation fault)"), ("exit", {"code": 3}, "exit code 3")],
)
async def test_a_crash_is_one_clear_error_and_the_next_call_works(
    start: Start, method: str, arguments: dict[str, Any], words: str
) -> None:
    worker = start()
    with pytest.raises(WorkerCrashed) as caught:
        await worker.call(method, arguments, timeout_s=10)
    assert words in caught.value.detail
    async with within(2):
        assert await worker.call("echo", {"n": 1}, timeout_s=10) == ({"n": 1}, b"")
    assert worker.restarts == 1


async def test_a_kill_in_the_middle_of_a_call_is_one_clear_error_and_the_next_call_works(
    start: Start,
) -> None:
    worker = start()
    await worker.start()
    asyncio.get_running_loop().call_later(0.1, os.kill, worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerCrashed, match="SIGKILL"):
        await worker.call("sleep", {"seconds": 60}, timeout_s=10)
    assert await worker.call("echo", {}, timeout_s=10) == ({}, b"")


async def test_a_child_that_died_between_calls_is_not_noticed_by_the_next_call(start: Start) -> None:
    worker = start()
    await worker.start()
    os.kill(worker.pid, signal.SIGKILL)
    async with asyncio.timeout(2):
        while worker.pid is not None:
            await asyncio.sleep(0.01)
    assert await worker.call("echo", {}, timeout_s=10) == ({}, b"")
    assert worker.restarts == 1


@pytest.mark.parametrize(("method", "arguments"), [("sleep", {"seconds": 60}), ("hold_gil", {})])
async def test_a_deadline_ends_the_work_even_while_c_code_holds_the_gil(
    start: Start, method: str, arguments: dict[str, Any]
) -> None:
    worker = start()
    await worker.start()
    pid = worker.pid
    async with within(1.3):
        with pytest.raises(DeadlineExceeded):
            await worker.call(method, arguments, timeout_s=0.3)
        assert await is_dead(pid, 1)
    assert await worker.call("echo", {}, timeout_s=10) == ({}, b"")


async def test_the_wait_for_an_earlier_call_counts_and_does_not_disturb_it(start: Start) -> None:
    worker = start()
    await worker.start()
    earlier = asyncio.create_task(worker.call("sleep", {"seconds": 0.5}, timeout_s=10))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded):
        await worker.call("echo", {}, timeout_s=0.1)
    assert await earlier == ({}, b"")
    assert worker.restarts == 0


async def test_a_cancelled_call_ends_the_child_within_a_second(start: Start) -> None:
    worker = start()
    await worker.start()
    pid = worker.pid
    call = asyncio.create_task(worker.call("hold_gil", {}, timeout_s=60))
    await asyncio.sleep(0.1)
    call.cancel()
    assert await is_dead(pid, 1)
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await worker.call("echo", {}, timeout_s=10) == ({}, b"")


async def test_a_start_longer_than_the_deadline_goes_on_for_the_next_call(start: Start) -> None:
    worker = start(options={"start_s": 0.6})
    with pytest.raises(DeadlineExceeded):
        await worker.call("echo", {}, timeout_s=0.2)
    assert await worker.call("echo", {}, timeout_s=10) == ({}, b"")
    assert worker.restarts == 0


async def test_growing_over_the_memory_limit_is_an_error_of_its_own(start: Start) -> None:
    worker = start(memory_limit_bytes=128 << 20)
    with pytest.raises(WorkerOutOfMemory, match="128 MiB"):
        await worker.call("grow", {}, timeout_s=20)
    assert await worker.call("echo", {}, timeout_s=10) == ({}, b"")


async def test_a_memory_error_in_the_child_is_out_of_memory_too(start: Start) -> None:
    with pytest.raises(WorkerOutOfMemory):
        await start().call("exhaust", {}, timeout_s=10)


async def test_prints_of_native_code_go_to_the_log_and_do_no_harm(start: Start) -> None:
    log = CapturingLogger()
    worker = start(logger=log)
    assert await worker.call("shout", {"n_lines": 1000}, timeout_s=10) == ({}, b"")
    assert await worker.call("echo", {"n": 2}, timeout_s=10) == ({"n": 2}, b"")
    await worker.stop()
    lines = [call.kwargs["line"] for call in log.calls if call.args == ("worker output",)]
    assert lines[0] == "native line 0"
    assert len(lines) == 200
    assert [call.kwargs["n_lines"] for call in log.calls if call.args == ("worker output dropped",)] == [801]


async def test_a_crash_leaves_its_python_stack_in_the_log(start: Start) -> None:
    log = CapturingLogger()
    with pytest.raises(WorkerCrashed):
        await start(logger=log).call("crash", {}, timeout_s=10)
    assert any("in crash" in call.kwargs.get("line", "") for call in log.calls)


async def test_standard_input_is_empty(start: Start) -> None:
    assert await start().call("read_stdin", {}, timeout_s=5) == ({"text": ""}, b"")


async def test_an_exception_comes_back_with_its_kind_and_the_child_lives_on(start: Start) -> None:
    worker = start()
    with pytest.raises(WorkerError) as caught:
        await worker.call("fail", {}, timeout_s=10)
    assert (caught.value.kind, caught.value.message) == ("KeyError", "'secret'")
    await worker.call("echo", {}, timeout_s=10)
    assert worker.restarts == 0


async def test_a_refusal_comes_back_with_its_code_and_sentence(start: Start) -> None:
    with pytest.raises(WorkerRejected) as caught:
        await start().call("refuse", {}, timeout_s=10)
    assert (caught.value.code, caught.value.detail) == ("too_quiet", "The clip is too quiet.")


@pytest.mark.parametrize(
    ("arguments", "payload"), [({}, bytes(256 << 20)), ({"text": "x" * (16 << 20)}, b"")], ids=["all", "json"]
)
async def test_a_request_over_the_bounds_is_refused_before_it_is_sent(
    start: Start, arguments: dict[str, Any], payload: bytes
) -> None:
    worker = start()
    with pytest.raises(TooLarge):
        await worker.call("echo", arguments, payload, timeout_s=10)
    assert worker.pid is None


@pytest.mark.parametrize(
    ("method", "arguments"), [("return_much", {"n_bytes": 256 << 20}), ("return_text", {"n_chars": 16 << 20})]
)
async def test_a_result_over_the_bounds_is_an_error_and_the_child_lives_on(
    start: Start, method: str, arguments: dict[str, Any]
) -> None:
    worker = start()
    with pytest.raises(TooLarge):
        await worker.call(method, arguments, timeout_s=10)
    assert await worker.call("echo", {}, timeout_s=10) == ({}, b"")
    assert worker.restarts == 0


async def test_a_result_that_is_not_json_is_the_methods_error(start: Start) -> None:
    with pytest.raises(WorkerError, match="ValueError"):
        await start().call("return_number", {"text": "nan"}, timeout_s=10)


@pytest.mark.parametrize(
    "babble",
    [
        struct.pack("!II", 1 << 31, 1 << 31),
        struct.pack("!II", 2, 0) + b"\xff\xff",
        struct.pack("!II", 2, 0) + b"[]",
        struct.pack("!II", 100_000, 0) + b"[" * 100_000,
        struct.pack("!II", 16, 0) + b'{"outcome": "x"}',
    ],
    ids=["too long", "no text", "no answer", "too deep", "unknown"],
)
async def test_a_child_that_sends_rubbish_is_killed(start: Start, babble: bytes) -> None:
    worker = start()
    await worker.start()
    pid = worker.pid
    with pytest.raises(WorkerCrashed):
        await worker.call("babble", {"text": babble.decode("latin-1")}, timeout_s=10)
    assert await is_dead(pid, 1)


async def test_three_crashes_within_a_minute_open_the_circuit_for_ever_longer_pauses(start: Start) -> None:
    clock = Clock()
    worker = start(monotonic=clock)
    for _ in range(3):
        with pytest.raises(WorkerCrashed):
            await worker.call("crash", {}, timeout_s=10)
    for pause_s in (10, 20):
        async with within(0.2):
            with pytest.raises(CircuitOpen) as caught:
                await worker.call("echo", {}, timeout_s=10)
        assert caught.value.retry_after_s == worker.circuit_open_s == pause_s
        clock.now_s += pause_s
        with pytest.raises(WorkerCrashed):
            await worker.call("crash", {}, timeout_s=10)
    clock.now_s += 40
    await worker.call("echo", {}, timeout_s=10)
    with pytest.raises(WorkerCrashed):
        await worker.call("crash", {}, timeout_s=10)
    assert worker.circuit_open_s == 0


async def test_crashes_far_apart_do_not_open_the_circuit(start: Start) -> None:
    clock = Clock()
    worker = start(monotonic=clock)
    for _ in range(4):
        with pytest.raises(WorkerCrashed):
            await worker.call("crash", {}, timeout_s=10)
        clock.now_s += 31
    assert worker.circuit_open_s == 0


async def test_of_eight_calls_at_once_only_the_one_that_crashes_fails(start: Start) -> None:
    worker = start()
    calls = [worker.call("crash" if n == 3 else "echo", {} if n == 3 else {"n": n}, timeout_s=20) for n in range(8)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results.pop(3), WorkerCrashed)
    assert results == [({"n": n}, b"") for n in range(8) if n != 3]
    assert worker.restarts == 1


@pytest.mark.parametrize(
    ("target", "options", "kind"),
    [
        ("no_such_package:Stubborn", {}, "ImportError"),
        ("stubborn:Missing", {}, "AttributeError"),
        ("stubborn:Stubborn", {"unknown": 1}, "TypeError"),
    ],
)
async def test_a_start_that_fails_says_what_kind_of_failure_it_was(
    start: Start, target: str, options: dict[str, Any], kind: str
) -> None:
    worker = start(target, options)
    with pytest.raises(WorkerStartFailed) as caught:
        await worker.start()
    assert caught.value.kind == kind
    assert worker.pid is None


async def test_a_start_that_crashes_counts_as_a_crash(start: Start) -> None:
    worker = start(options={"crash_at_start": True})
    for _ in range(3):
        with pytest.raises(WorkerCrashed, match="SIGSEGV"):
            await worker.start()
    with pytest.raises(CircuitOpen):
        await worker.start()


async def test_a_start_that_hangs_is_given_up(start: Start) -> None:
    worker = start(options={"start_s": 60}, start_timeout_s=0.5)
    with pytest.raises(WorkerStartFailed, match="TimeoutError"):
        await worker.start()


@pytest.mark.parametrize("start_s", [0, 60])
async def test_stop_ends_the_child_and_fails_the_calls_that_run_or_wait(start: Start, start_s: float) -> None:
    worker = start(options={"start_s": start_s})
    calls = [asyncio.create_task(worker.call("sleep", {"seconds": 60}, timeout_s=60)) for _ in range(3)]
    await asyncio.sleep(0.4)
    pid = worker.pid
    async with within(1):
        await worker.stop()
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in results] == [Unavailable] * 3
    assert await is_dead(pid, 0.1)


async def test_a_call_after_stop_starts_afresh(start: Start) -> None:
    worker = start()
    await worker.start()
    await worker.stop()
    assert await worker.call("echo", {}, timeout_s=10) == ({}, b"")


async def test_an_idle_child_is_ended_and_started_again_when_needed(start: Start) -> None:
    worker = start(idle_stop_s=0.2)
    await worker.call("echo", {}, timeout_s=10)
    pid = worker.pid
    assert await is_dead(pid, 2)
    assert await worker.call("sleep", {"seconds": 0.4}, timeout_s=10) == ({}, b"")
    assert worker.restarts == 1


async def test_thread_counts_reach_the_child_before_its_imports(start: Start) -> None:
    worker = start(threads=3)
    assert await worker.call("environment", {"name": "OMP_NUM_THREADS"}, timeout_s=10) == (
        {"value": "3"},
        b"",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_to_the_whole_group_leaves_the_child_to_its_parent(start: Start, number: int) -> None:
    worker = start()
    await worker.start()
    pid = worker.pid
    asyncio.get_running_loop().call_later(0.1, os.kill, pid, number)
    assert await worker.call("sleep", {"seconds": 0.3}, timeout_s=10) == ({}, b"")
    assert worker.pid == pid


@pytest.mark.parametrize("method", ["sleep", "hold_gil"])
async def test_a_parent_killed_outright_leaves_no_orphan(method: str) -> None:
    arguments = '{"seconds": 60}' if method == "sleep" else "{}"
    parent = subprocess.Popen(
        [sys.executable, str(HERE / "parent.py"), method, arguments], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(await asyncio.to_thread(parent.stdout.readline))
    await asyncio.sleep(0.3)
    assert not await is_dead(pid, 0.05)
    parent.kill()
    assert await is_dead(pid, 1)
    parent.wait()
    parent.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="Open descriptors are read from /proc.")
async def test_nothing_is_left_open_after_crashes_and_stops(start: Start) -> None:
    worker = start()
    before = n_open_sockets()
    for _ in range(2):
        with pytest.raises(WorkerCrashed):
            await worker.call("crash", {}, timeout_s=10)
        await worker.call("echo", {}, timeout_s=10)
        await worker.stop()
    assert n_open_sockets() == before
