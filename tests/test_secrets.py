"""Secrets are where they have to be and nowhere else: planted in a real server, looked for in all that it wrote."""

from __future__ import annotations

import gzip
import re
import secrets
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.server import JSON, Answer, Server, install_plugin, request

DATABASE = {"corsac.sqlite", "corsac.sqlite-wal"}
PLACES: dict[str, set[str]] = {
    "token": {"token", "server.json", "terminal"},
    "ticket": {"terminal"},
    "configuration": DATABASE,
}
"""Where a secret has to be: the token's own file, the note for the command line, the greeting, and the configuration
that has to survive a restart. Answers that give a secret out, this once, are not looked at."""
MADE_BY_THE_SERVER = ("token", "key", "ticket", "cookie")
PLANTED = (
    "authorization header",
    "query",
    "field named password",
    "configuration",
    "exception",
    "header",
    "exception of an engine",
    "exception of a plugin",
)


@dataclass
class Found:
    """What the server knew, and all that came out of it."""

    secrets: dict[str, str]
    written: dict[str, bytes] = field(default_factory=dict)

    def places_of(self, secret: str) -> set[str]:
        return {place for place, text in self.written.items() for form in spellings(secret) if form in text}


def spellings(secret: str) -> set[bytes]:
    """The forms in which a secret might slip through: plain, percent-encoded, in hexadecimal, in base64."""
    raw = secret.encode()
    padded = [b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4] for shift in range(3)]
    return {raw, quote(secret, safe="").encode(), raw.hex().encode(), *padded}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("secrets")
    planted = {name: "canary" + secrets.token_urlsafe(18) for name in PLANTED}
    found, directory = Found(planted), folder / "data"
    directory.mkdir()
    options = f'[engines.vaulting.safe]\npassword = "{planted["exception of an engine"]}"\n'
    (directory / "corsac.toml").write_text(options)
    vault = {"corsac.services": {"vault": "vault:SERVICE"}, "corsac.engines.vaulting": {"safe": "vault:Safe"}}
    plugins = [
        install_plugin(folder / "vault", "vault", vault),
        install_plugin(folder / "leaky", "leaky", {"corsac.services": {"leaky": "leaky:SERVICE"}}),
    ]
    environment = {"LEAKY_TOKEN": planted["exception of a plugin"]}
    with Server(directory, plugins=plugins, environment=environment) as server:
        planted |= given_out(server)
        diary = Diary(server)
        provoke(diary, planted)
        look_around(diary, planted["key"])
        server.wait_for_log(event="request", path="/metrics")
        found.written |= diary.answers | files(directory)
    found.written |= {f"{name}, after the end": text for name, text in files(directory).items()}
    found.written["terminal"] = server.output.read_bytes()
    return found


@dataclass
class Diary:
    """Asks, and keeps every answer."""

    server: Server
    answers: dict[str, bytes] = field(default_factory=dict)

    def ask(self, method: str, path: str, *arguments: Any, **options: Any) -> None:
        self.keep(path, self.server.ask(method, path, *arguments, **options))

    def keep(self, path: str, answer: Answer) -> None:
        headers = [f"{name}: {value}\n" for name, value in answer.headers.items()]
        self.answers[f"answer {len(self.answers)} {path[:30]}"] = "".join(headers).encode() + answer.body


def given_out(server: Server) -> dict[str, str]:
    """Secrets that the server makes, from the one answer that gives each of them out."""
    ticket = re.search(r"#ticket=(\S+)", server.output.read_text())
    assert ticket
    cookie = server.ask("POST", "/api/session", {"ticket": ticket[1]}, key="").headers["set-cookie"]
    return {
        "token": server.token,
        "key": server.create_key("alice", "vault"),
        "ticket": ticket[1],
        "cookie": cookie.partition(";")[0].partition("=")[2],
    }


