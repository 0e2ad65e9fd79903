"""Phase 1, foundation: logging and configuration."""

from __future__ import annotations

import asyncio
import gzip
import re
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.in_process import Running
from tests.plan.checklist import proves
from tests.plan.phase1 import counted, router_of

from corsac.core.configuration.views import ConfigChange
from corsac.core.logging_config import get_api_logger, get_service_logger
from corsac.core.logs.file import LogFile


@proves("1.3.a")
async def a_service_logger_names_its_service(server: Running) -> None:
    get_service_logger("choir").warning("out of tune", voice="tenor")
    server.corsac.log_sink.flush()
    [line] = server.corsac.log_store.query(service="choir")
    assert (line["event"], line["voice"], line["level"]) == ("out of tune", "tenor", "warning")


@proves("1.3.b")
async def an_api_logger_names_its_api(server: Running) -> None:
    get_api_logger("semaphore").warning("unknown flag")
    server.corsac.log_sink.flush()
    [line] = server.corsac.log_store.query(q="unknown flag")
    assert line["api"] == "semaphore"


@proves("1.3.c")
async def a_line_within_a_request_carries_the_requests_context(server: Running) -> None:
    answer = await server.owner.post("/api/probe/greet", json={"name": "Ann"}, headers={"x-request-id": "r-1.3.c"})
    assert answer.status_code == 200
    server.corsac.log_sink.flush()
    [line] = server.corsac.log_store.query(service="probe", q="r-1.3.c")[:1]
    assert (line["event"], line["n_chars"], line["request_id"]) == ("greeting", 3, "r-1.3.c")


@proves("1.3.d")
async def every_request_has_an_id_and_one_line(server: Running) -> None:
    answer = await server.owner.get("/api/session", headers={"x-request-id": "r-1.3.d"})
    minted = await server.owner.get("/api/session", headers={"x-request-id": "not an id"})
    server.corsac.log_sink.flush()
    [line] = server.corsac.log_store.query(q="r-1.3.d")
    assert answer.headers["x-request-id"] == "r-1.3.d"
    assert re.fullmatch(r"[0-9a-f]{32}", minted.headers["x-request-id"])
    assert (line["method"], line["path"], line["status"], line["outcome"]) == ("GET", "/api/session", 200, "ok")
    assert line["duration_ms"] >= 0


@proves("1.3.e")
async def levels_and_times_are_the_usual_ones(server: Running) -> None:
    log = get_service_logger("loud")
    log.debug("not wanted")
    levels = await server.owner.put("/api/admin/logs/levels", json={"service": "loud", "level": "debug"})
    log.debug("wanted")
    server.corsac.log_sink.flush()
    [line] = server.corsac.log_store.query(service="loud")
    assert (line["event"], line["level"], levels.json()["loud"]) == ("wanted", "debug", "debug")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


@proves("1.3.+1")
async def logs_are_asked_for_and_counted(server: Running) -> None:
    get_service_logger("bell").error("cracked")
    get_service_logger("bell").info("rang")
    server.corsac.log_sink.flush()
    asked = await server.owner.get("/api/admin/logs", params={"service": "bell", "level": "error"})
    assert [line["event"] for line in asked.json()["lines"]] == ["cracked"]
    later = await server.owner.get("/api/admin/logs", params={"service": "bell", "since": "2999-01-01T00:00:00Z"})
    assert later.json()["lines"] == []
    assert await counted(server, 'corsac_log_events_total{level="error",service="bell"}') == 1


@proves("1.3.+2")
async def log_files_rotate_are_compressed_and_bounded(server: Running) -> None:
    with TemporaryDirectory() as folder:
        log = LogFile(Path(folder), max_file_bytes=4000, max_total_bytes=9000)
        for number in range(3000):
            log.write([log_line(number)])
        log.close()
        files = list(Path(folder).iterdir())
        rotated = [file for file in files if file.suffix == ".gz"]
        assert rotated
        assert all(gzip.decompress(file.read_bytes()).endswith(b"\n") for file in rotated)
        assert sum(file.stat().st_size for file in files) <= 9000
        assert (Path(folder) / "corsac.log").read_bytes().endswith(log_line(2999))


def log_line(number: int) -> bytes:
    return b"%06d %s\n" % (number, sha256(b"%d" % number).hexdigest().encode())  # does not compress well


CONFIG = "/api/probe/config"


