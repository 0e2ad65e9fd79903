"""The child's side: `python -m corsac.core.workers.child <fd>` makes one object and runs its methods.

Nothing here may import more than it needs: a child should be up in some 50 ms.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import signal
import socket
import sys
from queue import SimpleQueue
from threading import Thread
from typing import Any

from corsac.core.workers.protocol import HEAD, Answer, Rejected, unpack_head

PR_SET_PDEATHSIG = 1  # linux/prctl.h
MAX_DETAIL_CHARS = 2000
THREAD_COUNTS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)

Request = tuple[dict[str, Any], bytes]


def main(fd: int) -> None:
    """Serve the parent on the socket `fd` until it closes."""
    for ignored in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # sent to the whole group; the parent drains first, then kills
        signal.signal(ignored, signal.SIG_IGN)
    end_with_parent()
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    setup, _ = receive(sock)
    if os.getppid() != setup["parent"]:  # it died before the kernel was told to tell us
        os._exit(1)
    requests: SimpleQueue[Request] = SimpleQueue()
    Thread(target=read_requests, args=(sock, requests), daemon=True).start()
    try:
        worker = make(setup)
    except Exception as error:
        logging.exception("the worker could not start")
        kind = "ImportError" if isinstance(error, ImportError) else type(error).__name__
        send(sock, Answer("failed", code=kind, detail=str(error)[:MAX_DETAIL_CHARS]).pack())
        return
    send(sock, Answer("ready").pack())
    while True:
        send(sock, *run(worker, *requests.get()))


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies.

    The thread that reads the socket would notice too, but not while native code holds the GIL.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) != 0:
            logging.warning("no signal at the parent's death: %s", os.strerror(ctypes.get_errno()))


def make(setup: dict[str, Any]) -> object:
    """Import the class and make its object; thread counts are set before a library can read them."""
    os.environ.update(dict.fromkeys(THREAD_COUNTS, str(setup["threads"])))
    sys.path[:] = setup["path"]
    module, _, name = setup["target"].partition(":")
    instance: object = getattr(importlib.import_module(module), name)(**setup["options"])
    return instance


def read_requests(sock: socket.socket, requests: SimpleQueue[Request]) -> None:
    """Queue what arrives. Runs beside the work, so the end of the parent is noticed during it."""
    try:
        while True:
            requests.put(receive(sock))
    except (EOFError, OSError):
        os._exit(0)


def run(worker: object, request: dict[str, Any], payload: bytes) -> tuple[bytes, memoryview]:
    """Run one method; whatever it raises becomes an answer."""
    try:
        result, output = getattr(worker, request["method"])(payload=payload, **request["arguments"])
        view = memoryview(output)
        flat = view.cast("B") if view.nbytes else memoryview(b"")
        return Answer("result", result).pack(flat), flat
    except Rejected as refusal:
        answer = Answer("rejected", code=refusal.code, detail=refusal.detail)
    except Exception as error:
        logging.exception("%s failed", request["method"])
        answer = Answer("failed", code=type(error).__name__, detail=str(error)[:MAX_DETAIL_CHARS])
    return answer.pack(), memoryview(b"")


def receive(sock: socket.socket) -> Request:
    """The next message.

    Raises:
        EOFError: The parent closed the socket.
    """
    n_text, n_payload = unpack_head(read(sock, HEAD.size))
    return json.loads(read(sock, n_text)), bytes(read(sock, n_payload))


def read(sock: socket.socket, n_bytes: int) -> bytearray:
    """Exactly `n_bytes` from the socket."""
    buffer = bytearray(n_bytes)
    view, n_read = memoryview(buffer), 0
    while n_read < n_bytes:
        n_more = sock.recv_into(view[n_read:])
        if n_more == 0:
            raise EOFError
        n_read += n_more
    return buffer


def send(sock: socket.socket, head: bytes, payload: memoryview | None = None) -> None:
    """Send one message; a parent that is gone ends this process."""
    try:
        sock.sendall(head)
        if payload:
            sock.sendall(payload)
    except OSError:
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
