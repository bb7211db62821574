"""Pydantic's complaints in the words of the person who edits the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from outrider.policy.document import Document
from outrider.policy.problems import Path, Problem, kind_of, unknown
from outrider.policy.schema import PolicySpec

__all__ = ["schema_problems"]

_EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("gt", "must be greater than {}"),
    "greater_than_equal": ("ge", "must be at least {}"),
    "less_than": ("lt", "must be less than {}"),
    "less_than_equal": ("le", "must be at most {}"),
}


def schema_problems(error: ValidationError, document: Document) -> Iterator[Problem]:
    """Each pydantic error at its place in the file."""
    for detail in error.errors(include_url=False):
        location = detail["loc"]
        about_key = bool(location) and location[-1] == "[key]"
        path = location[:-1] if about_key else location
        at_key = about_key or detail["type"] == "extra_forbidden"
        yield document.problem(path, _message(detail, path), at_key=at_key)


def _message(detail: ErrorDetails, path: Path) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "this field is required"
    if kind == "extra_forbidden":
        return unknown("field", str(path[-1]), _fields_at(path[:-1]))
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(context["expected"]))
        if isinstance(value, str) and allowed:
            return unknown("value", value, allowed)
        return f"expected {context['expected']}, got {kind_of(value)}"
    if kind in _BOUNDS:
        bound, text = _BOUNDS[kind]
        return f"{text.format(_number(context[bound]))}, got {kind_of(value)}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {kind_of(value)}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    return detail["msg"]


def _number(bound: object) -> str:
    return f"{bound:g}" if isinstance(bound, int | float) else str(bound)


def _fields_at(path: Path) -> list[str]:
    """Names of the fields that the schema knows at a path."""
    schema: Any = PolicySpec
    for step in path:
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            schema = schema.model_fields[str(step)].annotation
        elif get_origin(schema) in (dict, list):
            schema = get_args(schema)[-1]
    return list(schema.model_fields) if isinstance(schema, type) and issubclass(schema, BaseModel) else []
