"""Formats of weights: data passes, what can carry code does not."""

import io
import pickle
import zipfile

import pytest

from corsac.models.file_formats import ModelFormatNotAllowed, check_format

HEADS = {
    "a.gguf": b"GGUF\x03\0\0\0",
    "a.safetensors": b"\x90\x2c\0\0\0\0\0\0{",
    "a.onnx": b"\x08\x08\x12\x07pytorch",
    "a.bin": b"\x06\0\0\0\x0c\0WhisperSpec\0",
    "a.json": b'\n {"a": 1}',
    "a.txt": b"[PAD]\n",
}


@pytest.mark.parametrize(("path", "head"), HEADS.items())
def test_each_format_passes_under_its_own_name(path, head):
    check_format(path, head)


@pytest.mark.parametrize("path", [*HEADS, "a.pt", "a"])
@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_pickles_are_refused_whatever_they_are_called(path, protocol):
    head = pickle.dumps({"weights": [1.0]}, protocol=protocol)
    if protocol == 0 and path == "a.txt":
        pytest.skip("a text file, which nothing unpickles")
    with pytest.raises(ModelFormatNotAllowed):
        check_format(path, head)


@pytest.mark.parametrize("path", HEADS)
def test_zip_files_are_refused_whatever_they_are_called(path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("data.pkl", b"")
    with pytest.raises(ModelFormatNotAllowed):
        check_format(path, content.getvalue())


@pytest.mark.parametrize("path", HEADS)
def test_empty_files_are_refused(path):
    with pytest.raises(ModelFormatNotAllowed):
        check_format(path, b"")
