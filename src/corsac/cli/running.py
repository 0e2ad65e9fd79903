"""The running server, as the command line talks to it."""

from __future__ import annotations

from typing import Any

import httpx

from corsac.core.exceptions import CorsacError, Unavailable
from corsac.core.storage.lock import Announcement, DataDirectory
from corsac.settings import Settings


class NotRunning(Unavailable):
    """No server is running on this data directory.

    `corsac serve` starts one.
    """

    reason = "NOT_RUNNING"


class Answered(CorsacError):
    """The server refused.

    What it said is printed.
    """

    reason = "ANSWERED"


def announcement(settings: Settings) -> Announcement | None:
    """Where the server of this data directory is, or None."""
    return DataDirectory(settings.data_directory).read_announcement()


def ask(settings: Settings, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Call the running server.

    Args:
        settings: Tell the data directory.
        method: HTTP method.
        path: Path of an operation.
        body: JSON body.

    Returns:
        The answer's JSON, or None where it has no body.

    Raises:
        NotRunning: There is none.
        Answered: It answered with a problem.
    """
    where = announcement(settings)
    if where is None:
        raise NotRunning(hint="Start it with `corsac serve`.")
    headers = {"authorization": f"Bearer {where.token}"}
    try:
        answer = httpx.request(method, where.url + path, json=body, headers=headers, timeout=60, trust_env=False)
    except httpx.TransportError as error:
        raise NotRunning("The server does not answer.") from error
    if answer.is_error:
        problem = answer.json()
        raise Answered(problem["detail"], hint=problem.get("hint"))
    return answer.json() if answer.content else None
