"""Which formats weights may have: those that are data. What can carry code is refused by its first bytes."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from corsac.core.exceptions import Invalid

HEAD_BYTES = 64

# Suffix: how such a file begins. `.bin` is CTranslate2's: a small version number, then the name of a class.
_BEGINNINGS = {
    ".gguf": re.compile(rb"GGUF"),
    ".safetensors": re.compile(rb".{5}\0\0\0\{", re.DOTALL),
    ".onnx": re.compile(rb"\x08[\x01-\x20]"),
    ".bin": re.compile(rb"[\x01-\x20]\0\0\0.\0[A-Z][A-Za-z]+", re.DOTALL),
    ".json": re.compile(rb"\s*[\[{]"),
    ".txt": re.compile(rb"[^\0\x80]"),
}
SUFFIXES = frozenset(_BEGINNINGS)


class ModelFormatNotAllowed(Invalid):
    """A model's file is not in a format that holds data only.

    Weights may be GGUF, safetensors, ONNX or CTranslate2, with JSON and text beside them. Pickles, and zip
    files that hold them, can run code when they are loaded and are refused whatever they are called.
    """

    reason = "MODEL_FORMAT_NOT_ALLOWED"


def check_format(path: str, head: bytes) -> None:
    """Refuse a file whose contents are not what its name promises.

    Args:
        path: Its path within the model's folder.
        head: Its first 64 bytes, or all of a shorter file.

    Raises:
        ModelFormatNotAllowed: It begins like something else, for example a pickle or a zip file.
    """
    beginning = _BEGINNINGS.get(PurePosixPath(path).suffix)
    if beginning is None or not beginning.match(head) or head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        raise ModelFormatNotAllowed(
            f"The file {path} is not what its name promises, or of a format that may hold code."
        )
