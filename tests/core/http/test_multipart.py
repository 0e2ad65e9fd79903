"""A form arrives as it was sent, however it is cut into pieces; its files never outlive the request."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from corsac.core.exceptions import BodyTooLarge, CorsacError, MultipartInvalid, StorageFull, TooManyFields
from corsac.core.http.multipart import Form
from corsac.core.router_mixins import FileUploadMixin
from corsac.core.service import ServiceContext

CONTENT = b"\r\n--b\r\n--boundary-\r\n\0\xff" * 3
FIELD = b'Content-Disposition: form-data; name="%s"\r\n\r\n%s'
FILE = b'Content-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n%s'


class Uploads(FileUploadMixin):
    def __init__(self, folder: Path) -> None:
        self.context = cast(ServiceContext, SimpleNamespace(uploads=folder))


def body_of(*parts: bytes) -> bytes:
    return b"".join(b"--boundary\r\n" + part + b"\r\n" for part in parts) + b"--boundary--\r\n"


def request_of(chunks: Sequence[bytes], content_type: str = "multipart/form-data; boundary=boundary") -> Request:
    messages: Iterator[Message] = iter(
        [*({"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks), {"type": "http.request"}]
    )

    async def receive() -> Message:
        return next(messages)

    return Request({"type": "http", "headers": [(b"content-type", content_type.encode())]}, receive)


def on_disk(form: Form) -> dict[str, bytes]:
    return {name: file.path.read_bytes() for name, file in form.files.items()}


WHOLE = body_of(
    FIELD % (b"text", "Grüße".encode()),
    FILE % (b"voice", b"a.wav", CONTENT),
    FILE % (b"empty", b"", b""),
    FIELD % (b"last", b""),
)


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, len(WHOLE)), max_size=30))
def test_any_cut_gives_the_same_form(cuts: list[int]) -> None:
    ends = sorted({*cuts, len(WHOLE)})
    chunks = [WHOLE[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    async def check(folder: Path) -> None:
        async with Uploads(folder).receive_form(request_of(chunks), max_file_bytes=1000) as form:
            assert form.fields == {"text": "Grüße", "last": ""}
            assert on_disk(form) == {"voice": CONTENT, "empty": b""}
            assert form.files["voice"].size_bytes == len(CONTENT)
        assert not list(folder.iterdir())

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(Path(folder)))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", MultipartInvalid),
        (WHOLE[:-6], MultipartInvalid),
        (WHOLE[:200], MultipartInvalid),
        (b"rubbish", MultipartInvalid),
        (body_of(FILE % (b"a", b"a", b"1"), b"Content-Disposition: form-data\r\n\r\nx"), MultipartInvalid),
        (body_of(FILE % (b"a", b"a", b"1"), b"X: y\r\n\r\nx"), MultipartInvalid),
        (body_of(FILE % (b"a", b"a", b"1"), FIELD % (b"a", b"2")), MultipartInvalid),
        (body_of(FILE % (b"a", b"a", b"1"), FIELD % (b"b", b"\xff")), MultipartInvalid),
        (body_of(FILE % (b"a", b"a", b"1"), b"No colon\r\n\r\nx"), MultipartInvalid),
        (body_of(FILE % (b"a", b"a", b"1"), b"X: " + b"y" * 100_000 + b"\r\n\r\nx"), MultipartInvalid),
        (body_of(FILE % (b"a", b"a", b"1"), b"X: y\r\n" * 100 + b"\r\nx"), MultipartInvalid),
        (body_of(FILE % (b"a", b"a", b"1"), *(FIELD % (b"f%d" % n, b"") for n in range(1000))), TooManyFields),
        (body_of(FILE % (b"a", b"a", b"x" * 1001)), BodyTooLarge),
        (body_of(FILE % (b"a", b"a", b"1"), FIELD % (b"b", b"x" * 70_000)), BodyTooLarge),
    ],
)
async def test_a_refused_form_leaves_no_file(tmp_path: Path, body: bytes, error: type[CorsacError]) -> None:
    chunks = [body[start : start + 64] for start in range(0, len(body), 64)]
    with pytest.raises(error) as caught:
        async with Uploads(tmp_path).receive_form(request_of(chunks), max_file_bytes=1000):
            pytest.fail("The form was taken.")
    assert type(caught.value) is error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "-" * 1_000_000,
        "x",
        "",
    ],
)
async def test_a_boundary_has_one_to_seventy_characters(tmp_path: Path, content_type: str) -> None:
    with pytest.raises(MultipartInvalid, match="1 to 70"):
        async with Uploads(tmp_path).receive_form(request_of([WHOLE], content_type), max_file_bytes=1000):
            pytest.fail("The form was taken.")


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "C:\\x", "a\0b", "é" * 300, "; $(x)", ".."])
async def test_a_clients_file_name_is_never_part_of_a_path(tmp_path: Path, name: str) -> None:
    chunks = [body_of(FILE % (b"a", name.encode(), b"1"))]
    async with Uploads(tmp_path).receive_form(request_of(chunks), max_file_bytes=1000) as form:
        path = form.files["a"].path
        assert path.parent == tmp_path
        assert path.name.removeprefix("upload-").isalnum()
        assert path.stat().st_mode & 0o777 == 0o600


async def test_the_files_are_gone_when_the_handler_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Uploads(tmp_path).receive_form(request_of([WHOLE]), max_file_bytes=1000):
            raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


async def test_the_files_are_gone_when_the_client_leaves(tmp_path: Path) -> None:
    messages: Iterator[Message] = iter(
        [{"type": "http.request", "body": WHOLE[:200], "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> Message:
        return next(messages)

    request = Request({"type": "http", "headers": request_of([]).scope["headers"]}, receive)
    with pytest.raises(ClientDisconnect):
        async with Uploads(tmp_path).receive_form(request, max_file_bytes=1000):
            pytest.fail("The form was taken.")
    assert not list(tmp_path.iterdir())


async def test_a_thousand_files_hold_no_descriptors_while_the_rest_is_awaited(tmp_path: Path) -> None:
    body = body_of(*(FILE % (b"f%d" % n, b"n", b"x") for n in range(1000)))
    rest, n_open = [b"--\r\n", body[:-4]], []

    async def receive() -> Message:
        n_open.append(len(os.listdir("/dev/fd")))
        return {"type": "http.request", "body": rest.pop(), "more_body": bool(rest)}

    request = Request({"type": "http", "headers": request_of([]).scope["headers"]}, receive)
    async with Uploads(tmp_path).receive_form(request, max_file_bytes=1000) as form:
        assert len(form.files) == 1000
    assert n_open[1] <= n_open[0] + 2


@pytest.fixture
def named_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the next file of an upload goes."""
    monkeypatch.setattr("corsac.core.http.multipart.secrets.token_hex", lambda _: "known")
    return tmp_path / "upload-known"


async def test_a_full_disk_is_told_as_such(tmp_path: Path, named_upload: Path) -> None:
    named_upload.symlink_to("/dev/full")
    with pytest.raises(StorageFull):
        async with Uploads(tmp_path).receive_form(request_of([WHOLE]), max_file_bytes=1000):
            pytest.fail("The form was taken.")
    assert not list(tmp_path.iterdir())


async def test_a_cancelled_upload_ends_after_its_writing_thread(tmp_path: Path, named_upload: Path) -> None:
    os.mkfifo(named_upload)  # whoever writes waits for a reader

    async def upload() -> None:
        async with Uploads(tmp_path).receive_form(request_of([WHOLE]), max_file_bytes=1000):
            pytest.fail("The form was taken.")

    task = asyncio.create_task(upload())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.sleep(0.05)
    assert named_upload.exists()
    reader = os.open(named_upload, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(asyncio.CancelledError):
        await task
    os.close(reader)
    assert not list(tmp_path.iterdir())
