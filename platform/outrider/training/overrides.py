"""Changes to a recipe from the command line: `drafter.kind=dflash`, `training.loss.ce=1.0`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from outrider.documents import check_model, read_document, unknown
from outrider.errors import RecipeError
from outrider.training.recipe import Recipe, cross_problems, resolved

__all__ = ["override"]


def override(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with each FIELD=VALUE applied; values are read as YAML, relative paths from the working folder.

    A change to `drafter.kind: dflash` takes the heads away unless they are set too. What is changed has to fit as if
    it stood in the file. Raises RecipeError naming the change that is not FIELD=VALUE, that names no field, or whose
    value does not fit.
    """
    values: dict[str, Any] = recipe.model_dump(mode="json")
    named = {change.partition("=")[0].strip() for change in changes}
    for change in changes:
        field, equals, text = change.partition("=")
        if not equals or not field.strip():
            raise RecipeError(f"--set {change}: write FIELD=VALUE, such as training.steps=500")
        _put(values, field.strip(), text)
    drafter = values["drafter"]
    if isinstance(drafter, dict) and drafter.get("kind") == "dflash":
        for field in ("markov_rank", "confidence"):
            if f"drafter.{field}" not in named:
                drafter.pop(field, None)
    document = read_document(yaml.safe_dump(values, allow_unicode=True), "--set", "recipe")
    changed, problems = check_model(document, Recipe, "recipe", cross_problems)
    if changed is None:
        raise RecipeError("\n".join(f"--set {each.field}: {each.message}" for each in problems))
    return resolved(changed, Path.cwd())


def _put(values: dict[str, Any], field: str, text: str) -> None:
    *sections, last = field.split(".")
    place = values
    for section in sections:
        inner = place.get(section)
        if not isinstance(inner, dict):
            known = [name for name, each in place.items() if isinstance(each, dict)]
            raise RecipeError(f"--set {field}: {unknown('section', section, known)}")
        place = inner
    if last not in place:
        raise RecipeError(f"--set {field}: {unknown('field', last, place)}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"--set {field}: {text!r} is not a YAML value") from None
    # YAML has 1 for 1.0
    place[last] = float(value) if isinstance(place[last], float) and type(value) is int else value
