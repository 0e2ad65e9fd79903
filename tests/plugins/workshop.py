"""A service for tests, installed like anybody's: it echoes, takes uploads, dawdles and breaks down."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import Path as PathParameter
from fastapi import Request
from pydantic import Field, SecretStr

from corsac.core.base_router import BaseServiceRouter, get, post
from corsac.core.bodies import Reply, RequestBody
from corsac.core.config_mixin import ConfigEndpointMixin
from corsac.core.configuration.model import ServiceConfigModel
from corsac.core.exceptions import InvalidId, MultipartInvalid, TooManyFields
from corsac.core.health_checks import Check
from corsac.core.router_mixins import FileUploadMixin
from corsac.core.service import Part, ServiceContext, ServiceSpec
from corsac.core.validation import refused_as

ItemId = Annotated[str, PathParameter(pattern=r"^[a-z0-9_-]{1,64}$"), refused_as(InvalidId)]


class Sample(RequestBody):
    """A body with a field of every simple type."""

    prompt: str = Field("", max_length=100, description="Any text.")
    temperature: float = Field(1.0, ge=0, le=2, description="A number.")
    count: int = Field(1, ge=1, le=10, description="A whole number.")
    loud: bool = Field(False, description="A choice.")


class Rest(RequestBody):
    """How long to rest."""

    seconds: float = Field(ge=0, le=20, description="Seconds.")


class Received(Reply):
    """Sizes of the files of an upload."""

    files: dict[str, int]


class WorkshopConfigModel(ServiceConfigModel):
    """Settings of the workshop."""

    benches: int = Field(3, ge=1, le=10, description="Number of benches.")
    api_key: SecretStr = Field(SecretStr(""), description="A secret.")
    doors: list[str] = Field(["front"], max_length=9, description="Ways in.")

    def lockout(self) -> str | None:
        """Without a door nobody comes in."""
        return None if self.doors else "Without a door nobody could come in any more."


class Workshop(Part):
    """Does nothing by itself."""

    def __init__(self, context: ServiceContext) -> None:
        self.context = context

    async def check(self) -> Sequence[Check]:
        return [Check("workshop:open", "pass")]


class WorkshopRouter(ConfigEndpointMixin, FileUploadMixin, BaseServiceRouter[Workshop]):
    """What goes wrong can go wrong here."""

    service_name = "workshop"
    config_model = WorkshopConfigModel

    @post("/echo")
    async def echo(self, body: Sample) -> Sample:
        """Return the body."""
        return body

    @post("/rest")
    async def rest(self, body: Rest) -> Rest:
        """Take a while."""
        await asyncio.sleep(body.seconds)
        return body

    @post("/crash")
    async def crash(self, request: Request) -> Rest:
        """Fail in a way that nobody foresaw, with a secret in the exception's text."""
        raise RuntimeError(f"The upstream refused authorization={request.headers['authorization']}")

    @post("/upload", upload=True, max_body_bytes=1 << 24, raises=(MultipartInvalid, TooManyFields))
    async def upload(self, request: Request) -> Received:
        """Take files."""
        async with self.receive_form(request, max_file_bytes=1 << 20) as form:
            return Received(files={name: file.size_bytes for name, file in form.files.items()})

    @get("/few", per_minute=10)
    async def few(self) -> Rest:
        """Answer ten times a minute."""
        return Rest(seconds=0)

    @get("/items/{item_id}")
    async def item(self, item_id: ItemId) -> Rest:
        """Answer whatever the id."""
        return Rest(seconds=0)


SERVICE = ServiceSpec("workshop", Workshop, WorkshopRouter, WorkshopConfigModel, requires=("tts",))
HEN = ServiceSpec("hen", Workshop, WorkshopRouter, WorkshopConfigModel, requires=("egg",))
EGG = ServiceSpec("egg", Workshop, WorkshopRouter, WorkshopConfigModel, requires=("hen",))
