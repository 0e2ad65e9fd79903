import io
import os

import pytest

from corsac.core.logs.stream import LogStream


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    yield reader, stream
    stream.close()
    os.close(reader)


def test_a_pipe_that_nobody_reads_loses_lines_and_takes_whole_ones_again(pipe) -> None:
    reader, stream = pipe
    output = LogStream(stream, bytes)
    lines = [b"%06d" % number + b"x" * 1500 + b"\n" for number in range(100)]
    n_lost = output.write(lines)
    assert 0 < n_lost < 100
    assert output.write([b"lost\n"]) == 1
    text = os.read(reader, 1 << 20)
    assert output.write([b"next\n"]) == 0
    text += os.read(reader, 1 << 20)
    assert text == b"".join(lines[: 100 - n_lost]) + b"next\n"


def test_a_reader_that_left_loses_lines() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        assert LogStream(stream, bytes).write([b"a\n", b"b\n"]) == 2


def test_a_full_device_loses_lines() -> None:
    with open("/dev/full", "w") as stream:
        assert LogStream(stream, bytes).write([b"a\n", b"b\n"]) == 2


def test_a_stream_without_a_descriptor_is_written_as_text() -> None:
    stream = io.StringIO()
    assert LogStream(stream, bytes.upper).write([b"a\n", b"b\n"]) == 0
    assert stream.getvalue() == "A\nB\n"
    stream.close()
    assert LogStream(stream, bytes).write([b"a\n"]) == 1
