import io
import logging
import os
import re
import resource
import threading
import time
import warnings
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest
import structlog
from prometheus_client import CollectorRegistry

from corsac.core.exceptions import InvalidChoice, InvalidId
from corsac.core.logging_config import (
    LibraryHandler,
    LogSink,
    configure_logging,
    get_api_logger,
    get_service_logger,
)
from corsac.core.logs.redaction import SecretRedactor
from corsac.core.logs.store import LogStore

CANARY = "canary-7f3a9c2e5b"


class Written:
    """A configured sink and everything that it has written."""

    def __init__(self, directory: Path, *, json: bool = True, stream: object = None, **options: object) -> None:
        self.registry = CollectorRegistry()
        self.store = LogStore(registry=self.registry)
        self.secrets = SecretRedactor()
        self.stream = stream or io.StringIO()
        self.directory = directory
        options = {
            "directory": directory,
            "store": self.store,
            "secrets": self.secrets,
            "stream": self.stream,
            **options,
        }
        self.sink: LogSink = configure_logging(json=json, **options)

    def lines(self) -> list[dict]:
        self.sink.flush()
        return [orjson.loads(line) for line in (self.directory / "corsac.log").read_bytes().split(b"\n")[:-1]]

    def last(self) -> dict:
        return self.lines()[-1]

    def everything(self) -> str:
        self.sink.flush()
        files = [path.read_text() for path in self.directory.iterdir()]
        return "".join([*files, self.stream.getvalue(), repr(self.store.query())])


@pytest.fixture
def written(tmp_path: Path):
    written = Written(tmp_path)
    yield written
    written.sink.close()


@pytest.fixture
def pretty(tmp_path: Path):
    written = Written(tmp_path, json=False)
    yield written
    written.sink.close()


def test_a_line_has_time_level_service_event_and_values_in_this_order(tmp_path: Path) -> None:
    written = Written(tmp_path, now=lambda: 1_778_587_200.1239)
    get_service_logger("tts").info("model loaded", model="joe", seconds=1.5, nothing=None)
    written.sink.close()
    expected = (
        '{"time":"2026-05-12T12:00:00.123Z","level":"info","service":"tts","event":"model loaded",'
        '"model":"joe","seconds":1.5}\n'
    )
    assert (tmp_path / "corsac.log").read_text() == written.stream.getvalue() == expected


def test_context_variables_and_bound_values_are_merged(written: Written) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r1", job_id="j1", service="rag"):
        get_api_logger("http").bind(operation="ask").warning("slow", key_id="k1")
    line = written.last()
    assert line | {"time": ""} == {
        "time": "", "level": "warning", "service": "rag", "api": "http", "event": "slow",
        "operation": "ask", "key_id": "k1", "request_id": "r1", "job_id": "j1",
    }  # fmt: skip


def test_a_value_named_like_ours_does_not_replace_it(written: Written) -> None:
    get_service_logger("tts").info("x", level="critical", time=3)
    line = written.last()
    assert (line["level"], line["level_"], line["time_"]) == ("info", "critical", 3)


def test_an_api_is_the_service_of_lines_that_name_none(written: Written) -> None:
    get_api_logger("openai").info("asked", service=None)
    assert written.last()["service"] == "openai"
    assert len(written.store.query(service="openai")) == 1


def test_loggers_work_before_and_across_configurations(written: Written, tmp_path: Path, capsys) -> None:
    logger = get_service_logger("tts")
    structlog.reset_defaults()
    logger.info("early")
    assert "early" in capsys.readouterr().out
    other = Written(tmp_path / "other")
    logger.info("late")
    assert other.last()["event"] == "late"
    other.sink.close()


def plant(logger, secret: str) -> None:
    logger.info(f"message {secret}")
    logger.info("key", **{secret: 1, "nested": {secret: 1}})
    logger.info("nested", value={"a": {"b": [secret]}})
    logger.info("list", values=["a", [secret, ("b", {secret})]])
    logger.info("exception as a value", error=ValueError(secret))
    try:
        local_variable = secret  # noqa: F841
        raise ValueError(secret) from KeyError(secret)
    except ValueError:
        logger.exception("traceback")
    logger.bind(word=secret).info("bound")
    with structlog.contextvars.bound_contextvars(word=secret):
        logger.info("context")
    logger.info("query", url=f"/open?word={secret}&a=1")
    logger.info("headers", headers={"x-word": secret}, pairs=[(b"authorization", b"Bearer " + secret.encode())])
    logger.info("bytes", raw=secret.encode(), view=memoryview(secret.encode()), array=bytearray(secret.encode()))
    logger.info("percent", value="".join(f"%{ord(c):02x}" for c in secret), quoted=quote(secret, safe=""))
    logger.info("base64", value=b64encode(f"user:{secret}".encode()).decode())
    logger.info(
        "long", value="x" * 50_000 + secret, cut="x" * (32_768 - 9) + secret, blob=b"x" * 1020 + secret.encode()
    )
    logging.getLogger("library").warning("says %s", secret)


