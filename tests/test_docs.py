"""The documentation is true: what it lists is there, what is there it lists, and its examples fit."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from html.parser import HTMLParser
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from tests.in_process import Running, method_of, running
from tests.json_schema import Schema, is_bounded, places, resolved, violations

from corsac.core.exceptions import CorsacError, error_classes
from corsac.core.http.gate import RouteGate

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC = {
    "GET /livez": "asked by supervisors, which have no credential",
    "GET /readyz": "asked by supervisors",
    "GET /startupz": "asked by supervisors",
    "POST /api/session": "exchanges a ticket, which is the credential",
    "GET /": "says what runs here",
    "GET /openapi.json": "documentation",
    "GET /docs": "documentation",
    "GET /docs/assets/{name}": "documentation",
    "GET /docs/errors/{reason}": "documentation",
}
"""Whoever adds an operation without a scope adds it here too, with a reason."""


class Operation(NamedTuple):
    """One operation of the OpenAPI document."""

    name: str
    schema: dict[str, Any]

    @property
    def body(self) -> Schema | None:
        content = self.schema.get("requestBody", {}).get("content", {})
        return next(iter(content.values()))["schema"] if content else None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document(server: Running) -> dict[str, Any]:
    answer = await server.nobody.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    return dict(answer.json())


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> list[Operation]:
    return [
        Operation(f"{method.upper()} {path}", schema)
        for path, methods in document["paths"].items()
        for method, schema in methods.items()
    ]


def our_errors() -> list[type[CorsacError]]:
    """All reasons of the product; tests make classes of their own."""
    return [each for each in error_classes() if each.__module__.startswith("corsac.")]


def mounted(server: Running) -> Iterator[tuple[str, Any]]:
    for route in server.routes:
        yield f"{method_of(route)} {route.path}", route


async def test_the_document_lists_every_operation_and_no_other(server: Running, operations: list[Operation]) -> None:
    listed = sorted(name for name, route in mounted(server) if route.include_in_schema)
    assert sorted(each.name for each in operations) == listed


async def test_only_pages_and_what_makes_them_are_not_listed(server: Running) -> None:
    unlisted = {name for name, route in mounted(server) if not route.include_in_schema}
    assert unlisted <= {name for name in PUBLIC if name in ("GET /", "GET /openapi.json") or "/docs" in name}


async def test_every_operation_says_what_it_does_who_may_and_what_can_go_wrong(
    operations: list[Operation],
) -> None:
    for name, schema in operations:
        assert schema["summary"], name
        assert schema["summary"] != schema["operationId"], name
        assert schema["x-corsac-scope"], name
        assert ("401" in schema["responses"]) or schema["x-corsac-scope"] == "public", name
        assert {"400", "403", "421", "422", "429", "500", "504"} <= schema["responses"].keys(), name
        for status, answer in schema["responses"].items():
            if status >= "400":
                assert list(answer["content"]) == ["application/problem+json"], (name, status)


async def test_operation_ids_are_unique(operations: list[Operation]) -> None:
    ids = [each.schema["operationId"] for each in operations]
    assert len(ids) == len(set(ids))


async def test_every_example_of_a_problem_is_a_problem(operations: list[Operation], document: dict[str, Any]) -> None:
    known = {each.reason: each for each in our_errors()}
    for name, schema in operations:
        for status, answer in schema["responses"].items():
            content = answer.get("content", {}).get("application/problem+json", {})
            for reason, example in content.get("examples", {}).items():
                problem = example["value"]
                assert not list(violations(problem, content["schema"], document)), (name, reason)
                assert problem["reason"] == reason
                assert str(problem["status"]) == status == str(known[reason].status)


async def test_the_examples_of_a_body_make_a_valid_body(operations: list[Operation], document: dict[str, Any]) -> None:
    for name, schema in [(each.name, each.body) for each in operations if each.body]:
        top = resolved(schema, document)
        fields = {field: each.get("examples", []) for field, each in top["properties"].items()}
        assert all(fields[field] for field in top.get("required", ())), f"{name}: a required field has no example."
        example = {field: examples[0] for field, examples in fields.items() if examples}
        assert not list(violations(example, schema, document)), name
        for field, examples in fields.items():
            for each in examples:
                assert not list(violations(each, top["properties"][field], document)), (name, field)


async def test_everything_in_a_body_is_bounded_and_described(
    operations: list[Operation], document: dict[str, Any]
) -> None:
    unbounded, silent = set(), set()
    for name, schema in [(each.name, each.body) for each in operations if each.body]:
        unbounded |= {f"{name} {place}" for place, each in places(schema, document) if not is_bounded(each)}
        fields = resolved(schema, document)["properties"]
        silent |= {f"{name} /{field}" for field, each in fields.items() if not each.get("description")}
    assert not unbounded
    assert not silent


async def test_every_parameter_is_bounded(operations: list[Operation], document: dict[str, Any]) -> None:
    unbounded = {
        f"{name} {parameter['in']}/{parameter['name']}"
        for name, schema in operations
        for parameter in schema.get("parameters", ())
        for _, each in places(parameter["schema"], document)
        if not is_bounded(each)
    }
    assert not unbounded


@pytest.mark.parametrize(
    ("schema", "bounded"),
    [
        ({"type": "string", "maxLength": 9}, True),
        ({"type": "string", "pattern": "^[a-z*+]{1,9}$"}, True),
        ({"type": "string", "pattern": "^[a-z]+$"}, False),
        ({"type": "string", "pattern": "^[a-z]{2,}$"}, False),
        ({"type": "string"}, False),
        ({"type": "array", "items": {}}, False),
        ({"type": "object", "additionalProperties": True}, False),
        ({"type": "integer", "minimum": 1}, False),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, True),
    ],
)
async def test_a_bound_is_recognized(schema: Schema, bounded: bool) -> None:
    assert is_bounded(schema) is bounded


async def test_every_reason_is_one_of_a_kind_and_explained() -> None:
    classes = our_errors()
    reasons = [each.reason for each in classes]
    assert len(reasons) == len(set(reasons))
    for each in classes:
        assert re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*", each.reason)
        assert 10 <= len(each.title()) <= 120, each.reason
        assert len(each.explanation()) >= 10, each.reason
        assert 400 <= each.status <= 599, each.reason
        assert each.retry in ("retry", "retry_higher", "fix_first", "never")


async def test_every_reason_has_its_page(server: Running) -> None:
    for each in our_errors():
        answer = await server.nobody.get(f"/docs/errors/{each.reason}", headers={"accept": "text/html"})
        assert answer.status_code == 200, each.reason
        assert answer.headers["content-type"].startswith("text/html")
        assert each.reason in answer.text
        assert str(each.status) in answer.text


async def test_a_reason_that_does_not_exist_has_no_page(server: Running) -> None:
    answer = await server.nobody.get("/docs/errors/NO_SUCH_REASON", headers={"accept": "text/html"})
    assert (answer.status_code, answer.json()["reason"]) == (404, "NOT_FOUND")


async def test_every_operation_has_a_scope_or_is_public_on_purpose(server: Running) -> None:
    known = {"public", "any", "admin", *server.corsac.configs}
    policies = {name: route.app.policy for name, route in mounted(server) if isinstance(route.app, RouteGate)}
    assert len(policies) == len(server.routes)
    assert {policy.scope for policy in policies.values()} <= known
    assert {name for name, policy in policies.items() if policy.scope == "public"} == set(PUBLIC)


def example_path(path: str) -> str:
    return re.sub(r"\{version\}", "1", re.sub(r"\{(?!version)\w+\}", "abc", path))


async def test_nobody_gets_into_what_is_not_public_and_no_key_beyond_its_scope(server: Running) -> None:
    stranger = await server.client_with("no-such-scope")
    for name, route in mounted(server):
        method, path = name.split(" ")
        scope = route.app.policy.scope
        if scope == "public":
            continue
        answer = await server.nobody.request(method, example_path(path))
        assert (answer.status_code, answer.json()["reason"]) == (401, "UNAUTHENTICATED"), name
        if scope != "any":
            answer = await stranger.request(method, example_path(path))
            assert (answer.status_code, answer.json()["reason"]) == (403, "SCOPE_MISSING"), name


class Page(HTMLParser):
    """What a page loads, and what it carries inside itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: dict[str, str] = {}
        self.inline: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._inside = tag
        self.inline += [f"{tag} {name}" for name in given if name == "style" or name.startswith("on")]
        if tag == "script":
            self.loads[given.get("src") or "nothing"] = "text/javascript"
        if tag == "link" and given.get("rel") == "stylesheet":
            self.loads[given.get("href") or "nothing"] = "text/css"

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and data.strip():
            self.inline.append(data)


@pytest.mark.parametrize("path", ["/docs", "/docs/errors/NOT_FOUND"])
async def test_a_page_has_nothing_inline_and_all_that_it_loads_is_here(server: Running, path: str) -> None:
    answer = await server.nobody.get(path, headers={"accept": "text/html"})
    page = Page(answer.text)
    assert answer.headers["content-type"].startswith("text/html")
    assert "unsafe-inline" not in answer.headers["content-security-policy"]
    assert not page.inline
    assert page.loads
    for source, media_type in page.loads.items():
        loaded = await server.nobody.get(source, headers={"accept": "text/css,*/*;q=0.1"})
        assert loaded.status_code == 200, source
        assert loaded.headers["content-type"].partition(";")[0] == media_type
        assert len(loaded.content) > 20
