"""pydantic's errors as ours: reasons, pointers, wording, and nothing of the input."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from corsac.core.exceptions import CorsacError, InvalidFormat
from corsac.core.validation import refusal, refused_as, translate_validation_errors

CANARY = "canary-7f3a"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Cat(Strict):
    kind: Literal["cat"] = "cat"
    lives: int = Field(9, ge=1, le=9)


class Dog(Strict):
    kind: Literal["dog"] = "dog"
    tricks: list[str] = Field([], max_length=2)


class Synthesis(Strict):
    text: str = Field(min_length=1, max_length=40)
    speed: float = Field(1.0, ge=0.25, le=4, allow_inf_nan=False)
    n_takes: int = Field(1, gt=0, lt=5)
    voice: Literal["joe", "ann"] = "joe"
    format: Annotated[Literal["wav", "mp3"], refused_as(InvalidFormat)] = "wav"
    language: str = Field("en", pattern="^[a-z]{2}$")
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = []
    animal: Cat | list[Dog] | None = None
    mixed: int | list[int] = 1
    maybe: Cat | None = None
    weights: dict[str, float] = {}
    key: SecretStr | None = None

    @model_validator(mode="after")
    def pairs_agree(self) -> Synthesis:
        if self.language == "zz":
            raise refusal(InvalidFormat("No {voice} speaks that language."))
        if self.language == "yy":
            raise ValueError(f"told by a library about {self.text}")
        return self


def refused(values: Any) -> CorsacError:
    with pytest.raises(ValidationError) as caught:
        Synthesis.model_validate(values)
    return translate_validation_errors(caught.value.errors(), body_type=Synthesis, location="body")


@pytest.mark.parametrize(
    ("change", "pointer", "reason", "words"),
    [
        ({"speeed": 1}, "/speeed", "UNKNOWN_FIELD", "did you mean speed?"),
        ({"qqq": 1}, "/qqq", "UNKNOWN_FIELD", "there are animal, format, key, language"),
        ({"n_takes": "3"}, "/n_takes", "WRONG_TYPE", "a whole number"),
        ({"n_takes": 1.5}, "/n_takes", "WRONG_TYPE", "a whole number"),
        ({"speed": "fast"}, "/speed", "WRONG_TYPE", "a number"),
        ({"text": None}, "/text", "WRONG_TYPE", "a string"),
        ({"maybe": []}, "/maybe", "WRONG_TYPE", "an object"),
        ({"pets": {}}, "/pets", "WRONG_TYPE", "an array"),
        ({"speed": 9}, "/speed", "OUT_OF_RANGE", "at most 4"),
        ({"speed": 0.1}, "/speed", "OUT_OF_RANGE", "at least 0.25"),
        ({"speed": float("nan")}, "/speed", "OUT_OF_RANGE", "finite"),
        ({"n_takes": 0}, "/n_takes", "OUT_OF_RANGE", "greater than 0"),
        ({"text": ""}, "/text", "OUT_OF_RANGE", "at least 1 characters"),
        ({"text": CANARY * 9}, "/text", "OUT_OF_RANGE", "at most 40 characters"),
        ({"voice": CANARY}, "/voice", "INVALID_CHOICE", "'joe' or 'ann'"),
        ({"format": CANARY}, "/format", "INVALID_FORMAT", "'wav' or 'mp3'"),
        ({"format": 5}, "/format", "INVALID_FORMAT", "'wav' or 'mp3'"),
        ({"language": CANARY}, "/language", "INVALID", "must match the pattern"),
        ({"language": "zz"}, "", "INVALID_FORMAT", "No {voice} speaks"),
        ({"language": "yy", "text": CANARY}, "", "INVALID", "not valid"),
        (
            {"pets": [{"kind": "cat"}, {"kind": "cat", "lives": 10}]},
            "/pets/1/lives",
            "OUT_OF_RANGE",
            "at most 9",
        ),
        ({"pets": [{"kind": "dog", "trick": 1}]}, "/pets/0/trick", "UNKNOWN_FIELD", "did you mean tricks?"),
        ({"pets": [{"kind": CANARY}]}, "/pets/0", "INVALID_CHOICE", "'kind' must be one of 'cat', 'dog'"),
        ({"pets": [{}]}, "/pets/0", "FIELD_REQUIRED", "'kind'"),
        ({"animal": {"lives": 1, "tricks": [1]}}, "/animal/tricks", "UNKNOWN_FIELD", "there are kind, lives"),
        ({"maybe": {"lifes": 3}}, "/maybe/lifes", "UNKNOWN_FIELD", "did you mean lives?"),
        ({"mixed": [1, CANARY]}, "/mixed", "WRONG_TYPE", "a whole number"),
        ({"weights": {"a": CANARY}}, "/weights/a", "WRONG_TYPE", "a number"),
        ({"weights": {"a b\n": CANARY}}, "/weights", "WRONG_TYPE", "a number"),
    ],
)
def test_every_kind_of_fault_has_its_reason_pointer_and_words(
    change: dict[str, Any], pointer: str, reason: str, words: str
) -> None:
    error = refused({"text": "hello"} | change)
    place = error.errors[0]
    assert (error.reason, place.pointer, place.reason) == (reason, pointer, reason)
    assert words in place.detail
    assert CANARY not in f"{error.detail}{error.errors}"


def test_a_missing_field_is_named() -> None:
    error = refused({})
    assert (error.reason, error.detail) == ("FIELD_REQUIRED", "text: This field is required.")


def test_a_misspelt_name_comes_before_the_field_that_it_leaves_missing() -> None:
    error = refused({"speed": 99, "txet": "hello"})
    assert error.reason == "UNKNOWN_FIELD"
    assert [place.pointer for place in error.errors] == ["/txet", "/text", "/speed"]


@pytest.mark.parametrize("name", ["<script>", "a\nb", "x" * 65, "é" * 3, ""])
def test_a_name_that_could_be_anything_is_not_repeated(name: str) -> None:
    error = refused({"text": "hello", name: 1})
    assert (error.reason, error.errors[0].pointer) == ("UNKNOWN_FIELD", "")
    assert not name or name not in f"{error.detail}{error.errors}"


def test_at_most_fifty_places_are_listed_of_a_hundred_thousand() -> None:
    error = refused({"text": "hello"} | {f"field{n}": 1 for n in range(100_000)})
    assert len(error.errors) == 50


def test_a_refusal_leaves_the_json_schema_alone() -> None:
    class Plain(BaseModel):
        format: Literal["wav", "mp3"] = "wav"

    for mode in ("validation", "serialization"):
        schema = Synthesis.model_json_schema(mode=mode)["properties"]["format"]
        assert schema == Plain.model_json_schema(mode=mode)["properties"]["format"]


@pytest.mark.parametrize(
    ("body", "reason", "pointer"),
    [
        (b"", "BODY_REQUIRED", ""),
        (b"null", "WRONG_TYPE", ""),
        (b"[]", "WRONG_TYPE", ""),
        (b'"x"', "WRONG_TYPE", ""),
        (b'{"text": "hi", "sped": 1}', "UNKNOWN_FIELD", "/sped"),
        (b'{"text": "hi", "pets": [{"kind": "dog", "tricks": [1]}]}', "WRONG_TYPE", "/pets/0/tricks/0"),
        (b'{"text": "hi"}', "OUT_OF_RANGE", "query/limit"),
    ],
)
def test_fastapis_errors_are_translated_as_they_come(body: bytes, reason: str, pointer: str) -> None:
    caught: list[CorsacError] = []
    app = FastAPI()

    @app.post("/")
    async def endpoint(body: Synthesis, limit: Annotated[int, Field(le=200)] = 1) -> None: ...

    @app.exception_handler(RequestValidationError)
    async def translate(_request: Any, error: RequestValidationError) -> None:
        caught.append(translate_validation_errors(error.errors(), body_type=Synthesis))
        raise caught[0]

    limit = 201 if pointer.startswith("query") else 1
    with pytest.raises(CorsacError):
        TestClient(app).post(f"/?limit={limit}", content=body, headers={"content-type": "application/json"})
    assert (caught[0].reason, caught[0].errors[0].pointer) == (reason, pointer)
