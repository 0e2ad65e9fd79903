"""Stored files on their way to a client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import FileResponse

from corsac.core.exceptions import CorsacError

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from corsac.core.storage.artifacts import Artifact

# A file that came out of a model or in by an upload is never a page of ours.
SANDBOX = "default-src 'none'; sandbox"
INLINE = ("audio/", "video/", "image/png", "image/jpeg", "image/webp", "image/avif")


class RangeNotSatisfiable(CorsacError):
    """The file has no such bytes.

    A range lies within the file and ends behind its start; the header Content-Range gives the file's size.
    """

    status, reason, retry = 416, "RANGE_NOT_SATISFIABLE", "fix_first"


class StoredFile(FileResponse):
    """A file of which ranges of bytes can be asked for.

    A range in another unit than bytes is ignored, as RFC 9110, section 14.2, has it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or the ranges of it.

        Raises:
            RangeNotSatisfiable: It has no such range.
        """

        async def send_or_refuse(message: Message) -> None:
            # Starlette would say it in text/plain.
            if message["type"] == "http.response.start" and message["status"] >= 400:
                raise RangeNotSatisfiable(headers={"Content-Range": f"bytes */{self.headers['content-length']}"})
            await send(message)

        fields = [each for each in scope["headers"] if each[0] != b"range" or each[1].lower().startswith(b"bytes=")]
        await super().__call__({**scope, "headers": fields}, receive, send_or_refuse)


def download(artifact: Artifact, *, location: str = "", served_by: str = "") -> StoredFile:
    """The file of an artifact: ranges are answered, and only plain media are shown inline.

    Args:
        artifact: A stored file.
        location: Where it can be fetched again, for `Content-Location`.
        served_by: The engine that made it, for the header `X-Corsac-Served-By`.
    """
    disposition = "inline" if artifact.media_type.startswith(INLINE) else "attachment"
    headers = {"content-security-policy": SANDBOX, "cache-control": "private, max-age=3600"}
    if served_by:
        headers["x-corsac-served-by"] = served_by
    if location:
        headers["content-location"] = location
    return StoredFile(
        artifact.path,
        media_type=artifact.media_type,
        filename=artifact.path.name,
        content_disposition_type=disposition,
        headers=headers,
    )
