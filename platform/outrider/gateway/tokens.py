"""`/tokenize` and `/detokenize`, in vLLM's shape: what a model's tokenizer makes of a text, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from outrider.errors import InvalidRequest, NotReady
from outrider.gateway.encoding import INLINE_CHARACTERS, one_tokenizer
from outrider.gateway.messages import Tool, Turn, conversation
from outrider.gateway.validation import Body
from outrider.policy import Policy, Tenant
from outrider.routing import RouteQuery, granted_models
from outrider.text import TextModel

__all__ = ["DetokenizeBody", "TokenizeBody", "detokenized", "tokenized"]


class TokenizeBody(Body):
    """POST /tokenize: a prompt or a conversation."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    prompt: str | None = None
    messages: Annotated[list[Turn], Field(min_length=1, max_length=4096)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] = Field(default_factory=list)
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    tokens: list[Annotated[int, Field(ge=0)]]


async def tokenized(body: TokenizeBody, tenant: Tenant, policy: Policy, texts: Mapping[str, TextModel]) -> object:
    """The answer to `/tokenize`. Raises InvalidRequest, and what the router says of a model it does not grant."""
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("send either 'prompt' or 'messages'", param="prompt")
    found = _texts(body.model, tenant, policy, texts)
    text = found[0]
    if sum(len(turn.content or "") for turn in body.messages or ()) + len(body.prompt or "") > INLINE_CHARACTERS:
        ids = await asyncio.to_thread(_ids, body, text)
    else:
        ids = _ids(body, text)
    return {
        "count": len(ids),
        "max_model_len": min(each.context_tokens for each in found),
        "tokens": ids,
        "token_strs": [text.token_text(i).decode("utf-8", "replace") for i in ids] if body.return_token_strs else None,
    }


def detokenized(body: DetokenizeBody, tenant: Tenant, policy: Policy, texts: Mapping[str, TextModel]) -> object:
    """The answer to `/detokenize`, special tokens by their names. Raises as `tokenized` does."""
    text = _texts(body.model, tenant, policy, texts)[0]
    if any(token >= text.vocab_size for token in body.tokens):
        raise InvalidRequest(f"'tokens': token ids lie between 0 and {text.vocab_size - 1}", param="tokens")
    return {"prompt": text.decode(body.tokens, special=True)}


def _ids(body: TokenizeBody, text: TextModel) -> list[int]:
    if body.messages is None:
        return text.encode(body.prompt or "", add_special_tokens=body.add_special_tokens is not False)
    tools = [tool.described() for tool in body.tools]
    return text.encode_chat(conversation(body.messages), tools, generation_prompt=body.add_generation_prompt)


def _texts(model: str, tenant: Tenant, policy: Policy, texts: Mapping[str, TextModel]) -> list[TextModel]:
    """Of the models that the name may mean, which agree on what a token is."""
    names = granted_models(RouteQuery(tenant, model, {}), policy)
    found = [texts[name] for name in names if name in texts]
    if not found:
        raise NotReady(f"no model behind this endpoint is called {model[:80]!r}")
    one_tokenizer(found)
    return found
