"""Which body fields are known, which mean nothing at a neutral value, and what to say about the others."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from outrider.errors import InvalidRequest, UnsupportedParameter

__all__ = ["IGNORED", "NEUTRAL", "keep_supported"]

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "audio": (),
    "best_of": (1,),
    "continue_final_message": (False,),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "prompt_logprobs": (),
    "reasoning_effort": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
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


INSTEAD: Mapping[str, str] = {
    "best_of": "send 'n' and choose among the answers",
    "functions": "send 'tools'",
    "function_call": "send 'tool_choice'",
    "guided_json": "send 'structured_outputs': {'json': …}",
    "guided_regex": "send 'structured_outputs': {'regex': …}",
    "prompt_logprobs": "send 'echo' and 'logprobs' to /v1/completions",
}


def _unsupported(name: str) -> str:
    return f"'{name}' is not supported by this endpoint; {INSTEAD.get(name, 'leave it out')}"


def _unknown(name: str, known: frozenset[str]) -> str:
    close = difflib.get_close_matches(name, [*known, *NEUTRAL, *IGNORED], n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"unknown field '{name[:100]}'{hint}"