@pytest.mark.parametrize("json", [True, False])
def test_no_planted_secret_is_written_anywhere(tmp_path: Path, json: bool) -> None:
    written = Written(tmp_path, json=json)
    written.secrets.add(CANARY)
    plant(get_service_logger("tts"), CANARY)
    assert len(written.lines()) == 15
    assert re.findall("canary|7f3a9c2e5b|63%61%6e|Y2FuYXJ5|2FuYXJ5|jYW5hcnk", written.everything()) == []
    written.sink.close()


def test_headers_and_queries_are_redacted_without_knowing_the_secret(written: Written) -> None:
    headers = {"Authorization": "Basic abc", "Cookie": ["a=b"], "accept": "text/html"}
    get_service_logger("tts").info("x", headers=headers, path="/open?ticket=t1ck3t", password="hunter2")
    line = written.last()
    assert line["headers"] == {"Authorization": "***", "Cookie": "***", "accept": "text/html"}
    assert (line["path"], line["password"]) == ("/open?ticket=***", "***")


FORGED = 'x\r\n{"event":"forged"}\n2026 error\x1b[31m\x1b]0;title\x07\x00\x7f\x9b31m\u2028\u2029\u202e\u0085'


@pytest.mark.parametrize("json", [True, False])
def test_a_model_name_can_neither_forge_a_line_nor_color_a_terminal(tmp_path: Path, json: bool) -> None:
    written = Written(tmp_path, json=json)
    get_service_logger("tts").info(f"loading {FORGED}", model=FORGED, **{FORGED: [FORGED]})
    logging.getLogger(f"lib\n{FORGED}").warning(FORGED)
    assert written.lines()[0]["model"] == FORGED
    for text in ((tmp_path / "corsac.log").read_text(), written.stream.getvalue()):
        assert len(text.splitlines()) == text.count("\n") == 2
        assert re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", text) == []
    written.sink.close()


def test_a_traceback_is_shown_indented_on_a_terminal_and_cannot_forge_a_line(pretty: Written) -> None:
    try:
        raise ValueError("first\n12:00:00 error forged\x1b[31m")
    except ValueError as error:
        get_service_logger("tts").error("failed", exc_info=error)
    pretty.sink.flush()
    first, *rest = pretty.stream.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} error    tts failed", first)
    assert rest[0] == "    | Traceback (most recent call last):"
    assert all(line.startswith("    | ") for line in rest)
    assert rest[-1] == r"    | 12:00:00 error forged\x1b[31m"


def test_local_variables_are_never_shown_and_no_traceback_without_exc_info(written: Written) -> None:
    logger = get_service_logger("tts")
    try:
        hidden = "local" + "-value"
        raise ValueError(len(hidden))
    except ValueError:
        logger.error("plain")
        logger.exception("full")
    plain, full = written.lines()
    assert "exception" not in plain
    assert full["exception"].endswith("ValueError: 11")
    assert "local-value" not in written.everything()


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), None),
        (2**70, "<integer of 71 bits>"),
        ("\ud800", "\\ud800"),
        (Path("/a/b"), "/a/b"),
        (Unprintable(), "<Unprintable without text: RuntimeError>"),
        ({1: (2,)}, {"1": [2]}),
        (b"\xff" * 2000, "<2000 bytes>"),
        (list(range(103)), [*range(100), "… 3 more"]),
        ("y" * 100_000, "y" * 16_384 + "…"),
        (["z" * 10_000] * 9, "truncated"),
    ],
)
def test_any_value_can_be_logged(written: Written, value: object, shown: object) -> None:
    get_service_logger("tts").info("odd", value=value)
    line = written.last()
    assert line["event"] == "odd"
    assert line["value"] == shown if shown != "truncated" else "truncated" in line


def test_later_changes_to_a_logged_value_do_not_show(written: Written) -> None:
    numbers = [1, 2]
    get_service_logger("tts").info("numbers", numbers=numbers)
    numbers.clear()
    assert written.last()["numbers"] == [1, 2]


def test_a_level_changes_at_run_time_for_one_service(written: Written) -> None:
    tts, rag = get_service_logger("tts"), get_service_logger("rag")
    tts.debug("hidden")
    written.sink.set_level("tts", "debug")
    written.sink.set_level("root", "error")
    tts.debug("seen")
    rag.warning("hidden")
    rag.error("seen")
    assert [(line["service"], line["event"]) for line in written.lines()] == [("tts", "seen"), ("rag", "seen")]
    assert written.sink.levels() | {"httpx": ""} == {"root": "error", "tts": "debug", "httpx": ""}


