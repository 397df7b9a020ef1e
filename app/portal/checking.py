"""Fields of a form as one of the models that the API takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from app.errors import InvalidRequest
from espalier.errors import Problem
from espalier.recipe.refusals import pointers

Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], fields: Mapping[str, object]) -> Model:
    """Return the fields as a model; raises InvalidRequest, its pointers into the fields."""
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        items = [
            Problem(pointers.of_error(item, item["loc"], fields), str(item["type"]).replace("_", "-"), item["msg"])
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise InvalidRequest("Some fields of the form are invalid.", items=items) from None
