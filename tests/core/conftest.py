"""The echo service on its stage."""

from __future__ import annotations

import pytest
from tests.core import echo
from tests.core.echo import EchoManager, World

from corsac.core.service_registry import State


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Built once, because its routes take time."""
    return echo.stage(tmp_path_factory.mktemp("uploads"))


@pytest.fixture
def world(stage: World) -> World:
    """The stage as it was at first: all limits rested, the service running, nothing logged."""
    stage.clock.now += 3600
    stage.manager.__dict__ = EchoManager().__dict__
    stage.log.entries.clear()
    for entry in stage.registry:
        stage.registry.move(entry, State.READY)
    return stage
