"""A service to try the framework on: it greets, breaks, lies, and counts how often it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from corsac.core.base_router import BaseServiceRouter, get, post
from corsac.core.bodies import Reply, RequestBody
from corsac.core.call import Call
from corsac.core.config_mixin import ConfigEndpointMixin
from corsac.core.configuration.model import ServiceConfigModel
from corsac.core.exceptions import Conflict
from corsac.core.health_checks import Check
from corsac.core.service import Part, ServiceContext, ServiceSpec

SECRET = "a-word-that-nobody-may-read"


class Greet(RequestBody):
    """Whom to greet."""

    name: str = Field(min_length=1, max_length=20, description="A name.", examples=["Ann"])


class Break(RequestBody):
    """How to break."""

    how: Literal["unforeseen", "too late", "ours"] = Field(description="Which error to raise.", examples=["ours"])


class Greeting(Reply):
    """A greeting and who asked for it."""

    words: str
    asked_by: str


class ProbeConfigModel(ServiceConfigModel):
    """Settings of the probe."""

    word: str = Field("Hello", min_length=1, max_length=20, description="How to greet.")
    volume: int = Field(5, ge=0, le=10, description="How loud.")


class ProbeManager(Part):
    """Greets."""

    def __init__(self, context: ServiceContext) -> None:
        self.context = context
        self.n_checks = 0

    async def check(self) -> Sequence[Check]:
        self.n_checks += 1
        return [Check("probe:pulse", "pass", 60.0, "bpm")]

    async def greet(self, name: str) -> str:
        self.context.logger.info("greeting", n_chars=len(name))
        return f"{self.context.config.current.word} {name}"


class ProbeRouter(ConfigEndpointMixin, BaseServiceRouter[ProbeManager]):
    """Greets and breaks."""

    service_name = "probe"
    config_model = ProbeConfigModel

    @post("/greet", per_minute=600, raises=(Conflict,))
    async def greet(self, body: Greet, call: Call) -> Greeting:
        """Greet somebody by name."""
        return Greeting(words=await self.manager.greet(body.name), asked_by=call.principal.id)

    @post("/break")
    async def break_down(self, body: Break) -> Greeting:
        """Fail."""
        raise {"unforeseen": ValueError(SECRET), "too late": TimeoutError(SECRET), "ours": Conflict()}[body.how]

    @get("/lie")
    async def lie(self) -> Greeting:
        """Answer with something else than promised."""
        promised: Any = {"words": 5, "secret": SECRET}
        return promised  # type: ignore[no-any-return]


PROBE = ServiceSpec("probe", ProbeManager, ProbeRouter, ProbeConfigModel)
