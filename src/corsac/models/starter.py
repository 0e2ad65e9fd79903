"""The models that a fresh machine gets by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from corsac.core.exceptions import CorsacError
from corsac.models.store import ModelStore, PullProgress

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger

STARTERS: dict[str, tuple[str, ...]] = {"none": (), "speech": ("piper:en_US-joe-medium", "whisper:tiny.en")}
"""Names of models by the setting `starter`."""


async def pull_starters(store: ModelStore, names: Sequence[str], logger: Logger, on_pulled: Callable[[], None]) -> None:
    """Pull those of the models that are not here, one after the other, with a line for each tenth.

    Args:
        store: Where they go.
        names: Models of the catalog.
        logger: Gets progress, and why a pull failed; a failure does not keep the next one from being tried.
        on_pulled: Called after each model that is new here.
    """
    for name in names:
        if store.status(name).state == "present":
            continue
        try:
            await store.pull(name, _tenths(logger))
        except CorsacError as error:
            logger.warning("pull failed", model=name, reason=error.reason, detail=error.detail, hint=error.hint)
        else:
            on_pulled()


def _tenths(logger: Logger) -> Callable[[PullProgress], None]:
    shown = -1

    def show(progress: PullProgress) -> None:
        nonlocal shown
        tenth = 10 * progress.bytes_done // progress.bytes_total
        if tenth > shown:
            shown = tenth
            size_mb = round(progress.bytes_total / 1e6)
            logger.info("pulling", model=progress.name, percent=10 * tenth, size_mb=size_mb)

    return show
