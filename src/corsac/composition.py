"""One server: what it takes in, what it mounts, and how it lives."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from corsac.api.system.documentation import DocumentationRouter
from corsac.api.system.health import HealthRouter, Readiness
from corsac.api.system.identity import IdentityRouter
from corsac.api.system.jobs import JobsRouter
from corsac.api.system.logs import LogsRouter
from corsac.api.system.registry import RegistryRouter
from corsac.api.system.streams import StreamsRouter
from corsac.core.background import Background
from corsac.core.base_router import BaseRouter
from corsac.core.config_store import ConfigStore
from corsac.core.configuration.file import ConfigFile
from corsac.core.configuration.views import CONFIG_CHANGED
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.event_handlers import EventRouter
from corsac.core.exceptions import AlreadyRegistered, StartRefused
from corsac.core.health_checks import HealthMonitor
from corsac.core.http.application import Application
from corsac.core.http.authentication import AuthenticationLayer
from corsac.core.http.crash_guard import CrashGuard, OpenStreams
from corsac.core.http.gate import scopes_of
from corsac.core.http.openapi import openapi_document
from corsac.core.http.proxies import TrustedProxies
from corsac.core.idempotency import IdempotencyStore
from corsac.core.identity import OWNER, RESERVED_SCOPES, Identity
from corsac.core.jobs.runner import JobRunner
from corsac.core.load.rate_limiter import RateLimiter, per_minute
from corsac.core.logging_config import Logger, LogSink, get_api_logger, get_service_logger
from corsac.core.logging_middleware import LoggingMiddleware
from corsac.core.logs.store import LogStore
from corsac.core.metrics import Metrics
from corsac.core.paging import CursorSigner
from corsac.core.plugins import ENGINES, SERVICES, Plugin, PluginView
from corsac.core.service import EngineContext, Part, ServiceContext, ServiceSpec
from corsac.core.service_initializers import ServiceInitializer
from corsac.core.service_registry import SERVICE, Entry, ServiceRegistry
from corsac.core.service_shutdown import stop_all
from corsac.core.storage.artifacts import ArtifactStore
from corsac.core.storage.backup import daily_backup
from corsac.core.storage.database import Database
from corsac.core.storage.lock import DataDirectory
from corsac.core.streams.hub import StreamHub
from corsac.middleware.input_validation_middleware import InputValidationMiddleware
from corsac.middleware.rate_limiting import RateLimitingMiddleware
from corsac.models.starter import STARTERS, pull_starters
from corsac.models.store import ModelStore
from corsac.security.security_middleware import PAGE_HEADERS, RESPONSE_HEADERS, OriginPolicy, SecurityMiddleware
from corsac.settings import Settings, service_environment

HEALTH_ROUND_S = 15.0
SWEEP_ROUND_S = 3600.0
BACKUP_ROUND_S = 3600.0
DESCRIPTION = "One self-hosted AI backend: every service with the same errors, health, configuration and limits."


@dataclass(slots=True)
class Corsac:
    """One server, put together by `assemble`.

    Args:
        settings: From outside.
        directory: Everything that is kept.
        log_sink: Where log lines go.
        log_store: The recent ones.
        configs: The services' configurations by name.
        plugins: Where services and engines came from.
        routers: What will be mounted.
    """

    settings: Settings
    directory: DataDirectory
    log_sink: LogSink
    log_store: LogStore
    metrics: Metrics
    database: Database
    identity: Identity
    idempotency: IdempotencyStore
    events: EventRouter
    hub: StreamHub
    jobs: JobRunner
    limiter: RateLimiter
    registry: ServiceRegistry
    health: HealthMonitor
    initializer: ServiceInitializer
    artifacts: ArtifactStore
    models: ModelStore
    config_file: ConfigFile
    log: Logger
    background: Background
    readiness: Readiness = field(default_factory=Readiness)
    streams: OpenStreams = field(default_factory=OpenStreams)
    configs: dict[str, ConfigStore[Any]] = field(default_factory=dict)
    plugins: list[PluginView] = field(default_factory=list)
    routers: list[BaseRouter] = field(default_factory=list)

    def take_in(self, plugins: Sequence[Plugin]) -> None:
        """Register services and engines; one that fails is named, and everything else stands."""
        contents = self.config_file.read()
        for plugin in plugins:
            view = plugin.view
            if view.error is None:
                try:
                    if view.group == SERVICES:
                        self._add_service(plugin.loaded, contents.services.get(view.name, {}))
                    else:
                        kind = view.group.removeprefix(ENGINES)
                        self._add_engine(
                            kind, view.name, plugin.loaded, contents.engines.get(kind, {}).get(view.name, {})
                        )
                except StartRefused:
                    raise
                except Exception as error:
                    self.log.error("plugin failed", group=view.group, plugin=view.name, exc_info=error)
                    view = view.model_copy(update={"error": f"{type(error).__name__}: {error}"})
            else:
                self.log.error("plugin did not load", group=view.group, plugin=view.name, traceback=view.error)
            if view.error is not None:  # anybody's words, with whatever secret is in them
                view = view.model_copy(update={"error": self.identity.redactor.redact(view.error)})
            self.plugins.append(view)

    def _add_engine(
        self, kind: str, name: str, engine: Callable[[EngineContext], Part], options: Mapping[str, Any]
    ) -> None:
        context = EngineContext(name, get_service_logger(f"{kind}:{name}"), self.models, options)
        self.registry.register(Entry(f"{kind}:{name}", kind, engine(context)))

    def _add_service(self, spec: ServiceSpec, file_values: Mapping[str, Any]) -> None:
        if spec.name in RESERVED_SCOPES:
            raise AlreadyRegistered(f"{spec.name} is the name of a scope; a service needs another.")
        logger = get_service_logger(spec.name)
        config = ConfigStore(
            spec.name,
            spec.config,
            file_values=file_values,
            environment=service_environment(spec.name),
            database=self.database,
            logger=logger,
        )
        config.subscribe(lambda change: self.events.publish(CONFIG_CHANGED, change.service, change.summary()))
        context = ServiceContext(
            name=spec.name,
            config=config,
            registry=self.registry,
            artifacts=self.artifacts,
            uploads=self.directory.uploads,
            errors=ServiceErrorHandler(spec.name, logger, self.metrics),
            limiter=self.limiter,
            health=self.health,
            cursors=CursorSigner(secrets.token_bytes(32)),
            logger=logger,
            streams=self.hub,
            events=self.events,
            jobs=self.jobs,
            idempotency=self.idempotency,
        )
        manager = spec.manager(context)
        router = spec.router(manager, context)
        self.registry.register(Entry(spec.name, SERVICE, manager, spec.requires))
        self.configs[spec.name] = config
        self.routers.append(router)

    def application(self) -> Application:
        """The ASGI application, with all routers mounted."""
        errors, release = ServiceErrorHandler("server", self.log, self.metrics), version("corsac")
        http_log = get_api_logger("http")
        layers: list[Callable[[ASGIApp], ASGIApp]] = [
            partial(
                CrashGuard,
                logger=http_log,
                streams=self.streams,
                draining=lambda: self.readiness.draining,
                headers=RESPONSE_HEADERS,
                page_headers=PAGE_HEADERS,
                proxies=self._proxies(),
            ),
            partial(LoggingMiddleware, logger=http_log, metrics=self.metrics, errors=errors),
            partial(SecurityMiddleware, policy=self._origin_policy()),
            InputValidationMiddleware,
            partial(
                AuthenticationLayer,
                identity=self.identity,
                everybody_is=None if self.settings.auth else OWNER,
            ),
            partial(
                RateLimitingMiddleware,
                limiter=self.limiter,
                limit=per_minute(self.settings.requests_per_minute),
            ),
        ]
        # Services first: they are asked most, and routes are tried in order.
        routers = [
            *self.routers,
            HealthRouter(errors, self.limiter, monitor=self.health, readiness=self.readiness, metrics=self.metrics),
            RegistryRouter(
                errors,
                self.limiter,
                registry=self.registry,
                initializer=self.initializer,
                plugins=self.plugins,
            ),
            IdentityRouter(errors, self.limiter, identity=self.identity, scopes=scopes_of(self.configs)),
            LogsRouter(errors, self.limiter, store=self.log_store, sink=self.log_sink, streams=self.hub),
            StreamsRouter(errors, self.limiter, streams=self.hub, events=self.events),
            JobsRouter(
                errors,
                self.limiter,
                runner=self.jobs,
                streams=self.hub,
                cursors=CursorSigner(secrets.token_bytes(32)),
            ),
            DocumentationRouter(
                errors,
                self.limiter,
                openapi=lambda: openapi_document("Corsac", release, DESCRIPTION, routes),
                version=release,
            ),
        ]
        routes = [route for router in routers for route in router.routes()]
        sockets = [route for router in routers for route in router.websocket_routes()]
        return Application([*routes, *sockets], layers, lifespan=self.lifespan, title="Corsac", version=release)

    def _proxies(self) -> TrustedProxies:
        try:
            return TrustedProxies(self.settings.trusted_proxies)
        except ValueError as error:
            raise StartRefused(f"CORSAC_TRUSTED_PROXIES takes addresses and networks: {error}.") from error

    def _origin_policy(self) -> OriginPolicy:
        host = self.settings.host
        names = [f"[{host}]" if ":" in host else host, *self.settings.allowed_hosts]
        return OriginPolicy.of(names, self.settings.cors_origins)

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """Everything from opening the database to closing the log."""
        try:
            await self._start()
            yield
        finally:
            self.drain()
            await self.background.stop()
            await self.initializer.close()
            await self.jobs.stop(self.settings.drain_timeout_s)
            await self.hub.close()
            await stop_all(self.registry, self.log)
            await self.events.flush()
            await self.database.close()
            self.directory.withdraw()
            self.log_sink.close()

    async def _start(self) -> None:
        await self.database.open()
        await self.identity.load()
        for config in self.configs.values():
            await config.load()
        await self.artifacts.sweep()
        await asyncio.to_thread(self.models.clear_leftovers)
        for left_behind in self.directory.uploads.iterdir():
            left_behind.unlink()
        await self.initializer.start_all()
        await self.jobs.start()
        self.readiness.started = True
        starters = pull_starters(self.models, STARTERS[self.settings.starter], self.log, self._try_the_refused)
        self.background.start(starters, "pull starter models")
        self.background.start(self.config_file.watch(self.configs), "watch corsac.toml")
        self.background.every(HEALTH_ROUND_S, self._revive_the_ill, "watch health")
        self.background.every(SWEEP_ROUND_S, self.artifacts.sweep, "sweep files")
        self.background.every(SWEEP_ROUND_S, self.jobs.sweep, "forget old jobs")
        self.background.every(BACKUP_ROUND_S, partial(daily_backup, self.directory, logger=self.log), "back up")

    async def _revive_the_ill(self) -> None:
        for name in await self.health.ill():
            await self.initializer.revive(name)

    def _try_the_refused(self) -> None:
        """What waited for a person may have waited for the model that is here now."""
        for entry in self.registry:
            if entry.failure == "refused":
                self.initializer.begin(entry.name)

    def listening(self, address: tuple[str, int]) -> None:
        """Tell people and the command line where the server is."""
        host, port = address[0], address[1]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.directory.announce(url, self.identity.token)
        self.greet(url)

    def greet(self, url: str) -> None:
        """Print the address on the terminal; it carries a ticket, so it goes into no log."""
        lines = [
            f"Corsac is listening on {url}",
            f"  browser: {url}/docs#ticket={self.identity.issue_ticket()}",
        ]
        if self.identity.token_is_new:
            lines.append(f"  token:   {self.identity.token}  (kept in {self.directory.token})")
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()

    def drain(self) -> None:
        """Take no new work."""
        self.readiness.draining = True
        self.jobs.drain()

    def end_streams(self) -> None:
        """Have every open stream say that it ends, and end."""
        self.streams.ending.set()
        self.hub.shut_down()

    def reload(self) -> None:
        """Read corsac.toml again."""
        self.background.start(self._reload(), "reload corsac.toml")

    async def _reload(self) -> None:
        await self.config_file.reload(self.configs)
