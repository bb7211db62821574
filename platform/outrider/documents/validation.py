"""Pydantic's complaints in the words of the person who edits the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from outrider.documents.problems import Path, Problem, kind_of, unknown
from outrider.documents.reader import Document

__all__ = ["schema_problems"]

_EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "path_type": "a path",
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
_EXAMPLE_WIDTH = 1_000
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?")
_WITH_UNIT = re.compile(r"[^0-9]{0,8}[0-9][0-9.,_]*[^0-9]{0,8}")


def schema_problems(error: ValidationError, document: Document, model: type[BaseModel]) -> Iterator[Problem]:
    """Each pydantic error of validating `document` as `model`, at its place in the file."""
    for detail in error.errors(include_url=False):
        location = detail["loc"]
        about_key = bool(location) and location[-1] == "[key]"
        path = location[:-1] if about_key else location
        at_key = about_key or detail["type"] == "extra_forbidden"
        yield document.problem(path, _message(detail, path, model), at_key=at_key)


def _message(detail: ErrorDetails, path: Path, model: type[BaseModel]) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "this field is required"
    if kind == "extra_forbidden":
        return unknown("field", str(path[-1]), _fields_at(path[:-1], model))
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(context["expected"]))
        if isinstance(value, str) and allowed:
            return unknown("value", value, allowed)
        return f"expected {context['expected']}, got {kind_of(value)}"
    if kind in _BOUNDS:
        bound, text = _BOUNDS[kind]
        return f"{text.format(_number(context[bound]))}, got {kind_of(value)}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {kind_of(value)}{_hint(value, path, model)}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    return detail["msg"]


def _hint(value: object, path: Path, model: type[BaseModel]) -> str:
    """How the field is written, where its schema has an example, or that numbers bear neither quotes nor units."""
    parent = _schema_at(path[:-1], model)
    field = parent.model_fields.get(str(path[-1])) if path and _is_model(parent) else None
    if field is not None and field.examples:
        example = yaml.safe_dump(field.examples[0], default_flow_style=True, width=_EXAMPLE_WIDTH, sort_keys=False)
        return f"; for example {example.removesuffix('...' + chr(10)).strip()}"
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return "; write it without quotes"
    if isinstance(value, str) and _WITH_UNIT.fullmatch(value):
        return "; write the number alone, in the unit that the field is named after"
    return ""


def _number(bound: object) -> str:
    return f"{bound:g}" if isinstance(bound, int | float) else str(bound)


def _fields_at(path: Path, model: type[BaseModel]) -> list[str]:
    """Names of the fields that the schema knows at a path."""
    schema = _schema_at(path, model)
    return list(schema.model_fields) if _is_model(schema) else []


def _schema_at(path: Path, model: type[BaseModel]) -> Any:
    """The annotation at a path, without its None."""
    schema: Any = model
    for step in path:
        schema = _without_none(schema)
        if _is_model(schema):
            schema = schema.model_fields[str(step)].annotation
        elif get_origin(schema) is tuple:
            schema = get_args(schema)[0]
        elif get_origin(schema) in (dict, list):
            schema = get_args(schema)[-1]
    return _without_none(schema)


def _is_model(schema: Any) -> bool:
    return isinstance(schema, type) and issubclass(schema, BaseModel)


def _without_none(schema: Any) -> Any:
    """The X of an `X | None`."""
    rest = [each for each in get_args(schema) if each is not NoneType]
    return rest[0] if get_origin(schema) in (Union, UnionType) and len(rest) == 1 else schema
