"""What a tenant asks for, the same for both endpoints, with defaults resolved."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from outrider.gateway.budgets import merge_headers, to_budgets
from outrider.gateway.schema import ChatBody, CompletionBody, GenerationBody, validated
from outrider.types import Budgets

__all__ = ["Ask", "Conversation", "Endpoint", "Prompt", "parse_ask"]

Endpoint = Literal["chat", "completions"]
Conversation = list[dict[str, str]]
Prompt = Conversation | str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """One validated request. max_tokens None leaves the limit to the platform; `seed` is always resolved."""

    endpoint: Endpoint
    model: str
    prompt: Prompt
    max_tokens: int | None
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    seed: int
    ignore_eos: bool
    stream: bool
    include_usage: bool
    continuous_usage: bool
    budgets: Budgets
    workflow: str | None
    tags: tuple[str, ...]

    @property
    def prompt_field(self) -> str:
        """The body field an error about the prompt names."""
        return "messages" if self.endpoint == "chat" else "prompt"


def parse_ask(endpoint: Endpoint, body: Mapping[str, Any], headers: Mapping[str, str]) -> Ask:
    """Body and headers to an ask. Raises InvalidRequest or UnsupportedParameter naming field or header."""
    if endpoint == "chat":
        chat = validated(ChatBody, body)
        return _ask(endpoint, chat, chat.conversation(), headers)
    completion = validated(CompletionBody, body)
    return _ask(endpoint, completion, completion.prompt, headers)


def _ask(endpoint: Endpoint, body: GenerationBody, prompt: Prompt, headers: Mapping[str, str]) -> Ask:
    options = merge_headers(body.outrider, headers)
    return Ask(
        endpoint=endpoint,
        model=body.model,
        prompt=prompt,
        max_tokens=body.output_limit,
        temperature=float(body.temperature),
        top_p=float(body.top_p),
        stop=tuple(body.stop),
        seed=secrets.randbits(63) if body.seed is None else body.seed,
        ignore_eos=body.ignore_eos,
        stream=body.stream,
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
        continuous_usage=body.stream_options is not None and body.stream_options.continuous_usage_stats,
        budgets=to_budgets(options),
        workflow=options.workflow,
        tags=tuple(options.tags),
    )
