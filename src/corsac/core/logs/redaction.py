"""Keeps secrets out of what is written: those that are known, and what looks like one."""

from __future__ import annotations

import json
import re
import threading
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus, unquote

MASK = "***"
MIN_SECRET_CHARS = 6
MAX_SECRETS = 256

_SECRET_NAME = re.compile(
    r"(?:passw(?:or)?d|secret|api[_-]?key|authorization|cookie|credential|private[_-]?key)s?$|(?:token|ticket)$", re.I
)
_QUOTED = r"""b?\\*(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)"""
_IS = r"""(?:\\*["']?\s*[:=]\s*|\\*["']\s*,\s*)"""
# With a digit, a capital or a hyphen in it: names of metrics have none.
_OWN_KEY = r"(?-i:corsac_(?=[a-z_]*[A-Z0-9-])[A-Za-z0-9_-]{16,})"
_PATTERNS = [
    # The whole rest of a line, because both headers have parts with blanks in them.
    (rf"((?:authorization|cookie){_IS})(?:{_QUOTED}|[^\r\n]+)", rf"\1{MASK}"),
    (
        rf"((?:(?:passw(?:or)?d|secret|api[_-]?key|private[_-]?key|credential)s?|token|ticket){_IS})"
        rf"(?:{_QUOTED}|[^\s\"'&,;)}}\]]+)",
        rf"\1{MASK}",
    ),
    (r"\b(bearer\s+)[^\s\"',;]{8,}", rf"\1{MASK}"),
    (r"\b(basic\s+)[A-Za-z0-9+/=_-]{16,}", rf"\1{MASK}"),
    (_OWN_KEY, MASK),
    # Keys of the hubs and APIs that engines talk to.
    (r"\b(?:hf_|sk-)[A-Za-z0-9_-]{16,}", MASK),
    (r"://[^/\s:@]+:[^/\s@]+@", f"://{MASK}@"),
]
_RULES = [(re.compile(pattern, re.I | re.S), replacement) for pattern, replacement in _PATTERNS]
# No rule, no name of a secret and no encoded secret matches a text without one of these.
_HINTS: tuple[str, ...] = (
    *("corsac_", "bearer", "basic", "token", "ticket", "passw", "secret", "api_key", "api-key", "apikey"),
    *("authorization", "cookie", "credential", "private", "sk-", "hf_", "@", "%"),
)
_RUN = re.compile(r"[^\s\"'&]+")
_BASE64_RUN = re.compile(r"[A-Za-z0-9+/_=-]{8,}")


def base64_cores(secret: bytes) -> set[str]:
    """What base64 of any text around `secret` contains, whatever stands before and after it.

    Args:
        secret: At least 4 bytes.

    Returns:
        One core for each of the three alignments, in the standard and the URL-safe alphabet.
    """
    cores = set()
    for shift in range(3):
        first, last = -(-shift * 8 // 6), (shift + len(secret)) * 8 // 6
        padded = b"\0" * shift + secret
        cores |= {encode(padded).decode()[first:last] for encode in (b64encode, urlsafe_b64encode)}
    return cores


def spellings(secret: str) -> set[str]:
    """How text shows a secret that holds quotes, backslashes, blanks or foreign letters."""
    in_json = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    return {secret, repr(secret)[1:-1], quote_plus(secret, errors="replace")} | in_json


class SecretRedactor:
    """Replaces secrets in text by `***`: plain, percent-encoded, base64, or inside a longer encoded text.

    Without being told it finds our own keys (`corsac_…`), `Authorization` and `Cookie` headers, user names in URLs,
    and whatever stands behind a name like `password=`, `token=` or `"api_key":`.

    May be used from several threads.

    Example:
        >>> redactor = SecretRedactor()
        >>> redactor.add("open sesame")
        >>> redactor.redact("GET /cave?word=open%20sesame")
        'GET /cave?word=***'
    """

    def __init__(self) -> None:
        self._secrets: dict[str, tuple[set[str], set[str]]] = {}
        self._lock = threading.Lock()
        self._forms: tuple[str, ...] = ()
        self._own_cores = tuple(base64_cores(b"corsac_"))
        self._cores = self._own_cores
        self._hints = _HINTS
        self._learn()

    def add(self, secret: str) -> None:
        """Redact `secret` from now on.

        Args:
            secret: At least 6 characters; a shorter one is in too many words and is left alone. The newest 256 are
                known; those that start with `corsac_` are recognized by that and do not count.
        """
        if len(secret) < MIN_SECRET_CHARS or secret in self._secrets or re.fullmatch(_OWN_KEY, secret):
            return
        with self._lock:
            self._secrets[secret] = (spellings(secret), base64_cores(secret.encode(errors="surrogatepass")))
            while len(self._secrets) > MAX_SECRETS:
                del self._secrets[next(iter(self._secrets))]
            self._learn()

    def suspects(self, line: bytes) -> bool:
        """Whether a JSON line can hold anything to redact; most lines cannot, and this is cheap."""
        # Latin-1 keeps bytes as they are; searching a str is twice as fast as searching bytes.
        lowered = line.lower().decode("latin-1")
        for hint in self._hints:  # noqa: SIM110 - any() would cost as much again
            if hint in lowered:
                return True
        return False

    def redact(self, text: str) -> str:
        """`text` with every secret replaced by `***`."""
        masked = self._mask(text)
        return _RUN.sub(self._mask_encoded, masked) if "%" in masked else masked

    def redact_value(self, value: Any, name: str = "", redact: Callable[[str], str] | None = None) -> Any:
        """A JSON value with every secret in it replaced, keys included.

        Args:
            value: None, bool, int, float, str, or lists and dicts of these.
            name: Its key. The value of a key like `password` or `cookie` is replaced as a whole.
            redact: What is done to each text instead of `self.redact`.
        """
        redact = redact or self.redact
        if value is None or isinstance(value, bool):
            return value
        if name and _SECRET_NAME.search(name):
            return MASK
        if isinstance(value, str):
            return redact(value)
        if isinstance(value, dict):
            return {redact(key): self.redact_value(each, key, redact) for key, each in value.items()}
        if isinstance(value, list):
            # Headers come as pairs of a name and a value.
            if len(value) == 2 and isinstance(value[0], str):
                return [redact(value[0]), self.redact_value(value[1], value[0], redact)]
            return [self.redact_value(each, redact=redact) for each in value]
        return value

    def _learn(self) -> None:
        known = self._secrets.values()
        self._forms = tuple(sorted((form for forms, _ in known for form in forms), key=len, reverse=True))
        self._cores = (*self._own_cores, *(core for _, cores in known for core in cores))
        needles = (text.encode(errors="replace").lower().decode("latin-1") for text in (*self._forms, *self._cores))
        self._hints = (*_HINTS, *needles)

    def _mask(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, MASK)
        if any(core in text for core in self._cores):
            text = _BASE64_RUN.sub(self._mask_base64, text)
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
        return text

    def _mask_base64(self, run: re.Match[str]) -> str:
        return MASK if any(core in run[0] for core in self._cores) else run[0]

    def _mask_encoded(self, run: re.Match[str]) -> str:
        plain = run[0]
        for _ in range(3):  # A URL inside a URL inside a URL.
            plain = unquote(plain)
        masked = self._mask(plain)
        return run[0] if masked == plain else masked
