"""A service and an engine for tests that are careless with secrets: the server has to be careful for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from fastapi import Request
from pydantic import Field, SecretStr

from corsac.core.base_router import BaseServiceRouter, post
from corsac.core.bodies import Reply, RequestBody
from corsac.core.call import Call
from corsac.core.config_mixin import ConfigEndpointMixin
from corsac.core.configuration.model import ServiceConfigModel
from corsac.core.health_checks import Check
from corsac.core.service import EngineContext, Part, ServiceContext, ServiceSpec


class Login(RequestBody):
    """A user and the word that lets the user in."""

    user: str = Field(max_length=100, description="A name.")
    words: str = Field("", max_length=200, description="Comes back in an exception's text.")


class Opened(Reply):
    """That it is open."""

    user: str


class VaultConfigModel(ServiceConfigModel):
    """Settings of the vault."""

    api_key: SecretStr = Field(SecretStr(""), description="Key of the upstream.")


class Vault(Part):
    """Logs what it should not."""

    def __init__(self, context: ServiceContext) -> None:
        self.context = context

    async def check(self) -> Sequence[Check]:
        return []


class VaultRouter(ConfigEndpointMixin, BaseServiceRouter[Vault]):
    """Tells everything to its logger, and raises the rest."""

    service_name = "vault"
    config_model = VaultConfigModel

    @post("/open")
    async def open(self, body: Login, request: Request, call: Call) -> Opened:
        """Log the request's headers and the configuration."""
        key = self.manager.context.config.current.api_key.get_secret_value()
        headers = dict(request.headers)
        self.manager.context.logger.warning("opened", headers=headers, pairs=list(headers.items()), api_key=key)
        self.manager.context.logger.warning(f"opened with api_key={key} and {headers}")
        return Opened(user=body.user)

    @post("/burst")
    async def burst(self, body: Login) -> Opened:
        """Fail with the caller's words in the exception."""
        raise RuntimeError(f"The upstream refused {body.words}")


class Safe(Part):
    """An engine that cannot start, and says why with its password in an address."""

    def __init__(self, context: EngineContext) -> None:
        self.context = context

    async def start(self) -> NoReturn:
        raise ConnectionError(f"401 from https://corsac:{self.context.options['password']}@upstream.example/v1")

    async def check(self) -> Sequence[Check]:
        return []


SERVICE = ServiceSpec("vault", Vault, VaultRouter, VaultConfigModel)
