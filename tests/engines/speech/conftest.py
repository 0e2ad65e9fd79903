from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from corsac.core.service import EngineContext, Refused


class Folders:
    """Pulled models as a plain dictionary."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders

    def folder(self, name: str) -> Path:
        if name not in self.folders:
            raise Refused(f"The model {name} is not pulled.", f"corsac models pull {name}")
        return self.folders[name]


@pytest.fixture(scope="session")
def engine_context() -> Callable[..., Any]:
    def make(name: str, folders: dict[str, Path] | None = None) -> EngineContext:
        return EngineContext(name, CapturingLogger(), Folders(folders or {}), {})

    return make
