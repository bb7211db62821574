"""Request bodies of both endpoints: every field with its range, and which of them contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from outrider.errors import InvalidRequest
from outrider.gateway.constraints import ResponseFormat, StructuredOutputs
from outrider.gateway.fields import keep_supported
from outrider.gateway.messages import Message, NamedTool, Tool, ToolChoice, Turn
from outrider.gateway.validation import Body, first_fault

__all__ = ["ChatBody", "CompletionBody", "GenerationBody", "OutriderOptions", "Prompts", "checked", "validated"]

INT64 = 2**63
MOST_LOGPROBS = 20
DEFAULT_LIMIT = "Largest number of tokens to generate; without it 256, or less where context or budget leave less."
DAY_MS = 86_400_000

Prompts = tuple[str, ...] | tuple[tuple[int, ...], ...]
"""One prompt or a batch of them, as texts or as token ids."""


def _stops(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _prompts(value: object) -> object:
    """One prompt is a batch of one: text, token ids, or a list of either."""
    one = isinstance(value, str) or (isinstance(value, list) and type(value[:1] and value[0]) is int)
    batch = [value] if one else value
    if not isinstance(batch, list) or not batch or batch == [[]]:
        wanted = "must not be empty" if isinstance(batch, list) else _PROMPT
        raise PydanticCustomError("outrider", wanted)
    if all(isinstance(each, str) for each in batch):
        return tuple(batch)
    for each in batch:
        if not isinstance(each, list) or not each or not all(type(token) is int for token in each):
            raise PydanticCustomError("outrider", _PROMPT)
    return tuple(map(tuple, batch))


_PROMPT = "must be a text, a list of token ids, or a list of texts or of such lists, none of them empty"


class OutriderOptions(Body):
    """What a tenant may ask of one request; headers carry the same fields."""

    ttft_ms: Annotated[float, Field(gt=0, le=DAY_MS)] | None = None
    tpot_ms: Annotated[float, Field(gt=0, le=DAY_MS)] | None = None
    deadline_ms: Annotated[float, Field(gt=0, le=DAY_MS)] | None = None
    max_cost_usd: Annotated[float, Field(gt=0, le=1e6)] | None = None
    quality: Annotated[float, Field(ge=0, le=1)] | None = None
    workflow: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    tags: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=16)] = Field(
        default_factory=list
    )


class StreamOptions(Body):
    """What a stream carries besides text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: Literal[False] | None = None


class GenerationBody(Body):
    """What both endpoints share."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description=DEFAULT_LIMIT)
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    n: Annotated[int, Field(ge=1)] = 1
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=INT64, description="0 and -1 keep all.")] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[
        dict[Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,17})$")], Annotated[float, Field(ge=-100, le=100)]],
        Field(max_length=1024),
    ] = Field(default_factory=dict)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1024)]],
        Field(max_length=4),
        BeforeValidator(_stops, json_schema_input_type=str | list[str]),
    ] = Field(default_factory=list)
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] = Field(default_factory=list)
    ignore_eos: bool = False
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    service_tier: (
        Annotated[
            str, Field(max_length=64, description="Echoed with the tier that the policy gives you; it chooses nothing.")
        ]
        | None
    ) = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    outrider: OutriderOptions = OutriderOptions()

    @property
    def output_limit(self) -> int | None:
        """The largest number of tokens the tenant wants; None leaves it to the platform."""
        return self.max_completion_tokens or self.max_tokens


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=4096)]
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] = 0
    tools: Annotated[list[Tool], Field(max_length=128)] = Field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: Annotated[
        Prompts, BeforeValidator(_prompts, json_schema_input_type=str | list[int] | list[str] | list[list[int]])
    ]
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    echo: bool = False


BodyT = TypeVar("BodyT", bound=Body)
GenerationT = TypeVar("GenerationT", bound=GenerationBody)
NESTED: Mapping[str, type[BaseModel]] = {
    "messages": Message,
    "outrider": OutriderOptions,
    "response_format": ResponseFormat,
    "stream_options": StreamOptions,
    "structured_outputs": StructuredOutputs,
    "tools": Tool,
}


def checked(kind: type[BodyT], body: Mapping[str, Any]) -> BodyT:
    """The body as `kind`, each field by itself. Raises as `validated` does."""
    try:
        return kind.model_validate(keep_supported(body, kind.model_fields))
    except ValidationError as error:
        raise first_fault(error, NESTED) from None


def validated(kind: type[GenerationT], body: Mapping[str, Any]) -> GenerationT:
    """The body as `kind`. Raises InvalidRequest or UnsupportedParameter naming the first field at fault.

    Fields that contradict each other are a fault.
    """
    made = checked(kind, body)
    _refuse_contradictions(made)
    if isinstance(made, ChatBody):
        _refuse_tool_contradictions(made)
    return made


def _refuse_contradictions(body: GenerationBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true", param="stream_options")
    if len({body.max_tokens, body.max_completion_tokens} - {None}) > 1:
        raise InvalidRequest("'max_tokens' and 'max_completion_tokens' disagree; send one", param="max_tokens")
    if body.output_limit is not None and body.min_tokens > body.output_limit:
        raise InvalidRequest(f"'min_tokens' is beyond the output limit of {body.output_limit}", param="min_tokens")
    if isinstance(body, ChatBody) and body.top_logprobs and not body.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true", param="top_logprobs")


def _refuse_tool_contradictions(body: ChatBody) -> None:
    choice, names = body.tool_choice, [tool.function.name for tool in body.tools]
    if choice not in (None, "none", "auto") and not names:
        raise InvalidRequest("'tool_choice' needs 'tools'", param="tool_choice")
    if len(set(names)) < len(names):
        raise InvalidRequest("'tools': two functions have the same name", param="tools")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise InvalidRequest("'tool_choice' names a function that 'tools' does not have", param="tool_choice")
    constrained = {
        "response_format": body.response_format is not None and body.response_format.type != "text",
        "structured_outputs": body.structured_outputs is not None,
    }
    for field in (name for name, asked in constrained.items() if asked and names and choice != "none"):
        raise InvalidRequest(f"'{field}' leaves no room for a call: set 'tool_choice' to 'none'", param=field)
