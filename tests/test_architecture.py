"""The laws of the house: who may import whom, what no module does, and that nobody is forgotten."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

HOME = Path(__file__).parent.parent
SOURCE = HOME / "src" / "corsac"
PYPROJECT = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))
TARGET = re.compile(r"(corsac(?:\.\w+)+)(?::\w+)?")
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "process", "handle", "manage", "data", "info"}
BOASTFUL_NAMES = {"enhanced", "advanced", "comprehensive", "v2", "new", "old"}
KNOW_UVICORN = frozenset({"corsac.core.http.server", "corsac.core.http.protocol", "corsac.core.http.lifespan"})
SEE_THE_ENVIRONMENT = {
    "corsac.settings": "reads it",
    "corsac.core.workers.child": "sets the thread counts of libraries in its own process, before they load",
}
SECRET_WORDS = {"token", "secret", "digest", "password", "ticket", "signature", "mac", "cookie", "credential"}
CODE_LOADERS = {"pickle", "marshal", "shelve", "joblib", "dill", "cloudpickle"}
HEAVY = ("numpy", "scipy", "soundfile", "pyloudnorm", "onnxruntime", "piper", "espeakng_loader", "torch")
CHANGES = {"append", "add", "update", "extend", "insert", "pop", "popitem", "remove", "discard", "clear", "setdefault"}
MAX_LINES = 400
LONGER = {"corsac.core.exceptions": "one list, the closed one of all reasons, with its tree on top"}


@dataclass(frozen=True)
class Module:
    """One file of ours."""

    name: str
    path: Path
    tree: ast.Module
    n_lines: int

    def walk(self, *kinds: type[ast.AST]) -> Iterator[Any]:
        return (node for node in ast.walk(self.tree) if isinstance(node, kinds))

    def at(self, node: ast.AST) -> str:
        return f"{self.name}:{getattr(node, 'lineno', 0)}"


def read(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name, path, ast.parse(text), len(text.splitlines()))


@cache
def modules() -> dict[str, Module]:
    return {module.name: module for module in map(read, sorted(SOURCE.rglob("*.py")))}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker reads."""
    if not is_type_checking(node):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from run_nodes(child)


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Dotted names of what is imported; `from a import b` gives a and a.b."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "Imports are absolute."
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def targets(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Modules named in strings such as `package.module:ClassName`, which a worker's child imports."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and (m := TARGET.fullmatch(node.value)):
            yield m[1]


def entrances() -> set[str]:
    """Where execution begins: scripts, entry points, the server, and what `python -m` runs in the Makefile."""
    project = PYPROJECT["project"]
    points = [*project["scripts"].values(), *(p for g in project["entry-points"].values() for p in g.values())]
    commands = re.findall(r"python -m (corsac[\w.]*)", (HOME / "Makefile").read_text(encoding="utf-8"))
    return {"corsac.main", "corsac.cli.__main__", *(point.partition(":")[0] for point in points), *commands}


def reached() -> set[str]:
    found: set[str] = set()
    waiting = sorted(entrances())
    while waiting:
        name = waiting.pop()
        if name in found or name not in modules():
            continue
        found.add(name)
        nodes = list(run_nodes(modules()[name].tree))
        waiting += [*imported(iter(nodes)), *targets(iter(nodes)), name.rpartition(".")[0]]
    return found


def test_the_import_contracts_hold() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=HOME,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "0 broken" in done.stdout


def test_every_entrance_leads_somewhere() -> None:
    assert not entrances() - set(modules())


def test_nobody_is_an_orphan() -> None:
    assert not sorted(set(modules()) - reached())


def test_an_import_for_the_type_checker_alone_reaches_nobody() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n    import corsac.a\nimport corsac.b\nWorker('corsac.c:D')")
    assert list(imported(run_nodes(tree))) == ["corsac.b"]
    assert list(targets(run_nodes(tree))) == ["corsac.c"]


def test_the_server_process_loads_nothing_heavy_with_all_plugins_discovered() -> None:
    program = (
        "import sys, corsac.main, corsac.core.plugins as p;"
        "assert not [x.view.error for x in p.discover() if x.view.error];"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


Rule = Callable[[Module], Iterator[str]]


def bad_name(module: Module) -> Iterator[str]:
    """A module has a name that says what is in it."""
    if module.name.rpartition(".")[2] in VAGUE_NAMES | BOASTFUL_NAMES:
        yield module.name


def too_long(module: Module) -> Iterator[str]:
    """A file of the core has 400 lines at most."""
    if module.name.startswith("corsac.core") and module.n_lines > MAX_LINES and module.name not in LONGER:
        yield f"{module.name} has {module.n_lines} lines"


def foreign_to_core(module: Module) -> Iterator[str]:
    """The core knows no service, engine, model or setting, not even by type."""
    if module.name.startswith("corsac.core"):
        for name in imported(ast.walk(module.tree)):
            if name.startswith("corsac.") and not name.startswith("corsac.core"):
                yield f"{module.name} imports {name}"


def web_in_service(module: Module) -> Iterator[str]:
    """Of a service only `endpoints.py` sees HTTP; engines and models never do."""
    area, _, rest = module.name.removeprefix("corsac.").partition(".")
    inside = area in ("engines", "models") or (area == "api" and not rest.startswith(("system", "compat")))
    if inside and not module.name.endswith(".endpoints"):
        for name in imported(ast.walk(module.tree)):
            if name.partition(".")[0] in ("fastapi", "starlette", "uvicorn"):
                yield f"{module.name} imports {name}"


def neighbour_service(module: Module) -> Iterator[str]:
    """A service knows no other service, and engines only by their kind's `base`."""
    parts = module.name.split(".")
    if parts[:2] == ["corsac", "api"] and len(parts) > 2:
        for name in imported(ast.walk(module.tree)):
            there = name.split(".")
            other = there[:2] == ["corsac", "api"] and len(there) > 2 and there[2] != parts[2]
            engine = there[:2] == ["corsac", "engines"] and len(there) > 3 and there[3] != "base"
            if other or engine:
                yield f"{module.name} imports {name}"


def uvicorn_elsewhere(module: Module) -> Iterator[str]:
    """Only the server and its protocol know uvicorn."""
    if module.name not in KNOW_UVICORN and "uvicorn" in {n.partition(".")[0] for n in imported(ast.walk(module.tree))}:
        yield module.name


def environment(module: Module) -> Iterator[str]:
    """Only the settings read the environment."""
    if module.name not in SEE_THE_ENVIRONMENT:
        for node in module.walk(ast.Attribute, ast.Name):
            if (node.attr if isinstance(node, ast.Attribute) else node.id) in ("environ", "environb", "getenv"):
                yield module.at(node)


def code_from_data(module: Module) -> Iterator[str]:
    """No bytes become code: no pickle and its kin, no eval, no exec."""
    for name in imported(ast.walk(module.tree)):
        if name.partition(".")[0] in CODE_LOADERS:
            yield f"{module.name} imports {name}"
    for node in module.walk(ast.Call):
        called = ast.unparse(node.func)
        if called in ("eval", "exec", "compile", "__import__", "torch.load", "yaml.load"):
            yield module.at(node)


def shell(module: Module) -> Iterator[str]:
    """Programs are started by lists of arguments, never through a shell."""
    for node in module.walk(ast.Call):
        called = ast.unparse(node.func)
        shells = [k for k in node.keywords if k.arg == "shell" and ast.unparse(k.value) != "False"]
        if shells or re.fullmatch(r"os\.(system|popen)|.*\bcreate_subprocess_shell|subprocess\.getoutput", called):
            yield module.at(node)


def printing(module: Module) -> Iterator[str]:
    """Only the command line prints."""
    if not module.name.startswith("corsac.cli"):
        yield from (module.at(n) for n in module.walk(ast.Call) if ast.unparse(n.func) in ("print", "pprint.pprint"))


def slow_middleware(module: Module) -> Iterator[str]:
    """No BaseHTTPMiddleware: it breaks streaming and costs five times as much."""
    if any("BaseHTTPMiddleware" in name for name in imported(ast.walk(module.tree))):
        yield module.name


def plain_comparison(module: Module) -> Iterator[str]:
    """Secrets are compared by hmac.compare_digest: `==` tells by its time how much was right."""
    for node in module.walk(ast.Compare):
        if any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            sides = [side for side in (node.left, *node.comparators) if isinstance(side, ast.Name | ast.Attribute)]
            names = [side.attr if isinstance(side, ast.Attribute) else side.id for side in sides]
            if any(SECRET_WORDS & set(name.lower().strip("_").split("_")) for name in names):
                yield module.at(node)


def global_state(module: Module) -> Iterator[str]:
    """No `global`, and nobody changes what a module holds."""
    yield from (module.at(node) for node in module.walk(ast.Global))
    mutable = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.Call)
    held = set()
    for node in module.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, mutable):
            held |= {ast.unparse(t) for t in (node.targets if isinstance(node, ast.Assign) else [node.target])}
    for node in module.walk(ast.Call, ast.Subscript):
        if isinstance(node, ast.Subscript):
            changed = ast.unparse(node.value) if isinstance(node.ctx, ast.Store | ast.Del) else ""
        else:
            changed = ast.unparse(node.func.value) if getattr(node.func, "attr", "") in CHANGES else ""
        if changed in held:
            yield module.at(node)


