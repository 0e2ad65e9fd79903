"""What a configuration is: the model that services subclass, and how its fields are shown and compared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, SecretStr
from pydantic_core import to_jsonable_python

from corsac.core.configuration.views import FieldChange

MASK = "***"
Values = Mapping[str, Any]


class ServiceConfigModel(BaseModel):
    """The configuration of one service: frozen, strict, complete without any setting.

    Every field has a description and a default. A secret is a `SecretStr` field of the model itself; a
    field marked `json_schema_extra={"restart": True}` counts once the service is started again.

    Example:
        >>> from pydantic import Field
        >>> class GreetingConfigModel(ServiceConfigModel):
        ...     max_names: int = Field(10, ge=1, le=100, description="Names per greeting.")
        >>> GreetingConfigModel().max_names
        10
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_options: Any) -> None:
        """Refuse a field that could not be shown or left out.

        Raises:
            TypeError: A field has no description or no default.
        """
        for name, field in cls.model_fields.items():
            if not field.description or field.is_required():
                raise TypeError(f"The field {name} of {cls.__name__} needs a description and a default.")

    def lockout(self) -> str | None:
        """A sentence if this configuration would lock its author out, which is then refused unless forced."""
        return None


ConfigModel = TypeVar("ConfigModel", bound=ServiceConfigModel)


def plain(config: BaseModel) -> dict[str, Any]:
    """Every field as JSON, secrets in clear."""
    return {name: _shown(value, SecretStr.get_secret_value) for name, value in config}


def masked(config: BaseModel) -> dict[str, Any]:
    """Every field as JSON, secrets as `***`; an empty secret shows that it is empty."""
    return {name: _shown(value, lambda secret: MASK if secret.get_secret_value() else "") for name, value in config}


def without_masks(values: Values, config: BaseModel, kept: Values) -> dict[str, Any]:
    """`values` as a client sends them, with each `***` replaced by what it stands for.

    Args:
        values: Field → value.
        config: The configuration that the client read.
        kept: The layer that is being written; a secret that comes from another layer goes on coming from
            there.
    """
    written = {}
    for name, value in values.items():
        if value == MASK and isinstance(getattr(config, name, None), SecretStr):
            if name in kept:
                written[name] = kept[name]
        else:
            written[name] = value
    return written


def differences(before: BaseModel, after: BaseModel) -> dict[str, FieldChange]:
    """What differs between two configurations of one model, by field, masked."""
    old, new, shown_old, shown_new = plain(before), plain(after), masked(before), masked(after)
    return {name: FieldChange(before=shown_old[name], after=shown_new[name]) for name in new if old[name] != new[name]}


def restarting(model: type[BaseModel], names: Collection[str]) -> list[str]:
    """Those of `names` that are marked `restart`."""
    extras = {name: model.model_fields[name].json_schema_extra for name in names}
    return [name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("restart")]


def holds_mask(value: Any) -> bool:
    """Whether a secret somewhere in `value` is the mask itself."""
    match value:
        case SecretStr():
            return value.get_secret_value() == MASK
        case BaseModel():
            return any(holds_mask(item) for _, item in value)
        case dict():
            return any(holds_mask(item) for item in value.values())
        case list() | tuple():
            return any(holds_mask(item) for item in value)
    return False


def _shown(value: Any, secret: Callable[[SecretStr], str]) -> Any:
    match value:
        case SecretStr():
            return secret(value)
        case BaseModel():
            return _shown(dict(value), secret)
        case dict():
            return {str(key): _shown(item, secret) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_shown(item, secret) for item in value]
    return to_jsonable_python(value)
