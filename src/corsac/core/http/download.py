"""Stored files on their way to a client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import FileResponse

if TYPE_CHECKING:
    from corsac.core.storage.artifacts import Artifact

# A file that came out of a model or in by an upload is never a page of ours.
SANDBOX = "default-src 'none'; sandbox"
INLINE = ("audio/", "video/", "image/png", "image/jpeg", "image/webp", "image/avif")


def download(artifact: Artifact, *, location: str = "", served_by: str = "") -> FileResponse:
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
    return FileResponse(
        artifact.path,
        media_type=artifact.media_type,
        filename=artifact.path.name,
        content_disposition_type=disposition,
        headers=headers,
    )
