"""The log on a terminal or a pipe whose reader may be slow, or gone."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TextIO

# What a pipe that reports itself writable takes without blocking (POSIX: PIPE_BUF).
BLOCK_BYTES = 4096
PATIENCE_MS = 50


class LogStream:
    """Writes lines to a stream and waits 50 ms at most for its reader; then lines are lost until it reads.

    Args:
        stream: Usually stderr. Its descriptor is shared with other processes, so it stays in blocking mode.
        render: Makes what is shown out of a JSON line.
    """

    place = "stream"

    def __init__(self, stream: TextIO, render: Callable[[bytes], bytes]) -> None:
        self._stream = stream
        self._render = render
        self._rest = b""
        self._stalled = False

    def write(self, lines: Sequence[bytes]) -> int:
        """Show lines.

        Args:
            lines: JSON lines.

        Returns:
            How many of them were lost: nobody reads, or the stream fails.
        """
        shown = [self._render(line) for line in lines]
        try:
            fd = self._stream.fileno()
        except (OSError, ValueError):
            return self._write_text(shown)
        # What is left of a line that was cut comes first, so that no line is glued to another.
        block = b"".join([self._rest, *shown])
        starts = list(accumulate(map(len, shown), initial=len(self._rest)))
        n_written = self._write_block(fd, block)
        whole = next(start for start in [0, *starts] if start >= n_written)
        self._rest = block[n_written:whole] if n_written else self._rest
        return sum(start >= whole for start in starts[:-1])

    def close(self) -> None:
        """Nothing: the stream belongs to the process."""

    def _write_block(self, fd: int, block: bytes) -> int:
        view, n_written = memoryview(block), 0
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        patience_ms = 0 if self._stalled else PATIENCE_MS
        while n_written < len(block):
            if not poll.poll(0):
                # Once per call: the file behind the same thread must not starve for a slow reader.
                self._stalled = not poll.poll(patience_ms)
                patience_ms = 0
                if self._stalled:
                    break
            try:
                n_written += os.write(fd, view[n_written : n_written + BLOCK_BYTES])
            except OSError:
                break
        return n_written

    def _write_text(self, shown: Sequence[bytes]) -> int:
        try:
            self._stream.write(b"".join(shown).decode())
            self._stream.flush()
        except (OSError, ValueError):
            return len(shown)
        return 0
