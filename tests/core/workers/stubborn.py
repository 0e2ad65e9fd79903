"""What runs in the children of the worker tests: light to import, and ill-behaved on request."""

import ctypes
import gc
import os
import socket
import sys
import time
from typing import Any

from corsac.core.workers.protocol import Rejected

Result = tuple[dict[str, Any], bytes]


class Stubborn:
    def __init__(self, start_s: float = 0, crash_at_start: bool = False) -> None:
        time.sleep(start_s)
        if crash_at_start:
            ctypes.string_at(0)
        self.hoard: list[bytearray] = []

    def echo(self, payload: bytes, **arguments: Any) -> Result:
        return arguments, payload

    def crash(self, payload: bytes) -> Result:
        return {}, ctypes.string_at(0)

    def exit(self, payload: bytes, code: int) -> Result:
        os._exit(code)

    def sleep(self, payload: bytes, seconds: float) -> Result:
        time.sleep(seconds)
        return {}, b""

    def hold_gil(self, payload: bytes) -> Result:
        """One call of C code that lets no other Python thread run: a PyDLL call keeps the GIL."""
        ctypes.PyDLL(None).sleep(60)
        return {}, b""

    def grow(self, payload: bytes) -> Result:
        while True:
            self.hoard.append(bytearray(os.urandom(1 << 20) * 8))
            time.sleep(0.005)

    def exhaust(self, payload: bytes) -> Result:
        raise MemoryError

    def shout(self, payload: bytes, n_lines: int) -> Result:
        for n in range(n_lines):
            os.write(1, b"native line %d\n" % n)
        sys.stdout.write("a Python line\n")
        return {}, b""

    def read_stdin(self, payload: bytes) -> Result:
        return {"text": sys.stdin.read()}, b""

    def refuse(self, payload: bytes) -> Result:
        raise Rejected("too_quiet", "The clip is too quiet.")

    def fail(self, payload: bytes) -> Result:
        raise KeyError("secret")

    def return_much(self, payload: bytes, n_bytes: int) -> Result:
        return {}, bytes(n_bytes)

    def return_text(self, payload: bytes, n_chars: int) -> Result:
        return {"text": "x" * n_chars}, b""

    def return_number(self, payload: bytes, text: str) -> Result:
        return {"number": float(text)}, b""

    def babble(self, payload: bytes, text: str) -> Result:
        """Take over the socket, as hijacked native code could."""
        for sock in [each for each in gc.get_objects() if isinstance(each, socket.socket)]:
            sock.sendall(text.encode("latin-1"))
        time.sleep(60)
        return {}, b""

    def environment(self, payload: bytes, name: str) -> Result:
        return {"value": os.environ.get(name)}, b""
