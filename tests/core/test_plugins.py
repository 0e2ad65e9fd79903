"""What is installed is found, and what cannot be loaded is named and harms nobody."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from corsac.core.plugins import ENGINES, SERVICES, discover

MODULES = {
    "fine_plugin": "SERVICE = 'a service'",
    "raising_plugin": "raise RuntimeError('no luck')",
    "exiting_plugin": "raise SystemExit(3)",
    "misspelt_plugin": "SERVICE == ",
    "needing_plugin": "import a_library_that_is_not_there",
}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, source in MODULES.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def test_services_and_engines_are_found_by_group_and_name() -> None:
    groups = [
        ("b", SERVICES),
        ("a", SERVICES),
        ("z", ENGINES + "speech"),
        ("x", "console_scripts"),
        ("y", "corsac.other"),
    ]
    found = discover([EntryPoint(name, "fine_plugin:SERVICE", group) for name, group in groups])
    assert [(each.view.group, each.view.name) for each in found] == [
        (ENGINES + "speech", "z"),
        (SERVICES, "a"),
        (SERVICES, "b"),
    ]
    assert {each.loaded for each in found} == {"a service"}


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("raising_plugin:SERVICE", "RuntimeError: no luck"),
        ("exiting_plugin:SERVICE", "SystemExit: 3"),
        ("misspelt_plugin:SERVICE", "SyntaxError"),
        ("needing_plugin:SERVICE", "a_library_that_is_not_there"),
        ("absent_plugin:SERVICE", "ModuleNotFoundError"),
        ("fine_plugin:OTHER", "has no attribute 'OTHER'"),
        ("not a target!", "Error"),
    ],
)
def test_what_cannot_be_loaded_carries_its_traceback_and_the_others_stand(target: str, told: str) -> None:
    points = [EntryPoint("bad", target, SERVICES), EntryPoint("good", "fine_plugin:SERVICE", SERVICES)]
    bad, good = discover(points)
    assert bad.loaded is None
    assert bad.view.error is not None
    assert told in bad.view.error
    assert good.loaded == "a service"


def test_a_keyboard_interrupt_is_no_fault_of_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "interrupted_plugin.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover([EntryPoint("x", "interrupted_plugin:SERVICE", SERVICES)])


def test_our_own_services_come_through_the_same_door() -> None:
    tts = next(each for each in discover() if (each.view.group, each.view.name) == (SERVICES, "tts"))
    assert (tts.view.distribution, tts.view.error, tts.loaded.name) == ("corsac", None, "tts")


@pytest.mark.parametrize("metadata", ["Metadata-Version: 2.1\n", "Name: odd\n"])
def test_a_distribution_without_name_or_version_does_not_stop_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: str
) -> None:
    folder = tmp_path / "site" / "odd-1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(metadata)
    (folder / "entry_points.txt").write_text(f"[{SERVICES}]\nodd = fine_plugin:SERVICE\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert "a service" in [each.loaded for each in discover()]
