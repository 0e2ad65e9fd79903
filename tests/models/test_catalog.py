"""The catalog: what ships, what a user adds, and what is refused."""

import os
import random
import string

import pytest
from pydantic import ValidationError

from corsac.models.catalog import Catalog, ModelEntry, ModelUnknown

STARTERS = {
    "piper:en_US-joe-medium": 63_206_088,
    "gemma3:270m-base": 253_113_024,
    "whisper:tiny.en": 78_090_594,
    "minilm": 91_334_623,
}
GOOD = """
[[model]]
name = "piper:mine"
kinds = ["speech"]
licence = "MIT"
memory_bytes = 1000
languages = ["de"]
sentence = "My own voice, recorded at home."
files = [{ path = "mine.onnx", size_bytes = 3, sha256 = "HASH" }]
[[model.origins]]
kind = "index"
packages = [{ name = "mine", version = "1.0", size_bytes = 9, members = [{ member = "m/x", file = "mine.onnx" }] }]
""".replace("HASH", "0" * 64)


def test_the_starter_set_ships_with_sizes_of_the_originals():
    catalog = Catalog.load()
    assert {each.name: each.size_bytes for each in catalog} == STARTERS
    assert catalog.rejections == ()


def test_every_entry_says_whether_an_engine_runs_it():
    for each in Catalog.load():
        assert ("No engine in this version runs it yet." in each.sentence) == (
            each.kinds not in (("speech",), ("transcription",))
        )


def test_a_users_file_is_added(tmp_path):
    (tmp_path / "mine.toml").write_text(GOOD)
    (tmp_path / "notes.txt").write_text("not a catalog")
    catalog = Catalog.load(tmp_path)
    assert catalog.entry("piper:mine").languages == ("de",)
    assert len(catalog.entries) == len(STARTERS) + 1


def test_a_folder_that_does_not_exist_adds_nothing(tmp_path):
    assert len(Catalog.load(tmp_path / "catalog.d").entries) == len(STARTERS)


BAD = {
    "not TOML": "[[model]",
    "an unknown field": GOOD.replace("memory_bytes", "import_path"),
    "a taken name": GOOD.replace("piper:mine", "minilm"),
    "a taken name in capitals": GOOD.replace("piper:mine", "piper:EN_us-joe-medium"),
    "a name that climbs": GOOD.replace("piper:mine", "../../etc/passwd"),
    "a path that climbs": GOOD.replace("mine.onnx", "../mine.onnx"),
    "an absolute path": GOOD.replace("mine.onnx", "/mine.onnx"),
    "a hash that climbs": GOOD.replace("0" * 64, "../" * 21 + "x"),
    "a hash in capitals": GOOD.replace("0" * 64, "A" * 64),
    "a pickle": GOOD.replace("mine.onnx", "mine.pt"),
    "an option as package": GOOD.replace('name = "mine"', 'name = "--index-url=x"'),
    "an option as version": GOOD.replace('version = "1.0"', 'version = "1.0 --pre"'),
    "another kind of origin": GOOD.replace('"index"', '"ftp"'),
    "a member for no file": GOOD.replace('file = "mine.onnx"', 'file = "other.onnx"'),
    "a negative size": GOOD.replace("size_bytes = 3", "size_bytes = -3"),
    "a licence that is a script": GOOD.replace('"MIT"', '"javascript:alert(1)"'),
    "bytes that are no text": "\udcff",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_broken_file_is_refused_and_shown_and_the_rest_stands(tmp_path, text):
    (tmp_path / "a.toml").write_text(text, encoding="utf-8", errors="surrogateescape")
    (tmp_path / "b.toml").write_text(GOOD.replace("piper:mine", "piper:other"))
    catalog = Catalog.load(tmp_path)
    assert [each.file for each in catalog.rejections] == ["a.toml"]
    assert catalog.rejections[0].detail
    assert "piper:other" in catalog.entries
    assert len(catalog.entries) == len(STARTERS) + 1


def test_a_pipe_in_the_folder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.toml")
    assert [each.file for each in Catalog.load(tmp_path).rejections] == ["a.toml"]


def test_an_unknown_name_gets_the_known_ones():
    with pytest.raises(ModelUnknown, match="minilm"):
        Catalog.load().entry("lama")


def test_a_thousand_forms_of_traversal_fit_no_name_path_or_hash():
    dice = random.Random(37032)
    good = next(iter(Catalog.load())).model_dump()
    pieces = ["..", "/", "\\", "%2e", "%2f", "\0", "\n", ".", "~", "C:", "//", "..;", "\u2215", "\uff0e"]
    for _ in range(1000):
        climb = "".join(dice.choices(pieces, k=dice.randint(1, 6))) + dice.choice(["", "etc/passwd"])
        climb = dice.choice(["", dice.choice(string.ascii_letters), "a/"]) + climb
        if set(climb) <= {*string.ascii_letters, "."} and climb[0] != ".":
            continue  # "a..": a name like any other
        for form in (good | {"name": climb}, good | {"files": [good["files"][0] | {"path": climb}]},
                     good | {"files": [good["files"][0] | {"sha256": climb}]}):  # fmt: skip
            with pytest.raises(ValidationError):
                ModelEntry.model_validate(form)
