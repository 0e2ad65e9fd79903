"""From pydantic's errors to ours: one place decides reason, pointer and wording.

    class SynthesisRequest(RequestBody):
        format: Annotated[Literal["wav", "mp3"], refused_as(InvalidFormat)] = "wav"

A validator with a reason of its own raises `refusal(TextNotSpeakable("The text has nothing to speak."))`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, RootModel, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from corsac.core.exceptions import (
    BodyRequired,
    CorsacError,
    FieldError,
    FieldRequired,
    Invalid,
    InvalidChoice,
    OutOfRange,
    UnknownField,
    WrongType,
    error_classes,
)

MAX_ERRORS = 50
MAX_NAMES = 30
PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

KNOWN: Mapping[str, tuple[type[CorsacError], str]] = {
    "missing": (FieldRequired, "This field is required."),
    "union_tag_not_found": (FieldRequired, "The field {discriminator} is required here."),
    "literal_error": (InvalidChoice, "The value must be {expected}."),
    "enum": (InvalidChoice, "The value must be {expected}."),
    "union_tag_invalid": (InvalidChoice, "The field {discriminator} must be one of {expected_tags}."),
    "greater_than": (OutOfRange, "The number must be greater than {gt}."),
    "greater_than_equal": (OutOfRange, "The number must be at least {ge}."),
    "less_than": (OutOfRange, "The number must be less than {lt}."),
    "less_than_equal": (OutOfRange, "The number must be at most {le}."),
    "multiple_of": (OutOfRange, "The number must be a multiple of {multiple_of}."),
    "finite_number": (OutOfRange, "The number must be finite."),
    "string_too_short": (OutOfRange, "The text must have at least {min_length} characters."),
    "string_too_long": (OutOfRange, "The text must have at most {max_length} characters."),
    "bytes_too_short": (OutOfRange, "The value must have at least {min_length} bytes."),
    "bytes_too_long": (OutOfRange, "The value must have at most {max_length} bytes."),
    "too_short": (OutOfRange, "There must be at least {min_length} items."),
    "too_long": (OutOfRange, "There must be at most {max_length} items."),
    "string_pattern_mismatch": (Invalid, "The text must match the pattern {pattern}."),
    "int_from_float": (WrongType, "The value must be a whole number."),
    "none_required": (WrongType, "The value must be null."),
}
"""Reason and wording by pydantic's error type; what fills the braces is the schema's, never the input's."""

KINDS: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "string": "a string",
    "bool": "true or false",
    "list": "an array",
    "tuple": "an array",
    "set": "an array",
    "frozen_set": "an array",
    "dict": "an object",
    "mapping": "an object",
    "model": "an object",
    "model_attributes": "an object",
    "dataclass": "an object",
    "uuid": "a UUID",
    "date": "a date",
    "datetime": "a date and time",
    "url": "a URL",
}
"""What a value should have been, by the part of pydantic's error type before `_type` or `_parsing`."""


def refusal(error: CorsacError) -> PydanticCustomError:
    """The exception with which a validator refuses a value for a reason of its own.

    Args:
        error: Its class gives the answer's reason, its detail the sentence.

    Example:
        >>> from corsac.core.exceptions import InvalidFormat
        >>> refusal(InvalidFormat("Opus needs a rate of 48000 Hz.")).type
        'INVALID_FORMAT'
    """
    return PydanticCustomError(error.reason, "{detail}", {"detail": error.detail})


def refused_as(error_class: type[CorsacError]) -> WrapValidator:
    """An annotation that gives every failure of a field one reason; the JSON Schema stays as it is.

    Args:
        error_class: An error that carries a reason, usually a 422.
    """

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise refusal(error_class(_judged(first, ())[1])) from None

    return WrapValidator(validate)


def translate_validation_errors(
    errors: Sequence[Mapping[str, Any]], *, body_type: Any = None, location: str | None = None
) -> CorsacError:
    """The one error that answers for all that pydantic found.

    Its class and detail are those of the first unknown field if there is one (a misspelt name explains the
    missing one), else of the first error. `errors` lists at most 50 places in that order. No value of the
    input appears; names of the client's making appear in pointers only where they are plain (letters,
    digits, `_.-`, at most 64).

    Args:
        errors: What `ValidationError.errors()` or FastAPI's `RequestValidationError.errors()` returns; at
            least one.
        body_type: The type that was validated, for the nearest field names and for pointers without union
            members.
        location: `body` where pydantic validated a body alone; None: each `loc` begins with its location, as
            FastAPI's do.

    Returns:
        An `Invalid`, or the class whose reason a custom error named; to be raised by the caller.
    """
    ordered = sorted(errors, key=lambda each: each["type"] != "extra_forbidden")[:MAX_ERRORS]
    judged = [_judged_at(each, body_type, location) for each in ordered]
    error_class, first = judged[0]
    detail = first.detail
    if first.pointer and error_class is not UnknownField:
        detail = f"{first.pointer.removeprefix('/')}: {detail}"
    return error_class(detail, errors=[place for _, place in judged])


