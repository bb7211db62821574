"""What an answer must match, from OpenAI's `response_format` and vLLM's `structured_outputs`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Field

from outrider.errors import InvalidRequest
from outrider.gateway.validation import Body
from outrider.types import Constraint

__all__ = ["ResponseFormat", "StructuredOutputs", "answer_constraint", "json_schema"]


def _schema(value: object) -> object:
    """vLLM also takes a schema as its JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value  # refused with its type


class JsonSchema(Body):
    """A named schema. `strict` changes nothing: every schema is kept to."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")] = Field(default_factory=dict)
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Body):
    """vLLM's, in part: a JSON schema or a regular expression that the whole answer matches."""

    # `json` and `schema` are names pydantic's models have too.
    json_: Annotated[
        dict[str, Any] | None,
        BeforeValidator(_schema, json_schema_input_type=dict[str, Any] | str),
        Field(alias="json"),
    ] = None
    regex: Annotated[str, Field(min_length=1, max_length=4096)] | None = None


def json_schema(schema: object) -> Constraint:
    """Keeps the order of properties: it is the order they are written in."""
    return Constraint("json_schema", msgspec.json.encode(schema).decode())


def answer_constraint(response: ResponseFormat | None, outputs: StructuredOutputs | None) -> Constraint | None:
    """The one constraint of both fields. Raises InvalidRequest where they contradict each other or themselves."""
    structured = _structured(outputs) if outputs is not None else None
    if response is None or response.type == "text":
        if response is not None and response.json_schema is not None:
            raise InvalidRequest("'response_format.json_schema' needs type 'json_schema'", param="response_format.type")
        return structured
    if structured is not None:
        raise InvalidRequest(
            "'structured_outputs' and 'response_format' both say what the answer must be; send one",
            param="structured_outputs",
        )
    if (response.json_schema is None) == (response.type == "json_schema"):
        wanted = "is required" if response.json_schema is None else "needs type 'json_schema'"
        raise InvalidRequest(f"'response_format.json_schema' {wanted}", param="response_format.json_schema")
    return json_schema(response.json_schema.schema_ if response.json_schema else {"type": "object"})


def _structured(outputs: StructuredOutputs) -> Constraint:
    if (outputs.json_ is None) == (outputs.regex is None):
        raise InvalidRequest("'structured_outputs' takes either 'json' or 'regex'", param="structured_outputs")
    return json_schema(outputs.json_) if outputs.regex is None else Constraint("regex", outputs.regex)
