"""A conversation and its tools, from OpenAI's shape to what chat templates know."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from outrider.errors import InvalidRequest
from outrider.gateway.validation import Body

__all__ = ["Message", "NamedTool", "Tool", "ToolChoice", "Turn", "conversation"]

_EXTRAS = ("annotations", "audio", "function_call", "name", "refusal", "tool_calls", "tool_call_id")
"""Fields of a message that clients echo back as null or empty from an earlier answer."""


def _content(value: object) -> object:
    """Text, or the text of OpenAI's content parts joined."""
    if not isinstance(value, list):
        return value
    parts: list[str] = []
    for part in value:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise PydanticCustomError("outrider", "only content parts {{type: 'text', text: '…'}} are supported")
        parts.append(text)
    return "".join(parts)


def _without_extras(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {name: field for name, field in value.items() if name not in _EXTRAS or field not in (None, [])}


class CalledFunction(Body):
    """What an earlier answer called; arguments are JSON text."""

    name: str
    arguments: str


class ToolCall(Body):
    """One call of an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    """One turn of a conversation; `developer` is the newer name of `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[
        str | None, BeforeValidator(_content, json_schema_input_type=str | list[dict[str, Any]] | None)
    ] = None
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    tool_calls: list[ToolCall] = Field(default_factory=list)
    tool_call_id: str | None = None


Turn = Annotated[Message, BeforeValidator(_without_extras)]


class Function(Body):
    """What may be called. parameters: a JSON schema."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """One of the tools a model may use."""

    type: Literal["function"]
    function: Function

    def described(self) -> dict[str, Any]:
        """As templates know it: whether it is strict is not the model's business."""
        return self.model_dump(exclude_none=True, exclude={"function": {"strict"}})


class NamedFunction(Body):
    """A function by its name."""

    name: str


class NamedTool(Body):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


def _choice(value: object) -> object:
    """One error for all that it may be."""
    if value in ("none", "auto", "required"):
        return value
    with suppress(ValidationError):
        return NamedTool.model_validate(value)
    wanted = "must be 'none', 'auto', 'required' or {{type: 'function', function: {{name: '…'}}}}"
    raise PydanticCustomError("outrider", wanted)


ToolChoice = Annotated[Literal["none", "auto", "required"] | NamedTool, BeforeValidator(_choice)]


def conversation(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as chat templates know them; some want a tool's answer to say which tool it is of.

    Raises InvalidRequest naming the field of a message that makes no sense.
    """
    turns = [_turn(message, f"messages[{index}]") for index, message in enumerate(messages)]
    names = {call.id: call.function.name for message in messages for call in message.tool_calls}
    for turn in turns:
        if turn["role"] == "tool" and (name := names.get(turn["tool_call_id"])):
            turn.setdefault("name", name)
    return turns


def _turn(message: Message, path: str) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role}
    if message.tool_calls and message.role != "assistant":
        raise InvalidRequest(f"'{path}.tool_calls' belongs to role assistant only", param=f"{path}.tool_calls")
    if (message.tool_call_id is None) == (message.role == "tool"):
        wanted = "is required" if message.role == "tool" else "belongs to role tool only"
        raise InvalidRequest(f"'{path}.tool_call_id' {wanted}", param=f"{path}.tool_call_id")
    if message.content is None and not message.tool_calls:
        raise InvalidRequest(f"'{path}.content': must be a text", param=f"{path}.content")
    turn["content"] = message.content or ""
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        calls = enumerate(message.tool_calls)
        turn["tool_calls"] = [_call(call, f"{path}.tool_calls[{index}].function.arguments") for index, call in calls]
    return turn


def _call(call: ToolCall, path: str) -> dict[str, Any]:
    """Templates write arguments as JSON, so they get an object and not its text."""
    try:
        arguments = msgspec.json.decode(call.function.arguments)
    except (msgspec.DecodeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest(f"'{path}' must be the text of a JSON object", param=path)
    return {"id": call.id, "type": call.type, "function": {"name": call.function.name, "arguments": arguments}}
