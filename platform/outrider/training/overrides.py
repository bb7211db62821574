"""Changes to a recipe from the command line: `drafter.kind=dflash`, `training.loss.ce=1.0`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from outrider.errors import RecipeError
from outrider.training.recipe import Recipe

__all__ = ["override"]


def override(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with each FIELD=VALUE applied; values are read as YAML.

    A change to `drafter.kind: dflash` takes the heads away unless they are set too. Raises RecipeError naming the
    change that is not FIELD=VALUE, that names no field, or whose value does not fit.
    """
    values: dict[str, Any] = recipe.model_dump()
    named = {change.partition("=")[0].strip() for change in changes}
    for change in changes:
        field, equals, text = change.partition("=")
        if not equals:
            raise RecipeError(f"--set {change}: write FIELD=VALUE, such as training.steps=500")
        _put(values, field.strip(), text)
    if values["drafter"]["kind"] == "dflash":
        for field in ("markov_rank", "confidence"):
            if f"drafter.{field}" not in named:
                values["drafter"].pop(field)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [f"--set {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise RecipeError("\n".join(lines)) from None


def _put(values: dict[str, Any], field: str, text: str) -> None:
    *sections, last = field.split(".")
    place = values
    for section in sections:
        inner = place.get(section)
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {field}: there is no section {section}; known: {', '.join(sorted(place))}")
        place = inner
    if last not in place:
        raise RecipeError(f"--set {field}: there is no field {last}; known: {', '.join(sorted(place))}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"--set {field}: {text!r} is not a YAML value") from None
    # YAML has 1 for 1.0; a list stands for the tuple that a section holds
    place[last] = float(value) if isinstance(place[last], float) and type(value) is int else value
