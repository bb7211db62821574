"""What a tenant asks for, the same for both endpoints, with defaults resolved."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from outrider.gateway.budgets import merge_headers, to_budgets
from outrider.gateway.constraints import answer_constraint
from outrider.gateway.messages import NamedTool, conversation
from outrider.gateway.schema import ChatBody, CompletionBody, GenerationBody, validated
from outrider.quality import prompt_text
from outrider.types import Budgets, SamplingParams

__all__ = ["Ask", "Conversation", "Endpoint", "Prompt", "ToolAsk", "parse_ask"]

Endpoint = Literal["chat", "completions"]


@dataclass(frozen=True, slots=True)
class ToolAsk:
    """The tools a model may use. forced: those one of which it must call; parallel: more than one call is welcome."""

    tools: tuple[dict[str, Any], ...]
    forced: tuple[str, ...] = ()
    parallel: bool = True

    @property
    def functions(self) -> list[dict[str, Any]]:
        return [tool["function"] for tool in self.tools]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages as chat templates know them. calls: whether tools were called or answered in them."""

    messages: tuple[dict[str, Any], ...]
    tools: ToolAsk | None = None

    @property
    def calls(self) -> bool:
        return any("tool_calls" in turn or turn["role"] == "tool" for turn in self.messages)


Prompt = Conversation | str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """One validated request: n choices for each of its prompts.

    max_tokens None leaves the limit to the platform. sampling holds everything else, its seed resolved; max_tokens
    there is not yet known. seeded: the tenant gave that seed. tell_tier: whether the answer names its service tier.
    constraint_field: the body field that an error about
    its constraint names.
    """

    endpoint: Endpoint
    model: str
    prompts: tuple[Prompt, ...]
    n: int
    max_tokens: int | None
    sampling: SamplingParams
    seeded: bool
    constraint_field: str
    stop: tuple[str, ...]
    echo: bool
    stream: bool
    include_usage: bool
    continuous_usage: bool
    tell_tier: bool
    budgets: Budgets
    workflow: str | None
    tags: tuple[str, ...]

    @property
    def choices(self) -> int:
        """How many answers: n for each prompt."""
        return self.n * len(self.prompts)

    @property
    def prompt_text(self) -> str:
        """What says what the request is about: the user's last message, or the first prompt; '' of token ids."""
        first = self.prompts[0]
        if isinstance(first, Conversation):
            return prompt_text(first.messages)
        return first if isinstance(first, str) else ""

    @property
    def prompt_field(self) -> str:
        """The body field an error about the prompt names."""
        return "messages" if self.endpoint == "chat" else "prompt"

    @property
    def tools(self) -> ToolAsk | None:
        first = self.prompts[0]
        return first.tools if isinstance(first, Conversation) else None


def parse_ask(endpoint: Endpoint, body: Mapping[str, Any], headers: Mapping[str, str]) -> Ask:
    """Body and headers to an ask. Raises InvalidRequest or UnsupportedParameter naming field or header."""
    if endpoint == "chat":
        chat = validated(ChatBody, body)
        prompt = Conversation(tuple(conversation(chat.messages)), _tools(chat))
        return _ask(endpoint, chat, (prompt,), headers, chat.top_logprobs if chat.logprobs else None)
    completion = validated(CompletionBody, body)
    return _ask(endpoint, completion, completion.prompt, headers, completion.logprobs, echo=completion.echo)


def _ask(
    endpoint: Endpoint,
    body: GenerationBody,
    prompts: tuple[Prompt, ...],
    headers: Mapping[str, str],
    logprobs: int | None,
    *,
    echo: bool = False,
) -> Ask:
    options = merge_headers(body.outrider, headers)
    field = "response_format" if body.structured_outputs is None else "structured_outputs"
    return Ask(
        endpoint=endpoint,
        model=body.model,
        prompts=prompts,
        n=body.n,
        max_tokens=body.output_limit,
        sampling=replace(_sampling(body), logprobs=logprobs, prompt_logprobs=logprobs if echo else None),
        seeded=body.seed is not None,
        constraint_field=field,
        stop=tuple(body.stop),
        echo=echo,
        stream=body.stream,
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
        continuous_usage=body.stream_options is not None and body.stream_options.continuous_usage_stats,
        tell_tier=body.service_tier is not None,
        budgets=to_budgets(options),
        workflow=options.workflow,
        tags=tuple(options.tags),
    )


def _sampling(body: GenerationBody) -> SamplingParams:
    return SamplingParams(
        max_tokens=body.output_limit or 0,
        temperature=float(body.temperature),
        top_p=float(body.top_p),
        seed=secrets.randbits(63) if body.seed is None else body.seed,
        ignore_eos=body.ignore_eos,
        stop_token_ids=tuple(dict.fromkeys(body.stop_token_ids)),
        top_k=max(0, body.top_k),
        min_p=float(body.min_p),
        repetition_penalty=float(body.repetition_penalty),
        presence_penalty=float(body.presence_penalty),
        frequency_penalty=float(body.frequency_penalty),
        logit_bias=tuple((int(token), float(bias)) for token, bias in body.logit_bias.items()),
        min_tokens=body.min_tokens,
        constraint=answer_constraint(body.response_format, body.structured_outputs),
    )


def _tools(chat: ChatBody) -> ToolAsk | None:
    """None where there are none, or none may be used: then the model does not hear of them either."""
    if not chat.tools or chat.tool_choice == "none":
        return None
    tools = tuple(tool.described() for tool in chat.tools)
    names = tuple(tool.function.name for tool in chat.tools)
    match chat.tool_choice:
        case NamedTool():
            return ToolAsk(tools, (chat.tool_choice.function.name,), parallel=False)
        case "required":
            return ToolAsk(tools, names, chat.parallel_tool_calls)
        case _:
            return ToolAsk(tools, (), chat.parallel_tool_calls)