def provoke(diary: Diary, planted: dict[str, str]) -> None:
    """Requests that carry secrets where people put them, and make the server talk about them."""
    key, cookie = planted["key"], f"corsac_session={planted['cookie']}; other={planted['header']}"
    edit = {"values": {"api_key": planted["configuration"]}}
    diary.ask("PATCH", "/api/vault/config", edit)
    diary.ask("POST", "/api/vault/config/validate", edit)
    headers = {"X-Api-Key": planted["header"], "Cookie": cookie}
    diary.ask("POST", "/api/vault/open", {"user": "a"}, headers=headers, key=key)
    diary.ask("GET", "/api/session", headers={"Cookie": cookie}, key="")
    diary.ask("POST", "/api/vault/burst", {"user": "a", "words": f"password={planted['exception']}"})
    diary.ask("POST", "/api/vault/burst", {"user": "a", "words": f"Authorization: Bearer {key}"})
    diary.ask("POST", "/api/vault/open", {"user": "a", "password": planted["field named password"]})
    broken = b'{"password": "%s", ' % planted["field named password"].encode()
    bearer = f"Authorization: Bearer {key}"
    diary.keep("broken", diary.server.send(request("POST", "/api/vault/open", bearer, JSON, body=broken)))
    diary.ask("GET", "/api/session", key=planted["authorization header"])
    basic = b64encode(f"corsac:{planted['authorization header']}".encode()).decode()
    diary.ask("GET", "/api/session", headers={"Authorization": f"Basic {basic}"}, key="")
    diary.ask("GET", f"/api/session?token={planted['query']}", key="")
    diary.ask("GET", f"/api/session?token={planted['query']}")
    diary.ask("POST", "/api/session", {"ticket": planted["ticket"]}, key="")
    for secret in (key, diary.server.token, planted["ticket"], planted["cookie"]):
        diary.ask("DELETE", f"/api/keys/{secret}")
        diary.ask("GET", f"/api/vault/{secret}/x", key=key)
    diary.ask("GET", "/no/such/path", headers={"X-Request-Id": planted["header"] + "!"}, key=key)


def look_around(diary: Diary, key: str) -> None:
    """Ask for everything that tells about the server, as the owner and with a key."""
    views = ["registry", "health", "keys", "vault/config", "vault/config/history", "vault/config/diff?from=0&to=1"]
    for path in [*views, "vault/health", "session", "admin/logs?limit=1000"]:
        diary.ask("GET", f"/api/{path}")
        diary.ask("GET", f"/api/{path}", key=key)
    diary.ask("GET", "/openapi.json")
    diary.ask("GET", "/metrics")


def files(directory: Path) -> dict[str, bytes]:
    """All that the server wrote to its directory, by name, unpacked."""
    written = {}
    for file in directory.rglob("*"):
        if file.is_file() and file.name != "corsac.toml":
            content = file.read_bytes()
            written[file.name] = gzip.decompress(content) if file.suffix == ".gz" else content
    return written


@pytest.mark.parametrize("name", [*MADE_BY_THE_SERVER, *PLANTED])
def test_a_secret_is_where_it_has_to_be_and_nowhere_else(found: Found, name: str) -> None:
    places = {place.partition(",")[0] for place in found.places_of(found.secrets[name])}
    assert places <= PLACES.get(name, set())


def test_the_search_finds_what_is_there(found: Found) -> None:
    assert {"token", "server.json", "terminal"} <= found.places_of(found.secrets["token"])
    assert found.places_of(found.secrets["configuration"]) & DATABASE
    assert "corsac.log" in found.places_of("opened")
    assert found.places_of("The upstream refused") >= {"corsac.log"}


@pytest.mark.parametrize(
    "text", ["{0}", "a={0}&b", "https://x/{0}%2F", "user:{0}", "ab:{0}"], ids=["plain", "query", "path", "b64", "b64+1"]
)
def test_a_secret_is_recognized_in_disguise(text: str) -> None:
    secret = "canaryL8y3x-Qq_9"
    said = text.format(secret).encode()
    shown = b64encode(said) if "b64" in text or ":" in text[:5] else said
    assert any(form in shown for form in spellings(secret))


def test_only_the_owner_sees_places_on_this_machine_and_only_in_tracebacks(
    found: Found, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = str(tmp_path_factory.getbasetemp()).encode()
    told = [name for name, text in found.written.items() if name.startswith("answer") and root in text]
    assert [name.partition("/")[2] for name in told] == ["api/registry", "api/admin/logs?limit=1000"]