def _judged_at(error: Mapping[str, Any], body_type: Any, location: str | None) -> tuple[type[CorsacError], FieldError]:
    """Class and place of one error."""
    where, *path = error["loc"] if location is None else (location, *error["loc"])
    if where != "body":
        error_class, detail = _judged(error, ())
        return error_class, FieldError("/".join((str(where), *_plain(path))), error_class.reason, detail)
    if error["type"] == "missing" and not path:
        return BodyRequired, FieldError("", BodyRequired.reason, "The body must be a JSON object.")
    places, siblings = _located(path, body_type)
    plain = _plain(places)
    error_class, detail = _judged(error, siblings, plain[-1] if plain else "")
    return error_class, FieldError("".join(f"/{each}" for each in plain), error_class.reason, detail)


def _judged(error: Mapping[str, Any], siblings: Collection[str], name: str = "") -> tuple[type[CorsacError], str]:
    """Class and sentence of one error; `siblings` exist beside an unknown field called `name`."""
    kind = error["type"]
    if kind == "extra_forbidden":
        return UnknownField, _no_such_field(name, siblings)
    if kind in KNOWN:
        error_class, sentence = KNOWN[kind]
        return error_class, sentence.format_map(error.get("ctx", {}))
    if kind.isupper():
        for error_class in error_classes():
            if error_class.reason == kind:
                return error_class, error["msg"]
    if kind.endswith(("_type", "_parsing")):
        wanted = KINDS.get(kind.removesuffix("_type").removesuffix("_parsing"))
        return WrongType, f"The value must be {wanted}." if wanted else "The value has the wrong type."
    return Invalid, "This value is not valid."


def _no_such_field(name: str, siblings: Collection[str]) -> str:
    nearest = get_close_matches(name, siblings, n=1)
    if nearest:
        return f"There is no such field; did you mean {nearest[0]}?"
    if 0 < len(siblings) <= MAX_NAMES:
        return f"There is no such field; there are {', '.join(sorted(siblings))}."
    return "There is no such field."


def _plain(path: Iterable[str | int]) -> list[str]:
    """The names of `path` up to the first that only the client can have made up."""
    plain: list[str] = []
    for each in path:
        if not PLAIN_NAME.fullmatch(str(each)):
            break
        plain.append(str(each))
    return plain


def _located(path: Sequence[str | int], annotation: Any) -> tuple[list[str | int], list[str]]:
    """The places of `path` that exist in the JSON, and the names of the fields beside its last one.

    pydantic puts the member of a union between the places; only the type tells it from a name.
    """
    places: list[str | int] = []
    siblings: list[str] = []
    types = _members(annotation)
    in_union = len(types) > 1
    for segment in path:
        if in_union:
            types = [each for each in types if _is_called(each, segment)] or types
            in_union = False
            continue
        places.append(segment)
        siblings = [name for each in types for name in _fields(each)]
        types = [member for each in types for child in _children(each, segment) for member in _members(child)]
        in_union = len(types) > 1
    return places, siblings


def _is_called(member: Any, tag: str | int) -> bool:
    """Whether pydantic calls this member of a union `tag`: by its name, or by its discriminating field."""
    literals = [get_args(each) for each in _fields(member).values() if get_origin(each) is Literal]
    name = str(tag).partition("[")[0]  # `list[int]` for a list
    return getattr(member, "__name__", "") == name or any(tag in values for values in literals)


def _members(annotation: Any) -> list[Any]:
    """What `annotation` is made of if it is a union, itself otherwise; None and annotations are taken off."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [member for each in get_args(annotation) if each is not type(None) for member in _members(each)]
    if isinstance(annotation, type) and origin is None and issubclass(annotation, RootModel):
        return _members(annotation.model_fields["root"].annotation)
    return [annotation]


def _fields(annotation: Any) -> dict[str, Any]:
    """Names, as JSON has them, and types of a model's fields; empty for anything else."""
    if get_origin(annotation) is not None or not isinstance(annotation, type) or not issubclass(annotation, BaseModel):
        return {}
    return {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}


def _children(annotation: Any, segment: str | int) -> list[Any]:
    """Types of what stands under `segment` in a value of type `annotation`."""
    fields = _fields(annotation)
    if fields:
        return [fields[str(segment)]] if segment in fields else []
    arguments = [each for each in get_args(annotation) if each is not Ellipsis]
    return arguments[-1:]
