"""What every service keeps to, ours and everybody's: checked on all that are installed."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from tests.in_process import Running, method_of, running
from tests.json_schema import is_bounded, places

from corsac.core.base_router import BaseServiceRouter, StrictRoute
from corsac.core.config_store import ServiceConfigModel
from corsac.core.plugins import SERVICES, Plugin, discover
from corsac.core.service import Part, ServiceSpec

PLUGINS = [each for each in discover() if each.view.group == SERVICES]
every_service = pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.view.name)
SPEC_WORDS = frozenset({"service", "public", "any", "admin", "health", "registry", "keys", "session"})
"""A service of such a name would hide the server's own routes or scopes."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(tmp_path_factory.mktemp("data")) as server:
        yield server


def routes_of(server: Running, name: str) -> list[StrictRoute]:
    return [route for route in server.routes if route.path.startswith(f"/api/{name}/")]


def filled(path: str) -> str:
    """The path with something in place of its parameters."""
    return re.sub(r"\{\w+\}", "1", path)


def reasons(answer: httpx.Response) -> set[str]:
    problem = answer.json()
    return {problem["reason"], *(each["reason"] for each in problem["errors"])}


async def test_there_are_services() -> None:
    assert "tts" in {each.view.name for each in PLUGINS}


@every_service
async def test_it_is_what_its_entry_point_says(plugin: Plugin) -> None:
    spec = plugin.loaded
    assert plugin.view.error is None
    assert isinstance(spec, ServiceSpec)
    assert spec.name == plugin.view.name
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,63}", spec.name)
    assert spec.name not in SPEC_WORDS
    assert spec.name not in spec.requires
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,63}", each) for each in spec.requires)


@every_service
async def test_its_manager_is_a_part_and_its_router_stands_right_of_its_mixins(plugin: Plugin) -> None:
    manager, router = plugin.loaded.manager, plugin.loaded.router
    assert issubclass(manager, Part)
    assert issubclass(router, BaseServiceRouter)
    assert router.service_name == plugin.loaded.name
    assert inspect.getdoc(router) != inspect.getdoc(BaseServiceRouter)
    bases = [base.__name__.endswith("Mixin") for base in router.__bases__]
    assert bases == sorted(bases, reverse=True)


@every_service
async def test_its_configuration_is_complete_closed_and_bounded(plugin: Plugin) -> None:
    model = plugin.loaded.config
    assert issubclass(model, ServiceConfigModel)
    assert model.model_config["extra"] == "forbid"
    assert model.model_config["frozen"]
    model()
    schema = model.model_json_schema()
    document = {"components": {"schemas": schema.get("$defs", {})}}
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    assert not [place for place, each in places(inner, document) if not is_bounded(each)]


@every_service
async def test_everything_it_mounts_lives_under_its_name_and_says_what_it_does(plugin: Plugin, server: Running) -> None:
    name = plugin.loaded.name
    [router] = [each for each in server.corsac.routers if each.service_name == name]
    mounted = router.routes()
    assert mounted
    assert all(route.path.startswith(f"/api/{name}/") for route in mounted)
    for operation, _ in router.declared():
        assert (inspect.getdoc(getattr(type(router), operation)) or "").strip(), operation


@every_service
async def test_a_query_parameter_that_does_not_exist_is_refused(plugin: Plugin, server: Running) -> None:
    for route in routes_of(server, plugin.loaded.name):
        method = method_of(route)
        answer = await server.owner.request(method, filled(route.path), params={"nonsense": "1"})
        assert answer.status_code == 422, route.path
        assert "UNKNOWN_FIELD" in reasons(answer), route.path


@every_service
@pytest.mark.parametrize(
    ("body", "media_type", "status", "reason"),
    [
        (b'{"nonsense": 1}', "application/json", 422, "UNKNOWN_FIELD"),
        (b"[1]", "application/json", 422, "WRONG_TYPE"),
        (b"", "application/json", 422, "BODY_REQUIRED"),
        (b"{", "application/json", 400, "MALFORMED_JSON"),
        (b'{"a": NaN}', "application/json", 400, "NON_FINITE_NUMBER"),
        (b'{"a": 1, "a": 1}', "application/json", 400, "DUPLICATE_KEY"),
        (b"{}", "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"),
    ],
)
async def test_a_bad_body_is_refused_with_the_right_reason(
    plugin: Plugin, server: Running, body: bytes, media_type: str, status: int, reason: str
) -> None:
    for route in routes_of(server, plugin.loaded.name):
        if route.body_field is None:
            continue
        method = method_of(route)
        headers = {"content-type": media_type}
        answer = await server.owner.request(method, filled(route.path), content=body, headers=headers)
        assert answer.status_code == status, (method, route.path, answer.text)
        assert reason in reasons(answer), (method, route.path)


@every_service
async def test_while_it_is_down_it_says_so_and_its_health_answers(plugin: Plugin, server: Running) -> None:
    name = plugin.loaded.name
    stopped = await server.owner.post(f"/api/registry/{name}/stop")
    assert stopped.json()["state"] == "stopped"
    try:
        health = await server.owner.get(f"/api/{name}/health")
        assert (health.status_code, health.json()["status"]) == (200, "fail")
        down = [r for r in routes_of(server, name) if r.app.policy.unavailable() is not None]  # type: ignore[attr-defined]
        assert down
        for route in down:
            method = method_of(route)
            answer = await server.owner.request(method, filled(route.path))
            assert (answer.status_code, answer.json()["reason"]) == (503, "SERVICE_UNAVAILABLE"), route.path
            assert answer.json()["service"] == name
    finally:
        started = await server.owner.post(f"/api/registry/{name}/start")
    assert started.json()["state"] in ("ready", "degraded")
    assert (await server.owner.get(f"/api/{name}/health")).json()["serviceId"] == name


@every_service
async def test_it_can_be_stopped_twice_and_started_again(plugin: Plugin, server: Running) -> None:
    part = server.corsac.registry.get(plugin.loaded.name).part
    await part.stop()
    await part.stop()
    await part.start()
    assert all(check.name for check in await part.check())
