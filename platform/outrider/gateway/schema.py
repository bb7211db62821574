"""Request bodies: bytes to a validated ask, or one clear error that names the field."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from outrider.errors import InvalidRequest
from outrider.gateway.fields import keep_supported

__all__ = [
    "ChatBody",
    "CompletionBody",
    "GenerationBody",
    "Message",
    "OutriderOptions",
    "decode_object",
    "first_fault",
    "validated",
]

INT64 = 2**63
DEFAULT_LIMIT = "Largest number of tokens to generate; without it 256, or less where context or budget leave less."
DAY_MS = 86_400_000
MESSAGE_EXTRAS = ("annotations", "audio", "function_call", "name", "refusal", "tool_calls")
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


def _message(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {name: field for name, field in value.items() if name not in MESSAGE_EXTRAS or field not in (None, [])}


def _stops(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _prompt(value: object) -> object:
    """Text, or token ids; a batch of one is unwrapped."""
    if isinstance(value, list) and value and not isinstance(value[0], int):
        if len(value) > 1:
            raise PydanticCustomError("outrider", "a batch of prompts is not supported; send one request per prompt")
        value = value[0]
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise PydanticCustomError("outrider", "must be a string, a list of token ids, or a list of one of them")
    if not value:
        raise PydanticCustomError("outrider", "must not be empty")
    return tuple(value)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class OutriderOptions(_Body):
    """What a tenant may ask of one request; headers carry the same fields."""

    ttft_ms: Annotated[float, Field(gt=0, le=DAY_MS)] | None = None
    tpot_ms: Annotated[float, Field(gt=0, le=DAY_MS)] | None = None
    deadline_ms: Annotated[float, Field(gt=0, le=DAY_MS)] | None = None
    max_cost_usd: Annotated[float, Field(gt=0, le=1e6)] | None = None
    quality: Annotated[float, Field(ge=0, le=1)] | None = None
    workflow: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    tags: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=16)] = []


class StreamOptions(_Body):
    """What a stream carries besides text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: Literal[False] | None = None


class Message(_Body):
    """One turn of a conversation; `developer` is the newer name of `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_content, json_schema_input_type=str | list[dict[str, Any]])]
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class GenerationBody(_Body):
    """What both endpoints share."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description=DEFAULT_LIMIT)
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1024)]],
        Field(max_length=4),
        BeforeValidator(_stops, json_schema_input_type=str | list[str]),
    ] = []
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    outrider: OutriderOptions = OutriderOptions()

    @property
    def output_limit(self) -> int | None:
        """The largest number of tokens the tenant wants; None leaves it to the platform."""
        return self.max_completion_tokens or self.max_tokens


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Annotated[Message, BeforeValidator(_message)]], Field(min_length=1, max_length=4096)]

    def conversation(self) -> list[dict[str, str]]:
        """The messages as chat templates know them."""
        turns = [message.model_dump(exclude_none=True) for message in self.messages]
        return [turn | {"role": "system"} if turn["role"] == "developer" else turn for turn in turns]


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: Annotated[
        str | tuple[int, ...],
        BeforeValidator(_prompt, json_schema_input_type=str | list[int] | list[str] | list[list[int]]),
    ]


BodyT = TypeVar("BodyT", bound=GenerationBody)
NESTED: Mapping[str, type[BaseModel]] = {
    "messages": Message,
    "outrider": OutriderOptions,
    "stream_options": StreamOptions,
}


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


def validated(kind: type[BodyT], body: Mapping[str, Any]) -> BodyT:
    """The body as `kind`. Raises InvalidRequest or UnsupportedParameter naming the first field at fault."""
    try:
        made = kind.model_validate(keep_supported(body, kind.model_fields))
    except ValidationError as error:
        raise first_fault(error) from None
    if made.stream_options is not None and not made.stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true", param="stream_options")
    limits = {made.max_tokens, made.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise InvalidRequest("'max_tokens' and 'max_completion_tokens' disagree; send one", param="max_tokens")
    return made


def first_fault(error: ValidationError) -> InvalidRequest:
    """The first thing pydantic found, without the value it found."""
    fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
    path = ""
    for step in fault["loc"]:
        path += f"[{step}]" if isinstance(step, int) else f".{step[:100]}" if path else step[:100]
    if fault["type"] == "extra_forbidden":
        nested = NESTED.get(str(fault["loc"][0]))
        close = difflib.get_close_matches(str(fault["loc"][-1]), nested.model_fields if nested else (), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return InvalidRequest(f"unknown field '{path}'{hint}", param=path)
    message = "is required" if fault["type"] == "missing" else fault["msg"].replace("Input should be", "must be", 1)
    return InvalidRequest(f"'{path}': {message}", param=path)
