"""The layers of a configuration: what file, API and environment set, and what they make together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic

from pydantic import BaseModel, ValidationError

from corsac.core.configuration.model import MASK, ConfigModel, ServiceConfigModel, Values, holds_mask, masked, plain
from corsac.core.configuration.views import Origin
from corsac.core.exceptions import FieldError, Invalid, StartRefused
from corsac.core.validation import translate_validation_errors


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[ConfigModel]):
    """One version, whole: the configuration in force and the layers that it comes from."""

    version: int
    config: ConfigModel
    file: Values
    api: Values
    origins: dict[str, Origin]
    etag: str


class Layering(Generic[ConfigModel]):
    """Makes snapshots of one model under one environment.

    Args:
        model: Its configuration's model.
        environment: What the environment sets, by field; it wins over all other layers.
    """

    def __init__(self, model: type[ConfigModel], environment: Values) -> None:
        self.model = model
        self.environment = environment

    def built(self, version: int, file: Values, api: Values) -> Snapshot[ConfigModel]:
        """A version out of its layers.

        Each layer must be valid upon those below, so that taking one away is safe.

        Raises:
            Invalid: Lists every invalid field.
        """
        below = plain(validated(self.model, file))
        with_api = plain(validated(self.model, {**file, **api}))
        config = validated(self.model, {**file, **api, **self.environment})
        layers: list[tuple[Origin, Values]] = [
            ("file", file),
            ("api", api),
            ("environment", self.environment),
        ]
        origins: dict[str, Origin] = dict.fromkeys(self.model.model_fields, "default")
        for origin, layer in layers:
            origins.update(dict.fromkeys(layer, origin))
        shown = json.dumps([version, masked(config), origins], sort_keys=True)
        return Snapshot(
            version,
            config,
            {name: below[name] for name in file},
            {name: with_api[name] for name in api},
            origins,
            f'"{version}-{hashlib.sha256(shown.encode()).hexdigest()[:8]}"',
        )

    def salvaged(self, version: int, file: Values, api: Values) -> Snapshot[ConfigModel]:
        """A stored version without the values that the model does not take (any more)."""
        file = self._valid_part(file, below={})
        return self.built(version, file, self._valid_part(api, below=file))

    def without_file(self, snapshot: Snapshot[ConfigModel]) -> Snapshot[ConfigModel]:
        """`snapshot` as it was before the file set anything; not validated, to be compared with only."""
        defaults = validated(self.model, {})
        untouched = {name: getattr(defaults, name) for name, origin in snapshot.origins.items() if origin == "file"}
        return replace(snapshot, file={}, config=snapshot.config.model_copy(update=untouched))

    def _valid_part(self, layer: Values, below: Values) -> Values:
        """`layer` without the fields at fault upon `below` and under the environment."""
        kept = dict(layer)
        while kept:
            together = {**below, **kept}
            problems = _problems(self.model, together) + _problems(self.model, {**together, **self.environment})
            if not problems:
                break
            faulty = {each["loc"][0] for each in problems if each["loc"]}
            # A fault in none of its fields lies between fields: then none of them can be trusted.
            kept = {name: kept[name] for name in kept if name not in faulty} if faulty & kept.keys() else {}
        return kept


def validated(model: type[ConfigModel], values: Values) -> ConfigModel:
    """The model with these values over its defaults.

    Raises:
        Invalid: Lists every invalid field.
    """
    try:
        config = model.model_validate(dict(values))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise translate_validation_errors(problems, body_type=model, location="body") from None
    masks = [name for name in values if holds_mask(getattr(config, name))]
    if masks:
        detail = f"{MASK} stands for a secret that is set already; here there is none."
        raise Invalid(detail, errors=[FieldError(f"/{name}", Invalid.reason, detail) for name in masks])
    return config


def environment_values(service: str, model: type[ServiceConfigModel], environment: Mapping[str, str]) -> dict[str, Any]:
    """Typed values of environment variables: JSON where the field takes that, else the text as it is.

    Args:
        service: For the messages.
        model: Whose fields they are.
        environment: Field name in lower case → text.

    Raises:
        StartRefused: A variable names no field or its value does not fit; the detail names the variable.
    """
    values = {}
    for name, text in environment.items():
        readings = _readings(text)
        faults = [[each for each in _problems(model, {name: value}) if name in each["loc"][:1]] for value in readings]
        if all(faults):
            refused = translate_validation_errors(faults[0], body_type=model, location="body")
            raise StartRefused(f"CORSAC_{service}__{name}".upper() + f": {refused.errors[0].detail}")
        values[name] = readings[faults.index([])]
    return values


def _problems(model: type[BaseModel], values: Values) -> list[Any]:
    try:
        model.model_validate(dict(values))
    except ValidationError as error:
        return error.errors(include_url=False, include_input=False)
    return []


def _readings(text: str) -> list[Any]:
    try:
        return [json.loads(text), text]
    except (ValueError, RecursionError):
        return [text]
