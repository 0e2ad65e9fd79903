from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import CapturingLogger

from corsac.core.storage.database import Database


@pytest.fixture
def logger() -> CapturingLogger:
    return CapturingLogger()


@pytest.fixture
async def database(tmp_path: Path, logger: CapturingLogger) -> AsyncIterator[Database]:
    database = Database(tmp_path / "corsac.sqlite", logger=logger, probe_s=0.05)
    await database.open()
    yield database
    await database.close()
