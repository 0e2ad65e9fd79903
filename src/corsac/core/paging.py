"""Pages of long lists, with cursors that only this server can make."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, Field

from corsac.core.exceptions import InvalidCursor

Item = TypeVar("Item")
PageLimit = Annotated[int, Field(ge=1, le=200, description="How many items a page has at most.")]
PageCursor = Annotated[
    str, Field(max_length=400, description="`next_cursor` of the page before; empty: the first page.")
]


class Page(BaseModel, Generic[Item]):
    """One page of a list.

    Args:
        items: In the list's order.
        next_cursor: Asks for the next page; None on the last one.
    """

    items: list[Item]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class CursorSigner:
    """Makes and reads cursors: a position and its HMAC, so that a tampered one is noticed.

    Args:
        secret: Key of the HMAC.
    """

    secret: bytes

    def sign(self, position: str) -> str:
        """The cursor of a position."""
        return base64.urlsafe_b64encode(self._mac(position) + position.encode()).decode()

    def position(self, cursor: str) -> str:
        """The position of a cursor; empty for the empty cursor.

        Raises:
            InvalidCursor: It is not one of ours.
        """
        if not cursor:
            return ""
        try:
            raw = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True)
            position = raw[16:].decode()
        except ValueError:
            raise InvalidCursor from None
        if not hmac.compare_digest(raw[:16], self._mac(position)):
            raise InvalidCursor
        return position

    def _mac(self, position: str) -> bytes:
        return hmac.new(self.secret, position.encode(), hashlib.sha256).digest()[:16]