@proves("1.4.a")
async def the_mixin_brings_endpoints_and_no_memory(server: Running) -> None:
    mounted = {(method, route.path) for route in server.routes for method in route.methods or ()}
    assert {(method, CONFIG) for method in ("GET", "PUT", "PATCH")} <= mounted
    assert {("GET", f"{CONFIG}/{path}") for path in ("schema", "history", "diff")} <= mounted
    assert {("POST", f"{CONFIG}/{path}") for path in ("validate", "rollback/{version}", "reset")} <= mounted
    assert router_of(server).config is server.corsac.configs["probe"]


@proves("1.4.b")
async def get_config_endpoint_shows_values_and_origins(server: Running) -> None:
    await server.owner.post(f"{CONFIG}/reset")
    answer = await server.owner.get(CONFIG)
    assert answer.json()["values"] == {"word": "Hello", "volume": 5}
    assert answer.json()["origins"] == {"word": "default", "volume": "default"}
    assert answer.headers["etag"] == answer.json()["etag"]


@proves("1.4.c")
async def update_config_endpoint_changes_what_the_service_does(server: Running) -> None:
    answer = await server.owner.put(CONFIG, json={"word": "Ahoy"})
    greeted = await server.owner.post("/api/probe/greet", json={"name": "Ann"})
    assert answer.json()["origins"]["word"] == "api"
    assert greeted.json()["words"] == "Ahoy Ann"
    await server.owner.patch(CONFIG, json={"values": {"volume": 7}})
    assert (await server.owner.get(CONFIG)).json()["values"] == {"word": "Ahoy", "volume": 7}


@proves("1.4.d")
async def a_change_can_be_tried_without_making_it(server: Running) -> None:
    before = (await server.owner.get(CONFIG)).json()
    tried = (await server.owner.post(f"{CONFIG}/validate", json={"values": {"volume": 99}})).json()
    misspelt = (await server.owner.post(f"{CONFIG}/validate", json={"values": {"volumme": 1}})).json()
    assert (tried["valid"], tried["errors"][0]["reason"]) == (False, "OUT_OF_RANGE")
    assert "volume" in misspelt["errors"][0]["detail"]
    assert (await server.owner.get(CONFIG)).json() == before
    assert (await server.owner.patch(CONFIG, json={"values": {"volume": 99}})).status_code == 422


@proves("1.4.e")
async def listeners_are_told_of_a_change(server: Running) -> None:
    told: list[ConfigChange[Any]] = []
    store = server.corsac.configs["probe"]
    forget = store.subscribe(told.append)
    await server.owner.put(CONFIG, json={"volume": 2})
    forget()
    await server.owner.put(CONFIG, json={"volume": 3})
    [change] = told
    assert (change.author, change.after.volume, change.version) == ("owner", 2, store.version - 1)


@proves("1.4.+1")
async def every_change_is_a_version_to_compare_and_to_go_back_to(server: Running) -> None:
    first = (await server.owner.put(CONFIG, json={"word": "One"})).json()
    second = (await server.owner.put(CONFIG, json={"word": "Two"})).json()
    lost = await server.owner.put(CONFIG, json={"word": "Three"}, headers={"if-match": first["etag"]})
    assert (lost.status_code, lost.json()["reason"]) == (412, "CONFIG_VERSION_CONFLICT")
    span = {"from": first["version"], "to": second["version"]}
    diff = (await server.owner.get(f"{CONFIG}/diff", params=span)).json()
    assert diff["changes"] == {"word": {"before": "One", "after": "Two"}}
    back = (await server.owner.post(f"{CONFIG}/rollback/{first['version']}")).json()
    assert (back["values"]["word"], back["version"]) == ("One", second["version"] + 1)
    history = (await server.owner.get(f"{CONFIG}/history", params={"limit": 2})).json()
    assert (history[0]["version"], history[0]["source"]) == (back["version"], "rollback")


@proves("1.4.+2")
async def the_file_is_taken_up_while_the_server_runs_and_a_bad_one_is_not(server: Running) -> None:
    file = server.corsac.settings.config_file
    await server.owner.post(f"{CONFIG}/reset")

    async def word_becomes(word: str) -> None:
        async with asyncio.timeout(10):
            while (await server.owner.get(CONFIG)).json()["values"]["word"] != word:
                await asyncio.sleep(0.02)

    try:
        file.write_text('[services.probe]\nword = "Ciao"\n')
        await word_becomes("Ciao")
        file.write_text("[services.probe]\nword = 5\n")
        async with asyncio.timeout(10):
            while server.corsac.config_file.rejection is None:
                await asyncio.sleep(0.02)
        await word_becomes("Ciao")
        server.corsac.log_sink.flush()
        assert server.corsac.log_store.query(q="configuration file refused", level="error")
    finally:
        file.write_text("")
    await word_becomes("Hello")
