"""Only secrets of this server open it, for what they may, as long as they may; and only their digests are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.conftest import Clock

from corsac.core.exceptions import NotFound, Unauthenticated
from corsac.core.identity import ADMIN, ANY, OWNER, SESSION_S, TICKET_S, Identity, Principal, digest_of
from corsac.core.logging_config import Logger
from corsac.core.logs.redaction import SecretRedactor
from corsac.core.storage.database import Database


@pytest.fixture
async def database(tmp_path: Path, logger: Logger) -> AsyncIterator[Database]:
    database = Database(tmp_path / "corsac.sqlite", logger=logger)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def redactor() -> SecretRedactor:
    return SecretRedactor()


@pytest.fixture
async def identity(tmp_path: Path, database: Database, redactor: SecretRedactor, clock: Clock) -> Identity:
    identity = Identity(tmp_path / "token", database, redactor, now=clock)
    await identity.load()
    return identity


async def next_start(of: Identity) -> Identity:
    after = Identity(of.token_file, of.database, of.redactor, now=of.now)
    await after.load()
    return after


async def test_the_token_is_made_once_for_the_owners_eyes(identity: Identity) -> None:
    after = await next_start(identity)
    assert (identity.token_is_new, after.token_is_new, after.token) == (True, False, identity.token)
    assert identity.token_file.stat().st_mode & 0o777 == 0o600
    assert after.by_secret(identity.token) is OWNER


@pytest.mark.parametrize("content", ["", "\n", "  \n"])
async def test_an_empty_token_file_lets_nobody_in(identity: Identity, content: str) -> None:
    identity.token_file.write_text(content)
    after = await next_start(identity)
    assert after.token_is_new
    assert len(after.token) > 40
    with pytest.raises(Unauthenticated):
        after.by_secret("")


@pytest.mark.parametrize("secret", ["", " ", "corsac_", "x" * 100_000, "é", "\udcff", "\0"])
async def test_what_is_no_secret_of_ours_is_refused(identity: Identity, secret: str) -> None:
    await identity.create_key("alice", "laptop", ["tts"])
    for find in (identity.by_secret, identity.by_session):
        with pytest.raises(Unauthenticated):
            find(secret)


async def test_secrets_of_one_kind_do_not_work_as_another(identity: Identity) -> None:
    session = await identity.redeem_ticket(identity.issue_ticket())
    with pytest.raises(Unauthenticated):
        identity.by_secret(session)
    with pytest.raises(Unauthenticated):
        identity.by_session(identity.token)


async def test_a_key_works_now_and_after_the_next_start(identity: Identity) -> None:
    key, secret = await identity.create_key("alice", "laptop", ["tts", "rag", "tts"])
    expected = Principal("alice", key.id, frozenset({"tts", "rag"}))
    assert identity.by_secret(secret) == expected
    assert (await next_start(identity)).by_secret(secret) == expected
    assert await identity.list_keys() == [key]
    assert (key.scopes, key.created_at) == (("rag", "tts"), "1970-01-12T13:46:40Z")


async def test_a_principal_may_have_many_keys_each_with_its_own_end(identity: Identity) -> None:
    keys = [await identity.create_key("alice", name, ["tts"]) for name in ("laptop", "phone")]
    await identity.revoke_key(keys[0][0].id)
    for current in (identity, await next_start(identity)):
        with pytest.raises(Unauthenticated):
            current.by_secret(keys[0][1])
        assert current.by_secret(keys[1][1]).id == "alice"
    assert await identity.list_keys() == [keys[1][0]]


@pytest.mark.parametrize("key_id", ["nobody", OWNER.key_id, "", "revoked"])
async def test_what_is_no_key_cannot_be_revoked(identity: Identity, key_id: str) -> None:
    if key_id == "revoked":
        key_id = (await identity.create_key("alice", "laptop", ["tts"]))[0].id
        await identity.revoke_key(key_id)
    session = await identity.redeem_ticket(identity.issue_ticket())
    with pytest.raises(NotFound):
        await identity.revoke_key(key_id)
    assert identity.by_secret(identity.token) is OWNER
    assert identity.by_session(session) is OWNER
    assert (await next_start(identity)).by_session(session) is OWNER


async def test_neither_database_nor_logs_hold_a_secret(
    identity: Identity, redactor: SecretRedactor, tmp_path: Path
) -> None:
    ticket = identity.issue_ticket()
    secrets = [ticket, await identity.redeem_ticket(ticket), identity.token]
    secrets.append((await identity.create_key("alice", "laptop", ["tts"]))[1])
    stored = b"".join(file.read_bytes() for file in tmp_path.glob("corsac.sqlite*"))
    for secret in secrets:
        assert secret.encode() not in stored
        assert secret not in redactor.redact(f"it is {secret}, is it?")
    assert digest_of(secrets[-1]) in stored


async def test_a_ticket_works_once(identity: Identity) -> None:
    ticket = identity.issue_ticket()
    assert identity.by_session(await identity.redeem_ticket(ticket)) is OWNER
    with pytest.raises(Unauthenticated, match="unknown, used or older"):
        await identity.redeem_ticket(ticket)


async def test_of_two_who_redeem_a_ticket_at_once_one_gets_in(identity: Identity) -> None:
    ticket = identity.issue_ticket()
    results = await asyncio.gather(*(identity.redeem_ticket(ticket) for _ in range(2)), return_exceptions=True)
    assert [type(each) for each in results if not isinstance(each, str)] == [Unauthenticated]


@pytest.mark.parametrize(("waited_s", "works"), [(TICKET_S - 1, True), (TICKET_S, False)])
async def test_a_ticket_is_good_for_five_minutes(
    identity: Identity, clock: Clock, waited_s: float, works: bool
) -> None:
    ticket = identity.issue_ticket()
    clock.now += waited_s
    identity.issue_ticket()
    if works:
        assert await identity.redeem_ticket(ticket)
    else:
        with pytest.raises(Unauthenticated):
            await identity.redeem_ticket(ticket)


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_session_ends_after_its_time(identity: Identity, clock: Clock, restarted: bool) -> None:
    session = await identity.redeem_ticket(identity.issue_ticket())
    clock.now += SESSION_S - 1
    current = await next_start(identity) if restarted else identity
    assert current.by_session(session) is not None
    clock.now += 1
    with pytest.raises(Unauthenticated):
        current.by_session(session)
    with pytest.raises(Unauthenticated):
        (await next_start(current)).by_session(session)


async def test_signing_out_ends_the_session_for_good(identity: Identity) -> None:
    session = await identity.redeem_ticket(identity.issue_ticket())
    await identity.end_session(session)
    for current in (identity, await next_start(identity)):
        with pytest.raises(Unauthenticated):
            current.by_session(session)


@pytest.mark.parametrize(
    ("scopes", "scope", "allowed"),
    [
        ({"tts"}, "tts", True),
        ({"tts"}, "rag", False),
        ({"tts"}, ADMIN, False),
        ({"tts"}, ANY, True),
        (set(), ANY, True),
        ({ANY}, "tts", False),
        ({ADMIN}, "tts", True),
        ({ADMIN}, ADMIN, True),
    ],
)
def test_a_key_may_what_its_scopes_say(scopes: set[str], scope: str, allowed: bool) -> None:
    assert Principal("alice", "k1", frozenset(scopes)).may(scope) is allowed


def test_only_an_admin_sees_the_rows_of_others() -> None:
    assert (OWNER.sees, Principal("alice", "k1", frozenset({"tts"})).sees) == (None, "alice")