def test_an_unknown_level_is_refused_with_the_list(written: Written) -> None:
    with pytest.raises(InvalidChoice, match="debug, info, warning, error, critical"):
        written.sink.set_level("tts", "LOUD")
    with pytest.raises(InvalidId):
        written.sink.set_level("/etc/x", "info")
    assert "tts" not in written.sink.levels()


def test_library_loggers_and_warnings_come_to_the_same_place(written: Written) -> None:
    logging.getLogger("library.part").info("Started %s", "server")
    logging.getLogger("asyncio").error("Task failed", exc_info=ValueError("why"))
    logging.getLogger("httpx").info("GET /")
    odd_record = logging.LogRecord("odd", logging.WARNING, "odd.py", 1, "%d", ("not a number",), None)
    LibraryHandler(written.sink).handle(odd_record)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old spelling", DeprecationWarning, stacklevel=1)
    started, failed, odd, warned = written.lines()
    assert (started["service"], started["logger"], started["level"]) == ("library", "library.part", "info")
    assert failed["exception"] == "ValueError: why"
    assert (odd["event"], odd["exception"].splitlines()[0]) == ("%d", "Traceback (most recent call last):")
    assert "old spelling" in warned["event"]


def test_closing_gives_the_library_loggers_back_and_counts_late_lines(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("tts").level)
    written = Written(tmp_path)
    written.sink.set_level("tts", "debug")
    get_service_logger("tts").info("last words")
    written.sink.close()
    written.sink.close()
    assert (list(root.handlers), root.level, logging.getLogger("tts").level) == before
    get_service_logger("tts").info("too late")
    assert [line["event"] for line in written.store.query()] == ["last words"]
    assert written.sink.dropped == 1


def test_a_pipe_that_nobody_reads_never_blocks_who_logs_nor_the_file(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        written = Written(tmp_path, stream=stream)
        logger = get_service_logger("tts")
        began = time.monotonic()
        for number in range(2000):
            logger.info("request", number=number)
        assert time.monotonic() - began < 2.0
        assert sum("number" in line for line in written.lines()) == 2000
        assert written.sink.dropped > 500
        dropped = written.registry.get_sample_value("corsac_log_dropped_total", {"place": "stream"})
        assert dropped == written.sink.dropped
        written.sink.close()
    os.close(reader)


class Blocked(io.StringIO):
    """A stream whose reader is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.resumed = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        self.resumed.wait(10)
        return super().write(text)


def test_a_full_queue_drops_lines_and_the_log_says_how_many(tmp_path: Path) -> None:
    stream = Blocked()
    written = Written(tmp_path, stream=stream, capacity=100)
    logger = get_service_logger("tts")
    logger.info("first")
    stream.reached.wait()
    for number in range(500):
        logger.info("request", number=number)
    dropped = written.sink.dropped
    assert dropped == 400
    stream.resumed.set()
    report = next(line for line in written.lines() if line["event"] == "log lines dropped")
    assert (report["n_lines"], report["level"]) == (dropped, "warning")
    assert written.registry.get_sample_value("corsac_log_dropped_total", {"place": "queue"}) == dropped
    written.sink.close()


def test_a_full_disk_drops_lines_while_requests_go_on_and_ends_when_space_returns(written: Written) -> None:
    logger = get_service_logger("tts")
    logger.info("before")
    size = len("".join(orjson.dumps(line).decode() + "\n" for line in written.lines()))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel refuses to let the file grow, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        logger.info("during")
        written.sink.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    logger.info("after")
    events = [line["event"] for line in written.lines()]
    assert events == ["before", "after", "log lines dropped"]
    assert written.sink.dropped == 1
    assert [line["event"] for line in written.store.query(q="during")] == ["during"]


def test_files_are_rotated_and_bounded_under_many_threads(tmp_path: Path) -> None:
    written = Written(tmp_path, max_file_bytes=20_000, max_total_bytes=60_000)

    def log(worker: int) -> None:
        for number in range(300):
            get_service_logger("tts").info("noise", worker=worker, number=number, noise=os.urandom(50).hex())

    threads = [threading.Thread(target=log, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written.lines()) > 0
    written.sink.close()
    assert written.sink.dropped == 0
    assert len(list(tmp_path.glob("*.gz"))) >= 2
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 60_000


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise RuntimeError("broken")


def test_a_broken_output_is_reported_once_in_the_others(tmp_path: Path) -> None:
    written = Written(tmp_path, stream=Broken())
    for word in ("a", "b", "c"):
        get_service_logger("tts").info(word)
        written.sink.flush()
    lines = written.lines()
    failures = [line for line in lines if line["event"] == "log output failed"]
    assert len(failures) == 1
    assert failures[0]["exception"].endswith("RuntimeError: broken")
    assert [line["event"] for line in lines if line["service"] == "tts"] == ["a", "b", "c"]
    written.sink.close()