def mixin_memory(module: Module) -> Iterator[str]:
    """Mixins have no `__init__`, no `super()` and nothing that changes: only annotations and constants."""
    for node in module.walk(ast.ClassDef):
        if node.name.endswith("Mixin"):
            for child in ast.walk(node):
                if isinstance(child, ast.FunctionDef) and child.name in ("__init__", "__new__", "__post_init__"):
                    yield module.at(child)
                if isinstance(child, ast.Call) and ast.unparse(child.func) == "super":
                    yield module.at(child)
            for part in node.body:
                value = part.value if isinstance(part, ast.Assign | ast.AnnAssign) else None
                if value is not None and not isinstance(value, ast.Constant | ast.Tuple):
                    yield module.at(part)


RULES: list[Rule] = [
    bad_name,
    too_long,
    foreign_to_core,
    web_in_service,
    neighbour_service,
    uvicorn_elsewhere,
    environment,
    code_from_data,
    shell,
    printing,
    slow_middleware,
    plain_comparison,
    global_state,
    mixin_memory,
]
BREAKS = {
    "bad_name": ("corsac.core.utils", ""),
    "too_long": ("corsac.core.x", "\n" * 401),
    "foreign_to_core": ("corsac.core.x", "from corsac.api.tts import config"),
    "web_in_service": ("corsac.api.tts.service", "import fastapi"),
    "neighbour_service": ("corsac.api.tts.service", "from corsac.engines.speech.piper import PiperEngine"),
    "uvicorn_elsewhere": ("corsac.main", "from uvicorn import Config"),
    "environment": ("corsac.core.x", "import os\nos.environ['A']"),
    "code_from_data": ("corsac.core.x", "eval('1')"),
    "shell": ("corsac.core.x", "subprocess.run('ls', shell=True)"),
    "printing": ("corsac.core.x", "print(1)"),
    "slow_middleware": ("corsac.core.x", "from starlette.middleware.base import BaseHTTPMiddleware"),
    "plain_comparison": ("corsac.core.x", "self.token == given"),
    "global_state": ("corsac.core.x", "KNOWN = {}\ndef learn(name):\n    KNOWN[name] = 1"),
    "mixin_memory": ("corsac.core.x", "class AMixin:\n    seen = []"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_holds(rule: Rule) -> None:
    broken = [place for module in modules().values() for place in rule(module)]
    assert not broken, rule.__doc__


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_notices_who_breaks_it(rule: Rule) -> None:
    name, text = BREAKS[rule.__name__]
    assert list(rule(Module(name, HOME, ast.parse(text), len(text))))


def test_who_may_be_longer_is_longer() -> None:
    assert all(modules()[name].n_lines > MAX_LINES for name in LONGER)


def frozen(value: object) -> bool:
    kind = type(value)
    if is_dataclass(kind):
        return bool(kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]
    return isinstance(value, BaseModel) and bool(value.model_config.get("frozen"))


def test_no_module_holds_an_object_of_ours_that_can_change() -> None:
    found = []
    for name in modules():
        if name.endswith("__main__"):
            continue
        module: ModuleType = importlib.import_module(name)
        for key, value in vars(module).items():
            ours = type(value).__module__.startswith("corsac") and not isinstance(value, type | FunctionType)
            if ours and not frozen(value):
                found.append(f"{name}.{key}")
    assert not found
