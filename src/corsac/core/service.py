"""What a service or an engine is to the framework: something that starts, works, tells how it is, and stops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from corsac.core.config_store import ConfigStore, ServiceConfigModel
    from corsac.core.error_handler import ServiceErrorHandler
    from corsac.core.event_handlers import EventRouter
    from corsac.core.health_checks import Check, HealthMonitor
    from corsac.core.idempotency import IdempotencyStore
    from corsac.core.jobs.runner import JobRunner
    from corsac.core.load.rate_limiter import RateLimiter
    from corsac.core.logging_config import Logger
    from corsac.core.paging import CursorSigner
    from corsac.core.service_registry import ServiceRegistry
    from corsac.core.storage.artifacts import ArtifactStore
    from corsac.core.streams.hub import StreamHub


class StartFailure(Exception):
    """A part could not start.

    Args:
        detail: A sentence that says what is missing or broken.
        hint: The command or step that mends it, if one is known.
    """

    def __init__(self, detail: str, hint: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


class NotReady(StartFailure):
    """Temporary: something it needs does not answer yet. Tried again with growing pauses."""


class Refused(StartFailure):
    """A person has to do something first: install an extra, pull a model, set a credential."""


class Broken(StartFailure):
    """It failed in a way that trying again will not mend."""


class Part(ABC):
    """What the registry starts, checks and stops; services and engines are both parts."""

    async def start(self) -> None:
        """Make ready to work.

        Raises:
            NotReady: Temporary; it will be tried again.
            Refused: A person has to act; the hint says how.
            Broken: Given up.
        """

    async def stop(self) -> None:
        """Release everything. Called once, also after a failed start; must not raise for what is gone already."""

    @abstractmethod
    async def check(self) -> Sequence[Check]:
        """How it is, from real successes: never loads a model to find out. At most 2 seconds."""


class ModelFiles(Protocol):
    """Where the weights of a pulled model are."""

    def folder(self, name: str) -> Path:
        """The folder with the verified files of model `name`, for example `piper:en_US-joe-medium`.

        Raises:
            Refused: It is not here; the detail gives its size, the hint the command that pulls it.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What the composition root hands one engine.

    Args:
        name: Its name among the engines of its kind, for example `piper`.
        logger: Bound to the engine.
        models: Pulled models.
        options: Settings of the engine from `corsac.toml`, `[engines.<kind>.<name>]`.
    """

    name: str
    logger: Logger
    models: ModelFiles
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """What the composition root hands one service.

    Args:
        name: The service's name.
        config: Its configuration; `config.current` is one whole version.
        registry: Finds engines by kind.
        artifacts: Keeps generated files, with owners and retention.
        uploads: Folder of files on their way in, for `FileUploadMixin`.
        errors: Translates, counts and logs its errors.
        limiter: The one rate limiter.
        health: Reports on any part.
        cursors: Signs the cursors of paged lists.
        logger: Bound to the service.
        streams: Owns the producers of its streaming answers, and its WebSockets.
        events: Publishes what others may want to know.
        jobs: Runs what takes long.
        idempotency: Keeps the answers of operations marked `idempotent_key`; None where nothing keeps them.
    """

    name: str
    config: ConfigStore[Any]
    registry: ServiceRegistry
    artifacts: ArtifactStore
    uploads: Path
    errors: ServiceErrorHandler
    limiter: RateLimiter
    health: HealthMonitor
    cursors: CursorSigner
    logger: Logger
    streams: StreamHub
    events: EventRouter
    jobs: JobRunner
    idempotency: IdempotencyStore | None = None


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What a service's entry point in the group `corsac.services` is.

    Args:
        name: Lower-case word; the service lives under `/api/<name>`.
        manager: Makes the service from its context.
        router: Makes its routes from the manager and the context.
        config: Its configuration's model.
        requires: Kinds of engines and names of services that it needs.
    """

    name: str
    manager: Callable[[ServiceContext], Part]
    router: Callable[[Any, ServiceContext], Any]
    config: type[ServiceConfigModel]
    requires: tuple[str, ...] = ()
