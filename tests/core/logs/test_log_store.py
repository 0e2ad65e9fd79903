from datetime import UTC, datetime, timedelta, timezone

import orjson
import pytest
from prometheus_client import CollectorRegistry

from corsac.core.exceptions import InvalidChoice
from corsac.core.logs.store import LogStore

NOON = datetime(2026, 5, 12, 12, tzinfo=UTC)


def add(store: LogStore, event: str, *, minute: int = 0, level: str = "info", service: str = "tts") -> None:
    line = orjson.dumps({"event": event, "level": level, "service": service}) + b"\n"
    store.add(line, at=(NOON + timedelta(minutes=minute)).timestamp(), level=level, service=service)


@pytest.fixture
def store() -> LogStore:
    store = LogStore()
    add(store, "started", minute=0)
    add(store, "Slow disk", minute=1, level="warning", service="rag")
    add(store, 'no "disk"', minute=2, level="error")
    return store


@pytest.mark.parametrize(
    ("conditions", "events"),
    [
        ({}, ["started", "Slow disk", 'no "disk"']),
        ({"service": "tts"}, ["started", 'no "disk"']),
        ({"level": "warning"}, ["Slow disk", 'no "disk"']),
        ({"since": NOON + timedelta(minutes=1)}, ["Slow disk", 'no "disk"']),
        ({"since": datetime(2026, 5, 12, 12, 2)}, ['no "disk"']),
        ({"since": (NOON + timedelta(minutes=2)).astimezone(timezone(timedelta(hours=5)))}, ['no "disk"']),
        ({"since": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), "limit": 1}, ['no "disk"']),
        ({"q": "DISK"}, ["Slow disk", 'no "disk"']),
        ({"q": '"disk"'}, ['no "disk"']),
        ({"q": "\ud800"}, []),
        ({"limit": 2}, ["Slow disk", 'no "disk"']),
        ({"service": "rag", "level": "error"}, []),
    ],
)
def test_a_query_gives_the_newest_lines_that_fit_newest_last(store, conditions, events) -> None:
    assert [line["event"] for line in store.query(**conditions)] == events


def test_an_unknown_level_is_refused_with_the_list(store: LogStore) -> None:
    with pytest.raises(InvalidChoice, match="debug, info, warning, error, critical") as caught:
        store.query(level="LOUD")
    assert caught.value.errors[0].pointer == "query/level"


def test_the_oldest_lines_go_when_there_are_too_many() -> None:
    store = LogStore(capacity=3)
    for number in range(5):
        add(store, str(number))
    assert [line["event"] for line in store.query()] == ["2", "3", "4"]


def test_the_oldest_lines_go_when_they_take_too_many_bytes() -> None:
    store = LogStore(max_bytes=1000)
    for number in range(5):
        add(store, f"{number}" * 300)
    assert [line["event"][0] for line in store.query()] == ["3", "4"]


def test_lines_and_losses_are_counted() -> None:
    registry = CollectorRegistry()
    store = LogStore(registry=registry)
    add(store, "a")
    add(store, "b", level="error", service="rag")
    store.count_dropped("file", 7)
    counted = registry.get_sample_value
    assert counted("corsac_log_events_total", {"level": "info", "service": "tts"}) == 1
    assert counted("corsac_log_events_total", {"level": "error", "service": "rag"}) == 1
    assert counted("corsac_log_dropped_total", {"place": "file"}) == 7
