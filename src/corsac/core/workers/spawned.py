"""One spawned child, seen from its parent: the process, the socket to it, what it prints and how it ended."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal, Self

from corsac.core.workers.memory import oom_kills, resident_bytes
from corsac.core.workers.output_log import OutputLog
from corsac.core.workers.protocol import HEAD, Answer, ProtocolBroken, unpack_head

COMMAND = (sys.executable, "-P", "-u", "-X", "faulthandler", "-m", "corsac.core.workers.child")
MEMORY_WATCH_S = 0.05
DYING_S = 1.0
EXIT_S = 5.0  # a killed process of 1 GiB is gone within 0.2 s; one that is stuck in the kernel may never be

EndedBy = Literal["", "stop", "caller", "memory"]


class ChildDied(Exception):
    """The child ended, or stopped making sense, before it answered."""


class SpawnedChild:
    """A running child process.

    Attributes:
        ended_by: Who ended it; empty while it runs and when it ended by itself.
        rss_bytes: Resident memory as last measured.
    """

    def __init__(self, process: Process, sock: socket.socket, output_log: OutputLog) -> None:
        assert process.stdout is not None  # noqa: S101 - `spawn` asks for the pipe
        self.pid = process.pid
        self.ended_by: EndedBy = ""
        self.rss_bytes = 0
        self._process = process
        self._sock = sock
        self._output = asyncio.create_task(output_log.follow(process.stdout))
        self._n_oom_kills = oom_kills()
        self._burial: asyncio.Task[None] | None = None

    @classmethod
    async def spawn(cls, environment: Mapping[str, str] | None, output_log: OutputLog) -> Self:
        """Start a fresh interpreter; forking would copy locks that other threads hold."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *COMMAND,
                    str(theirs.fileno()),
                    stdin=DEVNULL,
                    stdout=PIPE,
                    stderr=STDOUT,
                    pass_fds=(theirs.fileno(),),
                    env=environment,
                )
        except BaseException:
            ours.close()
            raise
        return cls(process, ours, output_log)

    @property
    def is_gone(self) -> bool:
        """Whether its end of the socket is closed, or holds what nobody asked for."""
        try:
            self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    async def ask(self, head: bytes, payload: bytes, memory_limit_bytes: int) -> tuple[Answer, bytes]:
        """One exchange under the memory watch. Unless an answer comes, the child does not survive it.

        Raises:
            ChildDied: No answer will come.
        """
        watch = asyncio.create_task(self._watch_memory(memory_limit_bytes))
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(self._sock, head)
            if payload:
                await loop.sock_sendall(self._sock, payload)
            n_text, n_output = unpack_head(await self._read(HEAD.size))
            answer = Answer.unpack(await self._read(n_text))
            return answer, bytes(await self._read(n_output))
        except ProtocolBroken as error:
            self.kill("")
            raise ChildDied from error
        except (OSError, EOFError) as error:
            raise ChildDied from error
        except BaseException:  # a deadline or a cancelled caller: native code cannot be interrupted otherwise
            self.kill("caller")
            raise
        finally:
            watch.cancel()

    def kill(self, ended_by: EndedBy) -> None:
        """Kill it; whoever reads from it sees the end at once. Only the first kill counts."""
        if self._burial is None:
            self.ended_by = ended_by
            with suppress(ProcessLookupError):
                self._process.kill()
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._burial = asyncio.create_task(self._bury())

    async def ended(self) -> None:
        """Wait until it is gone and everything of it is released."""
        if self._burial is None:  # asyncio's kill() of a process that is just dying would lose its exit code
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), DYING_S)
        self.kill("")
        assert self._burial is not None  # noqa: S101 - `kill` made it
        await asyncio.shield(self._burial)

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed it because memory ran out, as far as its count of such kills tells."""
        return self._process.returncode == -signal.SIGKILL and oom_kills() > self._n_oom_kills

    @property
    def cause_of_death(self) -> str:
        """In words: `died of SIGSEGV (segmentation fault)`."""
        code = self._process.returncode
        if code is None:
            return "does not end"
        if code >= 0:
            return f"ended by itself with exit code {code}"
        words = signal.strsignal(-code) or "unknown signal"
        return f"died of {signal.Signals(-code).name} ({words.lower()})"

    async def _read(self, n_bytes: int) -> bytearray:
        loop = asyncio.get_running_loop()
        buffer = bytearray(n_bytes)
        view, n_read = memoryview(buffer), 0
        while n_read < n_bytes:
            n_more = await loop.sock_recv_into(self._sock, view[n_read:])
            if n_more == 0:
                raise EOFError
            n_read += n_more
        return buffer

    async def _watch_memory(self, limit_bytes: int) -> None:
        while True:
            self.rss_bytes = await resident_bytes(self.pid)
            if self.rss_bytes > limit_bytes:
                self.kill("memory")
                return
            await asyncio.sleep(MEMORY_WATCH_S)

    async def _bury(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), EXIT_S)
        await asyncio.wait({self._output}, timeout=1)  # a grandchild may hold the pipe open
        self._output.cancel()
        self._sock.close()
