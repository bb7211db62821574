"""From a validated ask to a routed request: tokenise for every open model, decide, draw up the engine's request."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace

from outrider.errors import ContextLengthExceeded, InvalidRequest
from outrider.gateway.asks import Ask, Conversation
from outrider.policy import AUTO, ModelPolicy, Policy, Tenant
from outrider.routing import RouteQuery, decide
from outrider.text import TextModel
from outrider.types import Decision, GenerationRequest, LoadSnapshot, SamplingParams

__all__ = ["Admission", "engine_request", "new_decision_id", "route", "tokenise"]

INLINE_CHARACTERS = 4096
"""Up to here a prompt is tokenised on the event loop (about a millisecond); a longer one goes to a thread."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that has a road: everything its life needs, fixed when the router spoke.

    received_s is monotonic, time_s is wall clock; both are of arrival. price is the policy's at that time.
    """

    ask: Ask
    tenant: Tenant
    decision: Decision
    request: GenerationRequest
    text: TextModel
    price: ModelPolicy
    request_id: str
    received_s: float
    time_s: float


def new_decision_id() -> str:
    """Unique, and short enough to read out."""
    return f"dec-{uuid.uuid4().hex[:24]}"


async def tokenise(ask: Ask, tenant: Tenant, texts: Mapping[str, TextModel]) -> dict[str, tuple[int, ...]]:
    """The prompt's token ids by model that could serve it. Raises InvalidRequest for ids that mean nothing there."""
    names = tenant.models if ask.model == AUTO else (ask.model,)
    open_ = {name: texts[name] for name in names if name in texts}
    if isinstance(ask.prompt, tuple):
        _check_ids(ask.prompt, open_)
        return dict.fromkeys(open_, ask.prompt)
    encoded: dict[str, tuple[int, ...]] = {}
    for text in open_.values():
        if text.fingerprint not in encoded:
            encoded[text.fingerprint] = await _encode(text, ask.prompt)
    if not all(encoded.values()):
        raise InvalidRequest(f"'{ask.prompt_field}' holds no tokens", param=ask.prompt_field)
    return {name: encoded[text.fingerprint] for name, text in open_.items()}


def route(
    ask: Ask,
    tenant: Tenant,
    prompts: Mapping[str, tuple[int, ...]],
    loads: Mapping[str, LoadSnapshot],
    policy: Policy,
    *,
    now_s: float,
    decision_id: str,
    default_max_tokens: int,
) -> Decision:
    """The router's decision, with the platform's output limit where the tenant named none."""
    query = RouteQuery(
        tenant=tenant,
        model=ask.model,
        prompt_tokens={name: len(ids) for name, ids in prompts.items()},
        max_tokens=ask.max_tokens,
        budgets=ask.budgets,
        workflow=ask.workflow,
        tags=ask.tags,
        stream=ask.stream,
    )
    try:
        decision = decide(query, loads, policy, now_s=now_s, decision_id=decision_id)
    except ContextLengthExceeded as error:
        error.param = ask.prompt_field
        raise
    if ask.max_tokens is None and decision.max_tokens > default_max_tokens:
        return replace(decision, max_tokens=default_max_tokens, limited_by_cost=False)
    return decision


def engine_request(ask: Ask, decision: Decision, prompt: tuple[int, ...]) -> GenerationRequest:
    """The engine's request; its id is the decision's, because a client may repeat its own."""
    return GenerationRequest(
        request_id=decision.decision_id,
        prompt_token_ids=prompt,
        sampling=SamplingParams(
            max_tokens=decision.max_tokens,
            temperature=ask.temperature,
            top_p=ask.top_p,
            seed=ask.seed,
            ignore_eos=ask.ignore_eos,
        ),
        batch_class=decision.batch_class,
        depth_cap=decision.depth_cap,
        tpot_target_s=decision.tpot_target_s,
    )


def _check_ids(ids: tuple[int, ...], texts: Mapping[str, TextModel]) -> None:
    if len({text.fingerprint for text in texts.values()}) > 1:
        raise InvalidRequest("token ids belong to one tokenizer: name a model instead of 'auto'", param="model")
    vocab_size = min((text.vocab_size for text in texts.values()), default=0)
    if texts and not all(0 <= token < vocab_size for token in ids):
        raise InvalidRequest(f"'prompt': token ids lie between 0 and {vocab_size - 1}", param="prompt")


async def _encode(text: TextModel, prompt: Conversation | str) -> tuple[int, ...]:
    size = len(prompt) if isinstance(prompt, str) else sum(len(turn["content"]) for turn in prompt)
    if size <= INLINE_CHARACTERS:
        return _encode_now(text, prompt)
    return await asyncio.to_thread(_encode_now, text, prompt)


def _encode_now(text: TextModel, prompt: Conversation | str) -> tuple[int, ...]:
    return tuple(text.encode(prompt) if isinstance(prompt, str) else text.encode_chat(prompt))
