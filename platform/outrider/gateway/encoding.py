"""Prompts as token ids, for every model that could serve them, and what only a model's text side can check."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from outrider.errors import InvalidRequest, UnsupportedParameter
from outrider.gateway.asks import Ask, Conversation, Prompt
from outrider.gateway.constraints import json_schema
from outrider.policy import AUTO, Tenant
from outrider.text import TextModel, check_constraint
from outrider.types import Constraint

__all__ = ["Encoded", "constraint_for", "one_tokenizer", "open_texts", "tokenise"]

Encoded = tuple[tuple[int, ...], ...]
"""Token ids of each prompt of a request."""

INLINE_CHARACTERS = 4096
"""Up to here a prompt is tokenised on the event loop (about a millisecond); a longer one goes to a thread."""
TOOL_CHARACTERS = 1024
"""What a tool is taken to add to a prompt."""


def open_texts(model: str, tenant: Tenant, texts: Mapping[str, TextModel]) -> dict[str, TextModel]:
    """The models a request may mean. Those a tenant may not use are refused by the router, which says why."""
    names = tenant.models if model == AUTO else (model,)
    return {name: texts[name] for name in names if name in texts}


def one_tokenizer(texts: Iterable[TextModel]) -> None:
    """Raises InvalidRequest where the models have several tokenizers, and so no meaning of a token id in common."""
    if len({text.fingerprint for text in texts}) > 1:
        raise InvalidRequest("token ids belong to one tokenizer: name a model instead of 'auto'", param="model")


async def tokenise(ask: Ask, tenant: Tenant, texts: Mapping[str, TextModel]) -> dict[str, Encoded]:
    """The prompts' token ids by model that could serve them.

    Raises InvalidRequest for ids that mean nothing there and for a constraint that nothing meets, UnsupportedParameter
    for tools that no such model knows.
    """
    open_ = _that_know_tools(ask, _that_chat(ask, open_texts(ask.model, tenant, texts)))
    _check_ids("logit_bias", [token for token, _ in ask.sampling.logit_bias], open_)
    _check_ids("stop_token_ids", ask.sampling.stop_token_ids, open_)
    _check_ids("prompt", [token for prompt in ask.prompts if isinstance(prompt, tuple) for token in prompt], open_)
    encoded: dict[str, Encoded] = {}
    for text in open_.values():
        if text.fingerprint not in encoded:
            await _check_constraint(ask, text)
            encoded[text.fingerprint] = await _encode(text, ask.prompts)
    if not all(map(all, encoded.values())):
        raise InvalidRequest(f"'{ask.prompt_field}' holds no tokens", param=ask.prompt_field)
    return {name: encoded[text.fingerprint] for name, text in open_.items()}


def constraint_for(ask: Ask, text: TextModel) -> Constraint | None:
    """What the answer must match: the tenant's own constraint, or the calls that must follow the template's opening."""
    tools = ask.tools
    form = text.tool_format if tools and tools.forced else None
    if tools is None or form is None:
        return ask.sampling.constraint
    callable_ = [function for function in tools.functions if function["name"] in tools.forced]
    return json_schema(form.schema(callable_, parallel=tools.parallel))


async def _check_constraint(ask: Ask, text: TextModel) -> None:
    """Compiling may take long, and the engine would refuse what does not compile: here no road is taken yet."""
    constraint = constraint_for(ask, text)
    if constraint is None:
        return
    try:
        await asyncio.to_thread(check_constraint, constraint, text)
    except InvalidRequest as error:
        error.param = "tools" if ask.tools else ask.constraint_field
        raise


def _that_chat(ask: Ask, texts: dict[str, TextModel]) -> dict[str, TextModel]:
    """For a conversation, the models with a chat template; all where none has one, and the first then says so."""
    if not isinstance(ask.prompts[0], Conversation):
        return texts
    return {name: text for name, text in texts.items() if text.has_chat_template} or texts


def _that_know_tools(ask: Ask, texts: dict[str, TextModel]) -> dict[str, TextModel]:
    """All of them, if the request has nothing to do with tools."""
    prompt = ask.prompts[0]
    if not isinstance(prompt, Conversation) or not (prompt.tools or prompt.calls):
        return texts
    knowing = {name: text for name, text in texts.items() if text.tool_format is not None}
    if texts and not knowing:
        names, field = " and ".join(texts), "tools" if prompt.tools else "messages"
        raise UnsupportedParameter(
            f"'{field}': the chat template of {names} knows no tool calls, or a format that is not supported here",
            param=field,
        )
    return knowing


def _check_ids(field: str, ids: Iterable[int], texts: Mapping[str, TextModel]) -> None:
    found = set(ids)
    if not found or not texts:
        return
    one_tokenizer(texts.values())
    vocab_size = min(text.vocab_size for text in texts.values())
    if min(found) < 0 or max(found) >= vocab_size:
        raise InvalidRequest(f"'{field}': token ids lie between 0 and {vocab_size - 1}", param=field)


async def _encode(text: TextModel, prompts: tuple[Prompt, ...]) -> Encoded:
    if sum(map(_characters, prompts)) <= INLINE_CHARACTERS:
        return tuple(_ids(text, prompt) for prompt in prompts)
    return await asyncio.to_thread(lambda: tuple(_ids(text, prompt) for prompt in prompts))


def _characters(prompt: Prompt) -> int:
    if not isinstance(prompt, Conversation):
        return len(prompt) if isinstance(prompt, str) else 0
    tools = len(prompt.tools.tools) if prompt.tools else 0
    return sum(len(turn["content"]) for turn in prompt.messages) + TOOL_CHARACTERS * tools


def _ids(text: TextModel, prompt: Prompt) -> tuple[int, ...]:
    if isinstance(prompt, tuple):
        return prompt
    if isinstance(prompt, str):
        return tuple(text.encode(prompt))
    tools = prompt.tools
    form = text.tool_format if tools and tools.forced else None
    opening = form.forced if form else ""
    return tuple(text.encode_chat(prompt.messages, tools.tools if tools else None, opening=opening))
