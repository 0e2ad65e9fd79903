"""Forwarded headers are believed from our own proxies and from nobody else."""

from __future__ import annotations

import pytest

from corsac.core.http.proxies import TrustedProxies

PROXIES = TrustedProxies(["10.0.0.0/24", "2001:db8::5"])


@pytest.mark.parametrize(
    ("client", "forwarded", "expected"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.5", [], "10.0.0.5"),
        ("10.0.0.5", ["198.51.100.7"], "198.51.100.7"),
        ("2001:db8::5", ["2001:db8:7::1"], "2001:db8:7::1"),
        ("10.0.0.5", ["127.0.0.1, 198.51.100.7, 10.0.0.9"], "198.51.100.7"),
        ("10.0.0.5", ["127.0.0.1", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.5", ["10.0.0.7"], "10.0.0.5"),
        (None, ["198.51.100.7"], "unknown"),
    ],
)
def test_the_client_is_the_last_that_is_no_proxy_of_ours(
    client: str | None, forwarded: list[str], expected: str
) -> None:
    headers = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    assert PROXIES.peer({"client": client and (client, 5), "headers": headers}) == expected


@pytest.mark.parametrize(
    ("client", "proto", "scheme"),
    [("10.0.0.5", b"https", "https"), ("192.0.2.1", b"https", "http"), ("10.0.0.5", b"javascript", "http")],
)
def test_the_scheme_is_what_a_proxy_of_ours_says(client: str, proto: bytes, scheme: str) -> None:
    scope = {"client": (client, 5), "scheme": "http", "headers": [(b"x-forwarded-proto", proto)]}
    PROXIES.peer(scope)
    assert scope["scheme"] == scheme
