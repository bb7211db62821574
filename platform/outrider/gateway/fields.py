"""Which body fields are known, which mean nothing at a neutral value, and what to say about the others."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from outrider.errors import InvalidRequest, UnsupportedParameter

__all__ = ["IGNORED", "NEUTRAL", "keep_supported"]

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none",),
    "functions": ([],),
    "guided_json": (),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0, 0.0),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0, 0.0),
    "reasoning_effort": (),
    "repetition_penalty": (1, 1.0),
    "response_format": ({"type": "text"},),
    "stop_token_ids": ([],),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_k": (0, -1),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
"""Parameters that clients know and this endpoint does not serve, each with the values that ask for nothing."""

IGNORED = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "store", "user"}
)
"""Fields that tell the provider something about the caller and never change the answer."""


def keep_supported(body: Mapping[str, Any], supported: Iterable[str]) -> dict[str, Any]:
    """The supported, non-null part of a body.

    Raises UnsupportedParameter for a known parameter that asks for something, InvalidRequest for an unknown one.
    """
    known = frozenset(supported)
    kept: dict[str, Any] = {}
    for name, value in body.items():
        if name in known:
            if value is not None:
                kept[name] = value
        elif name in NEUTRAL:
            if value is not None and not _is_neutral(value, NEUTRAL[name]):
                raise UnsupportedParameter(_unsupported(name), param=name)
        elif name not in IGNORED:
            raise InvalidRequest(_unknown(name, known), param=name[:100])
    return kept


def _is_neutral(value: object, neutral: tuple[object, ...]) -> bool:
    """Equality that tells false from 0, which Python and JSON disagree about."""
    return any(type(value) is type(each) and value == each for each in neutral)


def _unsupported(name: str) -> str:
    if name in ("n", "best_of"):
        return f"'{name}' must be 1 for now: send one request per choice"
    return f"'{name}' is not supported by this endpoint; leave it out"


def _unknown(name: str, known: frozenset[str]) -> str:
    close = difflib.get_close_matches(name, [*known, *NEUTRAL, *IGNORED], n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"unknown field '{name[:100]}'{hint}"
