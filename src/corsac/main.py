"""The composition root: puts every part together, and serves."""

from __future__ import annotations

import ipaddress
import sys
from typing import Any

from corsac.composition import Corsac
from corsac.core.background import Background
from corsac.core.configuration.file import ConfigFile, Rejection
from corsac.core.configuration.views import CONFIG_REJECTED
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.event_handlers import EventRouter
from corsac.core.exceptions import CorsacError, StartRefused
from corsac.core.health_checks import STORAGE, HealthMonitor
from corsac.core.http.application import Application
from corsac.core.http.limits import ProtocolLimits
from corsac.core.http.server import serve
from corsac.core.idempotency import IdempotencyStore
from corsac.core.identity import Identity
from corsac.core.jobs.journal import SqliteJournal
from corsac.core.jobs.runner import JobRunner
from corsac.core.load.rate_limiter import RateLimiter
from corsac.core.logging_config import Logger, configure_logging, get_api_logger, get_service_logger
from corsac.core.logs.redaction import SecretRedactor
from corsac.core.logs.store import LogStore
from corsac.core.metrics import Metrics
from corsac.core.plugins import discover
from corsac.core.service_initializers import ServiceInitializer
from corsac.core.service_registry import Entry, ServiceRegistry
from corsac.core.storage.artifacts import ArtifactStore
from corsac.core.storage.database import Database
from corsac.core.storage.health import check_storage
from corsac.core.storage.lock import DataDirectory
from corsac.core.streams.hub import StreamHub
from corsac.models.catalog import Catalog
from corsac.models.index_source import IndexSource
from corsac.models.store import ModelStore
from corsac.settings import Settings


def assemble(settings: Settings) -> Corsac:
    """All parts of a server, wired and not started. Touches nothing but log files and what settings come from.

    Raises:
        StartRefused: The settings contradict each other, or a file of the data directory is broken.
    """
    check_exposure(settings)
    redactor, metrics, registry = SecretRedactor(), Metrics(), ServiceRegistry()
    directory = DataDirectory(settings.data_directory)
    directory.create()
    store = LogStore(registry=metrics.registry)
    sink = configure_logging(
        level=settings.log_level,
        json=settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty()),
        directory=directory.logs,
        store=store,
        secrets=redactor,
    )
    log = get_service_logger("server")
    database = Database(directory.database, logger=log)

    async def rejected(rejection: Rejection) -> None:
        corsac.events.publish(CONFIG_REJECTED, "server", {"detail": rejection.detail})

    corsac = Corsac(
        settings=settings,
        directory=directory,
        log_store=store,
        log_sink=sink,
        metrics=metrics,
        log=log,
        background=Background(log),
        database=database,
        identity=Identity(directory.token, database, redactor),
        idempotency=IdempotencyStore(database),
        events=EventRouter(database, logger=log, registry=metrics.registry),
        hub=StreamHub(log, metrics),
        jobs=JobRunner(SqliteJournal(database), ServiceErrorHandler("jobs", get_service_logger("jobs"), metrics)),
        limiter=RateLimiter(),
        registry=registry,
        health=HealthMonitor(registry, metrics, log),
        initializer=ServiceInitializer(registry, log),
        artifacts=ArtifactStore(
            directory.files,
            database,
            logger=log,
            max_age_s=settings.retention_days * 86_400,
            max_bytes=int(settings.retention_gib * 2**30),
        ),
        models=model_store(directory, log),
        config_file=ConfigFile(settings.config_file, logger=log, on_rejection=rejected),
    )
    registry.on_move = lambda entry: corsac.events.publish("part_moved", entry.name, moved(entry))

    corsac.health.add_source(STORAGE, lambda: check_storage(directory.root, database, corsac.artifacts))
    corsac.health.add_source("config", corsac.config_file.check)
    corsac.health.add_source("log", sink.check)
    corsac.take_in(discover())
    return corsac


def moved(entry: Entry) -> dict[str, Any]:
    """What the event of a part's new state says."""
    return {"state": entry.state, "failure": entry.failure, "detail": entry.detail}


def model_store(directory: DataDirectory, logger: Logger) -> ModelStore:
    """The pulled models of a data directory; the command line uses it without a server."""
    catalog = Catalog.load(directory.root / "catalog.d")
    return ModelStore(directory.models, catalog, {"index": IndexSource(logger)}, logger=logger)


def check_exposure(settings: Settings) -> None:
    """Raises StartRefused where the server would listen to a network without asking who is there."""
    if settings.auth or is_loopback(settings.host):
        return
    raise StartRefused(
        f"Listening on {settings.host} without authentication would let anybody on the network use this server.",
        hint="Leave CORSAC_AUTH on, or set CORSAC_HOST=127.0.0.1.",
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def create_app(settings: Settings) -> Application:
    """The ASGI application of a server with these settings; it starts and stops with its lifespan.

    Raises:
        StartRefused: The settings contradict each other, or a file of the data directory is broken.
    """
    return assemble(settings).application()


def run(settings: Settings) -> None:
    """Serve until a signal ends it.

    Raises:
        StartRefused: The server cannot start like this; `exit_code` says how the process should end.
    """
    serve_corsac(assemble(settings))


def serve_corsac(corsac: Corsac) -> None:
    """Serve what `assemble` made, on its data directory alone, until a signal ends it.

    Raises:
        StartRefused: The directory or the address is in use.
    """
    settings, refusals = corsac.settings, get_api_logger("protocol")
    corsac.directory.lock()

    def refused(error: CorsacError, request_id: str, peer: str) -> None:
        corsac.metrics.request("", "", error.reason, 0.0)
        refusals.info("refused", request_id=request_id, status=error.status, reason=error.reason, peer=peer)

    serve(
        corsac.application(),
        host=settings.host,
        port=settings.port,
        limits=ProtocolLimits(connections=settings.max_connections),
        on_listening=corsac.listening,
        on_drain=corsac.drain,
        on_reload=corsac.reload,
        on_refusal=refused,
        stop_streams=corsac.end_streams,
        open_streams=corsac.streams.__len__,
        drain_timeout_s=settings.drain_timeout_s,
    )
