"""Multipart forms, parsed as they come in and written straight to disk."""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from corsac.core.exceptions import BodyTooLarge, FieldError, FieldRequired, MultipartInvalid, TooManyFields
from corsac.core.storage.files import disk_errors
from corsac.core.validation import translate_validation_errors

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks
    from starlette.requests import Request

Body = TypeVar("Body", bound=BaseModel)
MAX_PARTS = 1000
MAX_FIELD_BYTES = 64 * 1024
MAX_BOUNDARY_BYTES = 70  # RFC 2046, section 5.1.1


@dataclass(slots=True)
class UploadedFile:
    """A file of a form. Its name is what the client calls it and never part of a path.

    Args:
        path: Where its bytes are until the form is closed.
        client_name: For showing to people.
        media_type: What the client says it is; empty where it does not.
        size_bytes: How many bytes arrived.
    """

    path: Path
    client_name: str
    media_type: str = ""
    size_bytes: int = 0


@dataclass(slots=True)
class Form:
    """What a multipart body held.

    Args:
        fields: Text fields by name.
        files: Files by name.
    """

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, UploadedFile] = field(default_factory=dict)

    def file(self, name: str) -> UploadedFile:
        """The file in the part `name`.

        Raises:
            FieldRequired: The form has no such file.
        """
        if name not in self.files:
            detail = f"The form needs a part '{name}' with a file name."
            raise FieldRequired(detail, errors=[FieldError(f"/{name}", FieldRequired.reason, detail)])
        return self.files[name]

    def validated(self, model: type[Body]) -> Body:
        """The text fields as a body.

        Raises:
            Invalid: They are not; the error is the one that JSON would get.
        """
        try:
            return model.model_validate(self.fields)
        except ValidationError as error:
            raise translate_validation_errors(error.errors(), body_type=model, location="body") from None

    def remove_files(self) -> None:
        """Delete the files from disk."""
        for each in self.files.values():
            each.path.unlink(missing_ok=True)


async def read_form(request: Request, form: Form, folder: Path, *, max_file_bytes: int) -> None:
    """Read the body of `request` into `form`, so that its files can be removed whatever happens.

    Args:
        request: Its body has not been read.
        form: Gets fields and files.
        folder: Where the files go.
        max_file_bytes: Size of the largest file.

    Raises:
        MultipartInvalid, TooManyFields, BodyTooLarge, StorageFull, StorageFailed: As they say.
    """
    _, options = parse_options_header(request.headers.get("content-type", "")[:1024])
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= MAX_BOUNDARY_BYTES:
        raise MultipartInvalid("The boundary must have 1 to 70 characters.")
    reader = _Reader(form, folder, max_file_bytes)
    parser = MultipartParser(boundary, reader.callbacks())
    async for chunk in request.stream():
        try:
            parser.write(chunk)
        except FormParserError:
            raise MultipartInvalid from None
        await reader.flush()
    if not reader.ended:
        raise MultipartInvalid("The body ends before its closing boundary.")


class _Reader:
    """Collects what the parser calls back; the bytes go to disk between two chunks, outside the event loop.

    No file stays open in between: a thousand of them, or a client that pauses, would use up the descriptors.
    """

    def __init__(self, form: Form, folder: Path, max_file_bytes: int) -> None:
        self.form, self.folder, self.max_file_bytes = form, folder, max_file_bytes
        self.ended = False
        self._n_parts = 0
        self._name = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._field = ""
        self._text = bytearray()
        self._file: UploadedFile | None = None
        self._unwritten: list[tuple[Path, bytes]] = []

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self.begin_part,
            "on_header_field": self.add_header_name,
            "on_header_value": self.add_header_value,
            "on_header_end": self.end_header,
            "on_headers_finished": self.open_part,
            "on_part_data": self.add_bytes,
            "on_part_end": self.end_part,
            "on_end": self.end,
        }

    async def flush(self) -> None:
        """Write what came in since the last time."""
        if not self._unwritten:
            return
        unwritten, self._unwritten = self._unwritten, []
        writing = asyncio.ensure_future(asyncio.to_thread(_write_all, unwritten))
        try:
            await asyncio.shield(writing)
        finally:  # also when cancelled: a thread that still writes would bring a removed file back
            await asyncio.wait({writing})

    def begin_part(self) -> None:
        self._n_parts += 1
        if self._n_parts > MAX_PARTS:
            raise TooManyFields(f"The form has more than {MAX_PARTS} parts.")
        self._headers, self._text, self._file = {}, bytearray(), None

    def add_header_name(self, chunk: bytes, start: int, end: int) -> None:
        self._name += chunk[start:end]

    def add_header_value(self, chunk: bytes, start: int, end: int) -> None:
        self._value += chunk[start:end]

    def end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def open_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._field = options.get(b"name", b"").decode("utf-8", "replace")
        if not self._field or self._field in self.form.fields or self._field in self.form.files:
            raise MultipartInvalid("Every part needs a name of its own.")
        if b"filename" not in options:
            return
        path = self.folder / f"upload-{secrets.token_hex(16)}"
        media_type = self._headers.get(b"content-type", b"").decode("latin-1")[:255]
        self._file = UploadedFile(path, options[b"filename"].decode("utf-8", "replace")[:255], media_type)
        self.form.files[self._field] = self._file
        self._unwritten.append((path, b""))  # an empty file is a file too

    def add_bytes(self, chunk: bytes, start: int, end: int) -> None:
        if self._file is None:
            self._text += chunk[start:end]
            if len(self._text) > MAX_FIELD_BYTES:
                raise BodyTooLarge(f"A text field may have {MAX_FIELD_BYTES} bytes.")
            return
        self._file.size_bytes += end - start
        if self._file.size_bytes > self.max_file_bytes:
            raise BodyTooLarge(f"A file may have {self.max_file_bytes} bytes.")
        self._unwritten.append((self._file.path, chunk[start:end]))

    def end_part(self) -> None:
        if self._file is None:
            try:
                self.form.fields[self._field] = self._text.decode("utf-8")
            except UnicodeDecodeError:
                raise MultipartInvalid("Text fields are UTF-8.") from None

    def end(self) -> None:
        self.ended = True


def _write_all(chunks: list[tuple[Path, bytes]]) -> None:
    with disk_errors():
        for path, of_one_file in groupby(chunks, key=itemgetter(0)):
            with open(path, "ab", opener=_open_private) as file:
                file.writelines(chunk for _, chunk in of_one_file)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
