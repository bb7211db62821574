"""Bytes to JSON, JSON to a checked model, and one clear error that names the field."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from outrider.errors import InvalidRequest, RequestTooLarge

__all__ = ["Body", "decode_object", "first_fault", "whole_body"]


class Body(BaseModel):
    """Everything a tenant sends as JSON: nothing unknown, nothing converted, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


async def whole_body(request: Request, limit_bytes: int, too_long: InvalidRequest | RequestTooLarge) -> bytes:
    """All that was sent. Raises `too_long` as soon as it is more than the limit."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit_bytes:
            raise too_long
    return bytes(data)


def decode_object(data: bytes) -> dict[str, Any]:
    """A JSON object from a request's bytes. Raises InvalidRequest."""
    try:
        decoded = msgspec.json.decode(data)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not valid UTF-8 (near byte {error.start} of a string)") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error
    if not isinstance(decoded, dict):
        raise InvalidRequest("the body must be a JSON object")
    return decoded


def first_fault(error: ValidationError, nested: Mapping[str, type[BaseModel]]) -> InvalidRequest:
    """The first thing pydantic found, without the value it found. nested: models by the field they fill, for hints."""
    fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
    path = ""
    for step in fault["loc"]:
        path += f"[{step}]" if isinstance(step, int) else f".{step[:100]}" if path else step[:100]
    if fault["type"] == "extra_forbidden":
        owner = nested.get(str(fault["loc"][0]))
        close = difflib.get_close_matches(str(fault["loc"][-1]), owner.model_fields if owner else (), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return InvalidRequest(f"unknown field '{path}'{hint}", param=path)
    message = "is required" if fault["type"] == "missing" else fault["msg"].replace("Input should be", "must be", 1)
    return InvalidRequest(f"'{path}': {message}", param=path)
