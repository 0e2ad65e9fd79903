"""A service's configuration over HTTP. The memory is the `ConfigStore`; this adds endpoints only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from fastapi import Header, Path, Query
from pydantic import Field

from corsac.core.base_router import get, patch, post, put
from corsac.core.bodies import RequestBody
from corsac.core.call import Call
from corsac.core.config_store import ConfigStore, ServiceConfigModel
from corsac.core.configuration.views import CONFIG_CHANGED, ConfigDiff, ConfigVersion, ConfigView, Preview
from corsac.core.exceptions import ConfigVersionConflict, ConfigVersionNotFound, Invalid, UnsafeConfig
from corsac.core.identity import ADMIN
from corsac.core.service import ServiceContext
from corsac.core.streaming_mixin import EventStreamResponse, StreamingResponseMixin
from corsac.core.streams.routed_event import Where

IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", max_length=100, description="ETag of the version that the change is meant for."),
]
Force = Annotated[bool, Query(description="Take also what would lock the author out; needs a reason.")]
Reason = Annotated[str, Query(max_length=500, description="Kept with the version.")]
Version = Annotated[int, Query(ge=0, le=2**31)]
CHANGE_ERRORS = (ConfigVersionConflict, UnsafeConfig)


class ConfigEdit(RequestBody):
    """Values by field; what is not named stays as it is. A secret sent as `***` is kept."""

    values: dict[str, Any] = Field(max_length=200, description="New values by field.", examples=[{"timeout_s": 30}])


class ConfigEndpointMixin(StreamingResponseMixin):
    """Endpoints under `/config`: read, change, try, go back, and follow."""

    config_model: ClassVar[type[ServiceConfigModel]]
    context: ServiceContext

    @property
    def config(self) -> ConfigStore[Any]:
        """The store of this service's configuration."""
        return self.context.config

    @get("/config", scope=ADMIN, while_down=True)
    async def get_config_endpoint(self, call: Call) -> ConfigView:
        """The configuration in force, and where each value comes from."""
        return self._tagged(self.config.view(), call)

    @put("/config", scope=ADMIN, while_down=True, body="config_model", raises=CHANGE_ERRORS)
    async def update_config_endpoint(
        self,
        body: ServiceConfigModel,
        call: Call,
        if_match: IfMatch = None,
        force: Force = False,
        reason: Reason = "",
    ) -> ConfigView:
        """Set everything that the API sets; fields that are not named go back to the file or the default."""
        view = await self.config.replace(
            body, author=call.principal.id, if_match=if_match, force=force, reason=reason or None
        )
        return self._tagged(view, call)

    @patch("/config", scope=ADMIN, while_down=True, raises=CHANGE_ERRORS)
    async def patch_config(
        self,
        body: ConfigEdit,
        call: Call,
        if_match: IfMatch = None,
        force: Force = False,
        reason: Reason = "",
    ) -> ConfigView:
        """Set some fields."""
        with _pointers_into_the_body():
            view = await self.config.update(
                body.values, author=call.principal.id, if_match=if_match, force=force, reason=reason or None
            )
        return self._tagged(view, call)

    @get("/config/schema", scope=ADMIN, while_down=True)
    async def config_schema(self) -> dict[str, Any]:
        """JSON Schema of the configuration."""
        return self.config.schema()

    @post("/config/validate", scope=ADMIN, while_down=True)
    async def validate_config(self, body: ConfigEdit) -> Preview:
        """What a change would do, without doing it."""
        return self.config.preview(body.values, merge=True)

    @get("/config/history", scope=ADMIN, while_down=True)
    async def config_history(self, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> list[ConfigVersion]:
        """The last changes, newest first."""
        return await self.config.history(limit)

    @get("/config/diff", scope=ADMIN, while_down=True, raises=(ConfigVersionNotFound,))
    async def config_diff(self, from_version: Annotated[Version, Query(alias="from")], to: Version) -> ConfigDiff:
        """What differs between two versions."""
        return await self.config.diff(from_version, to)

    @post(
        "/config/rollback/{version}",
        scope=ADMIN,
        while_down=True,
        raises=(*CHANGE_ERRORS, ConfigVersionNotFound),
    )
    async def roll_back_config(
        self,
        version: Annotated[int, Path(ge=0, le=2**31)],
        call: Call,
        if_match: IfMatch = None,
        force: Force = False,
        reason: Reason = "",
    ) -> ConfigView:
        """Go back to what a version set, as a new version."""
        view = await self.config.rollback(
            version, author=call.principal.id, if_match=if_match, force=force, reason=reason or None
        )
        return self._tagged(view, call)

    @post("/config/reset", scope=ADMIN, while_down=True, raises=CHANGE_ERRORS)
    async def reset_config(
        self, call: Call, if_match: IfMatch = None, force: Force = False, reason: Reason = ""
    ) -> ConfigView:
        """Take back everything that the API set."""
        view = await self.config.reset(author=call.principal.id, if_match=if_match, force=force, reason=reason or None)
        return self._tagged(view, call)

    @get("/config/events", scope=ADMIN, while_down=True, events={"config_changed": dict[str, Any]})
    async def config_events(self, call: Call) -> EventStreamResponse:
        """Changes as they happen."""
        where = Where(frozenset({CONFIG_CHANGED}), frozenset({self.context.name}))
        return self.create_streaming_response(self.context.events.follow(None, where), call)

    @staticmethod
    def _tagged(view: ConfigView, call: Call) -> ConfigView:
        call.headers.append((b"etag", view.etag.encode()))
        return view


@contextmanager
def _pointers_into_the_body() -> Iterator[None]:
    """The store points into the values; in a `ConfigEdit` those are a member of the body."""
    try:
        yield
    except Invalid as error:
        error.errors = tuple(replace(each, pointer="/values" + each.pointer) for each in error.errors)
        raise
