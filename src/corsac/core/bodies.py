"""Base classes of what goes over the wire."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class RequestBody(BaseModel):
    """A JSON body of a request: types are strict and unknown fields are refused.

    Every field is bounded and described. Choices are `Literal` and sequences `list`, which strict JSON can express.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Reply(BaseModel):
    """A JSON body of an answer. Numbers are finite; a measure that does not exist is null."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")
