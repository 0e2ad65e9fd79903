"""Every reason is provoked by some test; those that no other test has are provoked here."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import CapturingLogger

import corsac
from corsac.cli.running import Answered, NotRunning, ask
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.exceptions import CorsacError, Forbidden, OutOfSpace, error_classes
from corsac.core.metrics import Metrics
from corsac.core.storage.lock import DataDirectory
from corsac.settings import Settings

TESTS = Path(__file__).parent
NOT_RAISED = {"QUOTA_EXCEEDED": "Quotas of keys are not built; the class is there for them."}
"""Reasons that no line of the product raises yet. The day one does, it leaves this table."""


def reasons() -> dict[str, type[CorsacError]]:
    """All reasons of the product, those of the command line included."""
    for module in pkgutil.walk_packages(corsac.__path__, "corsac."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return {each.reason: each for each in error_classes() if each.__module__.startswith("corsac.")}


def expectations(tree: ast.Module) -> Iterator[ast.AST]:
    """The places where a test says what has to come: assertions, `raises`, rows, and tables."""
    for node in ast.walk(tree):
        called = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Assert) or called in ("raises", "parametrize", "row"):
            yield node
    for statement in tree.body:
        table = isinstance(statement, ast.Assign | ast.AnnAssign)
        if table and not ast.unparse(statement).startswith("NOT_RAISED"):
            yield statement


def words(node: ast.AST) -> Iterator[str]:
    """Names and strings in an expression."""
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield each.id
        elif isinstance(each, ast.Attribute):
            yield each.attr
        elif isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def expected(text: str) -> set[str]:
    return {word for place in expectations(ast.parse(text)) for word in words(place)}


def test_every_reason_is_provoked_by_some_test() -> None:
    files = [file for file in TESTS.rglob("*.py") if file.name != "unbuilt.py"]
    known = set().union(*(expected(file.read_text(encoding="utf-8")) for file in files))
    missing = [name for name, each in reasons().items() if not {name, each.__name__} & known]
    assert sorted(missing) == sorted(NOT_RAISED)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("assert problem['reason'] == 'NOT_FOUND'", True),
        ("with pytest.raises(errors.NOT_FOUND):\n    pass", True),
        ("ROWS = [('a', 'NOT_FOUND')]", True),
        ("@pytest.mark.parametrize('reason', ['NOT_FOUND'])\ndef test(): ...", True),
        ("from x import NOT_FOUND", False),
        ("def test():\n    'NOT_FOUND'\n    raise NOT_FOUND  # NOT_FOUND", False),
    ],
)
def test_only_an_expectation_counts(text: str, counts: bool) -> None:
    assert ("NOT_FOUND" in expected(text)) is counts


def test_what_is_not_raised_yet_is_not_raised() -> None:
    known = reasons()
    sources = [file for file in (TESTS.parent / "src").rglob("*.py") if file.name != "exceptions.py"]
    for name in NOT_RAISED:
        assert not [file for file in sources if known[name].__name__ in file.read_text(encoding="utf-8")], name


@pytest.mark.parametrize(("status", "kind"), [(403, Forbidden), (507, OutOfSpace)])
def test_a_status_alone_becomes_its_general_class(status: int, kind: type[CorsacError]) -> None:
    errors = ServiceErrorHandler("probe", CapturingLogger(), Metrics())
    assert type(errors.handle_service_error("greet", OSError("/etc/passwd"), status)) is kind


def test_the_command_line_says_that_no_server_runs(tmp_path: Path) -> None:
    with pytest.raises(NotRunning) as caught:
        ask(Settings(data_directory=tmp_path), "GET", "/livez")
    assert "corsac serve" in str(caught.value.hint)


def test_the_command_line_repeats_what_the_server_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    httpx = pytest.importorskip("httpx")
    directory = DataDirectory(tmp_path)
    directory.create()
    directory.lock()
    directory.announce("http://127.0.0.1:9", "token")
    problem = httpx.Response(422, json={"detail": "There is no such scope.", "hint": "Take another."})
    monkeypatch.setattr(httpx, "request", lambda *_, **__: problem)
    with pytest.raises(Answered, match=r"There is no such scope\.") as caught:
        ask(Settings(data_directory=tmp_path), "POST", "/api/keys", {})
    assert caught.value.hint == "Take another."
    directory.withdraw()
