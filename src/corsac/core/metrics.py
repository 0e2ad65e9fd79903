"""What is counted, in Prometheus' terms; one object for one server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counts requests, errors and recoveries by service, operation and reason.

    Args:
        registry: Where other parts add metrics of their own.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._requests = Counter(
            "corsac_requests",
            "Requests by service, operation and outcome: ok, cancelled, or an error's reason.",
            ("service", "operation", "outcome"),
            registry=self.registry,
        )
        self._request_children: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self._seconds = Histogram(
            "corsac_request_seconds",
            "Time from the request's last header to the answer's last byte.",
            ("service",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._errors = Counter(
            "corsac_errors",
            "Errors of operations by reason.",
            ("service", "operation", "reason"),
            registry=self.registry,
        )
        self._recoveries = Counter(
            "corsac_recoveries",
            "Attempts to recover by service, strategy and outcome.",
            ("service", "strategy", "outcome"),
            registry=self.registry,
        )
        self.open_streams = Gauge("corsac_open_streams", "Answers that are being streamed.", registry=self.registry)

    def request(self, service: str, operation: str, outcome: str, seconds: float) -> None:
        """Count one finished request."""
        key = (service, operation, outcome)
        counted = self._request_children.get(key)
        if counted is None:  # finding a child by its labels costs more than counting
            counted = self._request_children[key] = (self._requests.labels(*key), self._seconds.labels(service))
        counted[0].inc()
        counted[1].observe(seconds)

    def error(self, service: str, operation: str, reason: str) -> None:
        """Count one error."""
        self._errors.labels(service, operation, reason).inc()

    def recovery(self, service: str, strategy: str, outcome: str) -> None:
        """Count one attempt of a recovery strategy."""
        self._recoveries.labels(service, strategy, outcome).inc()

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
