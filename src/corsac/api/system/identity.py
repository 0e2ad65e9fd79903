"""Keys, and the browser's session."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request
from pydantic import Field
from starlette.responses import Response

from corsac.core.base_router import BaseRouter, delete, get, post
from corsac.core.bodies import Reply, RequestBody
from corsac.core.call import Call
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.exceptions import FieldError, InvalidChoice, InvalidId, Unauthenticated
from corsac.core.http.authentication import SESSION_COOKIE
from corsac.core.identity import ANY, PUBLIC, SESSION_S, ApiKey, Identity
from corsac.core.load.rate_limiter import RateLimiter
from corsac.core.validation import refused_as

KeyId = Annotated[str, Path(pattern=r"^[a-z0-9]{1,64}$"), refused_as(InvalidId)]


class KeyRequest(RequestBody):
    """A key to be made."""

    name: str = Field(min_length=1, max_length=100, description="For people.", examples=["my notebook"])
    principal: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
        max_length=64,
        description="Whom its rows belong to.",
        examples=["alice"],
    )
    scopes: list[Annotated[str, Field(max_length=64)]] = Field(
        min_length=1, max_length=64, description="Names of services, `any`, or `admin`.", examples=[["tts"]]
    )


class KeyView(Reply):
    """A key without its secret."""

    id: str
    principal: str
    name: str
    scopes: list[str]
    created_at: str

    @classmethod
    def of(cls, key: ApiKey) -> KeyView:
        """The view of a key."""
        return cls(
            id=key.id,
            principal=key.principal,
            name=key.name,
            scopes=list(key.scopes),
            created_at=key.created_at,
        )


class NewKey(Reply):
    """A key just made; its secret is shown this once."""

    key: KeyView
    secret: str


class TicketRequest(RequestBody):
    """The ticket from the address that the server printed."""

    ticket: str = Field(
        min_length=8,
        max_length=100,
        description="What stands behind `#ticket=` in the address.",
        examples=["b3Blbi1zZXNhbWUtMTIzNDU2"],
    )


class CallerView(Reply):
    """Who the server takes the caller for."""

    principal: str
    key_id: str
    scopes: list[str]


class IdentityRouter(BaseRouter):
    """API keys and browser sessions."""

    prefix = "/api"
    tag = "identity"

    def __init__(
        self, errors: ServiceErrorHandler, limiter: RateLimiter, *, identity: Identity, scopes: list[str]
    ) -> None:
        super().__init__(errors, limiter)
        self.identity = identity
        self.scopes = scopes

    @get("/keys", while_down=True)
    async def list_keys(self) -> list[KeyView]:
        """All keys that are not revoked."""
        return [KeyView.of(key) for key in await self.identity.list_keys()]

    @post("/keys", status=201, while_down=True, raises=(InvalidChoice,))
    async def create_key(self, body: KeyRequest) -> NewKey:
        """Make a key. Its secret is in this answer and nowhere else."""
        if unknown := set(body.scopes) - set(self.scopes):
            place = FieldError("/scopes", InvalidChoice.reason, f"The scopes are {', '.join(self.scopes)}.")
            raise InvalidChoice(f"{len(unknown)} of the scopes do not exist.", errors=[place])
        key, secret = await self.identity.create_key(body.principal, body.name, body.scopes)
        return NewKey(key=KeyView.of(key), secret=secret)

    @delete("/keys/{key_id}", status=204, while_down=True)
    async def revoke_key(self, key_id: KeyId) -> Response:
        """Revoke a key at once."""
        await self.identity.revoke_key(key_id)
        return Response(status_code=204)

    @get("/session", scope=ANY, while_down=True)
    async def who_am_i(self, call: Call) -> CallerView:
        """Who the server takes the caller for."""
        caller = call.principal
        return CallerView(principal=caller.id, key_id=caller.key_id, scopes=sorted(caller.scopes))

    @post("/session", scope=PUBLIC, status=204, per_minute=10, while_down=True, raises=(Unauthenticated,))
    async def start_session(self, body: TicketRequest, request: Request) -> Response:
        """Exchange a ticket for a session cookie: HttpOnly, for this site only."""
        secret = await self.identity.redeem_ticket(body.ticket)
        answer = Response(status_code=204)
        answer.set_cookie(
            SESSION_COOKIE,
            secret,
            max_age=int(SESSION_S),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
            path="/",
        )
        return answer

    @delete("/session", scope=ANY, status=204, while_down=True)
    async def end_session(self, request: Request) -> Response:
        """Sign the browser out."""
        await self.identity.end_session(request.cookies.get(SESSION_COOKIE, ""))
        answer = Response(status_code=204)
        answer.delete_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="strict")
        return answer

    @post("/session/tickets", while_down=True)
    async def issue_ticket(self) -> TicketRequest:
        """Make a ticket: once, within five minutes, it lets a browser in as the owner."""
        return TicketRequest(ticket=self.identity.issue_ticket())
