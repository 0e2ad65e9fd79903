"""As much of JSON Schema as our OpenAPI document uses, so that tests read it as strangers do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
ANNOTATIONS = frozenset({"title", "description", "default", "examples", "format", "writeOnly", "restart"})
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


def resolved(schema: Schema, document: Schema) -> Schema:
    """The schema that a `$ref` stands for, else the schema itself."""
    if "$ref" not in schema:
        return schema
    return resolved(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)


def violations(value: Any, schema: Schema, document: Schema, place: str = "") -> Iterator[str]:
    """Where and how `value` does not fit. A keyword that is not known here is a violation too."""
    schema = resolved(schema, document)
    for keyword, rule in schema.items():
        if keyword == "anyOf":
            broken = [list(violations(value, each, document, place)) for each in rule]
            yield from (f"{place}: none of anyOf" for _ in [0] if all(broken))
        elif keyword in CHECKS:
            if not CHECKS[keyword](value, rule):
                yield f"{place}: {keyword} {rule}"
        elif keyword == "properties" and isinstance(value, dict):
            for name in rule.keys() & value.keys():
                yield from violations(value[name], rule[name], document, f"{place}/{name}")
        elif keyword == "additionalProperties" and isinstance(value, dict):
            for name in value.keys() - schema.get("properties", {}).keys():
                if rule is False:
                    yield f"{place}/{name}: not a property"
                elif rule is not True:
                    yield from violations(value[name], rule, document, f"{place}/{name}")
        elif keyword == "items" and isinstance(value, list):
            for position, item in enumerate(value):
                yield from violations(item, rule, document, f"{place}/{position}")
        elif keyword not in ANNOTATIONS | {"properties", "additionalProperties", "items"}:
            yield f"{place}: the keyword {keyword} is not known"


def _has_type(value: Any, names: str | list[str]) -> bool:
    wanted = [names] if isinstance(names, str) else names
    kinds = tuple(kind for name in wanted for kind in TYPES[name])
    return isinstance(value, kinds) and (not isinstance(value, bool) or "boolean" in wanted)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


CHECKS: Mapping[str, Callable[[Any, Any], bool]] = {
    "type": _has_type,
    "const": lambda value, rule: value == rule,
    "enum": lambda value, rule: value in rule,
    "required": lambda value, rule: not isinstance(value, dict) or set(rule) <= value.keys(),
    "minLength": lambda value, rule: not isinstance(value, str) or len(value) >= rule,
    "maxLength": lambda value, rule: not isinstance(value, str) or len(value) <= rule,
    "pattern": lambda value, rule: not isinstance(value, str) or re.search(rule, value) is not None,
    "minItems": lambda value, rule: not isinstance(value, list) or len(value) >= rule,
    "maxItems": lambda value, rule: not isinstance(value, list) or len(value) <= rule,
    "maxProperties": lambda value, rule: not isinstance(value, dict) or len(value) <= rule,
    "minimum": lambda value, rule: not _is_number(value) or value >= rule,
    "maximum": lambda value, rule: not _is_number(value) or value <= rule,
    "exclusiveMinimum": lambda value, rule: not _is_number(value) or value > rule,
    "exclusiveMaximum": lambda value, rule: not _is_number(value) or value < rule,
}


def places(schema: Schema, document: Schema, place: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema within a schema, `anyOf`s and references followed, with its place."""
    schema = resolved(schema, document)
    yield place, schema
    for name, each in schema.get("properties", {}).items():
        yield from places(each, document, f"{place}/{name}")
    for each in schema.get("anyOf", ()):
        yield from places(each, document, place)
    for each in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(each, Mapping):
            yield from places(each, document, f"{place}/*")


def is_bounded(schema: Schema) -> bool:
    """Whether a schema of one value says how large the value may be."""
    if "enum" in schema or "const" in schema:
        return True
    match schema.get("type"):
        case "string":
            endless = re.search(r"[*+]|\{\d+,\}", re.sub(r"\[[^]]*\]|\\.", "", schema.get("pattern", "*")))
            return "maxLength" in schema or not endless or schema.get("format") == "date-time"
        case "array":
            return "maxItems" in schema
        case "object":
            return schema.get("additionalProperties") is False or "maxProperties" in schema
        case "number" | "integer":
            return {"minimum", "exclusiveMinimum"} & schema.keys() != set() and "maximum" in schema
    return True
