"""The body of a batch: every item is validated on its own, so a bad one does not hold up the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from corsac.core.bodies import RequestBody
from corsac.core.exceptions import CorsacError
from corsac.core.jobs.job import MAX_ITEMS
from corsac.core.validation import translate_validation_errors

Item = TypeVar("Item", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """Stands in a batch for an item that is not valid.

    Args:
        errors: What pydantic found.
    """

    errors: Sequence[Any]


def _alone(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError as error:
        return RefusedItem(error.errors(include_url=False, include_input=False))


class Batch(RequestBody, Generic[Item]):
    """Many requests at once. They become a job; those that are not valid fail alone."""

    # Not limited here: too many are a 413 for the whole batch.
    items: list[Annotated[Item, WrapValidator(_alone)]] = Field(
        min_length=1,
        description="The requests. One that is not valid fails, and the others are done.",
        json_schema_extra={"maxItems": MAX_ITEMS},
    )

    def inputs(self) -> list[dict[str, Any]]:
        """What the job's items are: the requests as JSON, nothing for those that are not valid."""
        return [{} if isinstance(each, RefusedItem) else each.model_dump(mode="json") for each in self.items]

    def refused(self) -> dict[int, CorsacError]:
        """The errors of the requests that are not valid, by their place."""
        [item_type] = get_args(type(self).model_fields["items"].annotation)
        items: Sequence[object] = self.items
        return {
            n: translate_validation_errors(each.errors, body_type=item_type, location="body")
            for n, each in enumerate(items)
            if isinstance(each, RefusedItem)
        }
