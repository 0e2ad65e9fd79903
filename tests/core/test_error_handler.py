"""Whatever an operation raises comes out as one error of ours, counted once, and unforeseen ones are logged."""

from __future__ import annotations

from typing import NoReturn

import pytest
from structlog.testing import LogCapture

from corsac.core.error_handler import ServiceErrorHandler, general_class
from corsac.core.exceptions import CircuitOpen, InvalidFormat
from corsac.core.logging_config import Logger
from corsac.core.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def errors(logger: Logger, metrics: Metrics) -> ServiceErrorHandler:
    return ServiceErrorHandler("tts", logger, metrics)


def count(metrics: Metrics, operation: str, reason: str) -> float | None:
    labels = {"service": "tts", "operation": operation, "reason": reason}
    return metrics.registry.get_sample_value("corsac_errors_total", labels)


@pytest.mark.parametrize("status", [None, 500, 422])
def test_an_error_of_ours_comes_back_unchanged_counted_and_unlogged(
    errors: ServiceErrorHandler, metrics: Metrics, log: LogCapture, status: int | None
) -> None:
    ours = InvalidFormat("Opus needs a rate of 48000 Hz.")
    assert errors.handle_service_error("speak", ours, status) is ours
    assert (count(metrics, "speak", "INVALID_FORMAT"), log.entries) == (1, [])


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("/etc/passwd"), None, "INTERNAL_ERROR"),
        (TimeoutError("/etc/passwd"), None, "DEADLINE_EXCEEDED"),
        (ValueError("/etc/passwd"), 422, "INVALID"),
        (TimeoutError("/etc/passwd"), 503, "UNAVAILABLE"),
        (ValueError("/etc/passwd"), 599, "INTERNAL_ERROR"),
    ],
)
def test_a_foreign_error_is_translated_counted_and_logged_and_none_of_its_text_is_told(
    errors: ServiceErrorHandler, metrics: Metrics, log: LogCapture, error: Exception, status: int | None, reason: str
) -> None:
    ours = errors.handle_service_error("speak", error, status)
    assert (ours.reason, count(metrics, "speak", reason)) == (reason, 1)
    assert "passwd" not in repr(vars(ours))
    [line] = log.entries
    assert (line["event"], line["operation"], line["reason"]) == ("operation failed", "speak", reason)
    assert line["exc_info"] is (error if ours.status >= 500 else None)


def test_an_unavailable_service_is_named_with_what_mends_it(errors: ServiceErrorHandler, metrics: Metrics) -> None:
    error = errors.handle_service_unavailable("tts", hint="corsac models pull")
    assert (error.status, error.detail, error.hint) == (503, "The service tts is not running.", "corsac models pull")
    assert (error.retry_after_s, count(metrics, "", "SERVICE_UNAVAILABLE")) == (5, 1)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        *((400, "INVALID_REQUEST"), (403, "FORBIDDEN"), (409, "CONFLICT"), (413, "TOO_LARGE"), (422, "INVALID")),
        *((507, "OUT_OF_SPACE"), (418, "INVALID_REQUEST"), (502, "INTERNAL_ERROR")),
    ],
)
def test_a_status_has_a_most_general_class(status: int, reason: str) -> None:
    assert general_class(status).reason == reason


async def fail() -> NoReturn:
    raise CircuitOpen("piper has failed too often.")


async def speak() -> str:
    return "audio"


async def test_the_first_that_works_serves_and_the_fall_is_logged_and_counted(
    errors: ServiceErrorHandler, metrics: Metrics, log: LogCapture
) -> None:
    served = await errors.first_that_works("speak", [("piper", fail), ("espeak", speak)])
    assert (served.value, served.served_by, served.degraded) == ("audio", "espeak", True)
    [line] = log.entries
    assert (line["event"], line["failed"], line["reason"], line["served_by"]) == (
        "fell back",
        "piper",
        "CIRCUIT_OPEN",
        "espeak",
    )
    labels = {"service": "tts", "strategy": "fallback", "outcome": "recovered"}
    assert metrics.registry.get_sample_value("corsac_recoveries_total", labels) == 1


async def test_when_none_works_the_last_ones_error_is_raised(errors: ServiceErrorHandler) -> None:
    with pytest.raises(CircuitOpen):
        await errors.first_that_works("speak", [("piper", fail), ("espeak", fail)])
