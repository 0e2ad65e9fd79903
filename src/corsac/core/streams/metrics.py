"""What is measured about streams, by service."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

GAPS_S = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
FIRST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
QUANTILES = (0.5, 0.99)


@dataclass(slots=True)
class Pace:
    """How many events there were, and how far apart. The library's own metrics would cost more than an event.

    Args:
        counts: Gaps by bucket, the last one without a bound.
        total_s: Seconds of all gaps.
        n_events: Events that were produced.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(GAPS_S) + 1))
    total_s: float = 0.0
    n_events: int = 0

    def observe_gap(self, seconds: float) -> None:
        """Count one gap."""
        self.counts[bisect_left(GAPS_S, seconds)] += 1
        self.total_s += seconds

    def quantile(self, share: float) -> float:
        """Upper bound in seconds of the bucket that holds the quantile; NaN before the first gap."""
        n_gaps = sum(self.counts)
        if not n_gaps:
            return float("nan")
        index = next(i for i, n in enumerate(accumulate(self.counts)) if n >= share * n_gaps)
        return GAPS_S[index] if index < len(GAPS_S) else float("inf")


@dataclass(frozen=True, slots=True)
class ServiceStreams:
    """The metrics of one service's streams."""

    open: Gauge
    detached: Gauge
    first_event: Histogram
    frames: Counter
    bytes: Counter
    dropped: Counter
    resumes: Counter
    resets: Counter
    slow_consumers: Counter
    pace: Pace


class StreamMetrics(Collector):
    """Counts streams.

    Args:
        registry: Gets `corsac_stream…`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, meaning: str) -> Counter:
            return Counter(f"corsac_stream_{name}", meaning, ("service",), registry=registry)

        def gauge(name: str, meaning: str) -> Gauge:
            return Gauge(f"corsac_streams_{name}", meaning, ("service",), registry=registry)

        self._open = gauge("open", "Streams whose producer runs, detached ones included.")
        self._detached = gauge("detached", "Streams without a reader that may still be resumed.")
        self._first_event = Histogram(
            "corsac_stream_first_event_seconds",
            "Time to a stream's first event.",
            ("service",),
            buckets=FIRST_S,
            registry=registry,
        )
        self._frames = counter("frames", "Events that were sent; fewer than produced where texts were joined.")
        self._bytes = counter("bytes", "Bytes that were sent.")
        self._dropped = counter("dropped", "Events that slow readers of lossy streams missed.")
        self._resumes = counter("resumes", "Reconnections to a stream.")
        self._resets = counter("resets", "Reconnections that could not continue without a gap.")
        self._slow_consumers = counter("slow_consumers", "Connections closed because nobody read.")
        self._services: dict[str, ServiceStreams] = {}
        registry.register(self)

    def of(self, service: str) -> ServiceStreams:
        """The metrics of one service."""
        known = self._services.get(service)
        if known is None:
            known = self._services[service] = ServiceStreams(
                self._open.labels(service),
                self._detached.labels(service),
                self._first_event.labels(service),
                self._frames.labels(service),
                self._bytes.labels(service),
                self._dropped.labels(service),
                self._resumes.labels(service),
                self._resets.labels(service),
                self._slow_consumers.labels(service),
                Pace(),
            )
        return known

    def collect(self) -> Iterator[Metric]:
        """The events and the gaps between them."""
        events = CounterMetricFamily("corsac_stream_events", "Events that were produced.", labels=("service",))
        gaps = HistogramMetricFamily("corsac_stream_gap_seconds", "Time between two events.", labels=("service",))
        quantiles = GaugeMetricFamily(
            "corsac_stream_gap_quantile_seconds",
            "Median and 99th percentile of the time between two events, as its bucket's upper bound.",
            labels=("service", "quantile"),
        )
        for service, counted in self._services.items():
            events.add_metric((service,), counted.pace.n_events)
            cumulative = list(accumulate(counted.pace.counts))
            bounds = [*(str(bound) for bound in GAPS_S), "+Inf"]
            buckets = [(bound, float(n)) for bound, n in zip(bounds, cumulative, strict=True)]
            gaps.add_metric((service,), buckets, counted.pace.total_s)
            for share in QUANTILES:
                quantiles.add_metric((service, str(share)), counted.pace.quantile(share))
        yield events
        yield gaps
        yield quantiles
