"""Held-out prompts, tokenised with the target's own template, domains taking turns."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from outrider import demo_models
from outrider.errors import ConfigurationError
from outrider.text import TextModel

__all__ = ["Prompt", "held_out_prompts", "mixed"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation no demo model was trained on, up to where the answer begins."""

    domain: str
    messages: tuple[dict[str, str], ...]
    tokens: tuple[int, ...]


def held_out_prompts(target: Path, count: int | None, *, max_tokens: int, file: Path | None = None) -> list[Prompt]:
    """The first `count` prompts (all, when None) that leave room for `max_tokens` in the target's context.

    Domains alternate, so that every prefix of the list is mixed. `file` replaces the shipped JSON lines of
    {domain, messages, …}. Raises ConfigurationError when there is no usable prompt.
    """
    text = TextModel.load(target)
    prompts = []
    for item in _items(file):
        tokens = tuple(text.encode_chat(item["messages"]))
        if len(tokens) + max_tokens <= text.context_tokens:
            prompts.append(Prompt(str(item["domain"]), tuple(item["messages"]), tokens))
    chosen = mixed(prompts)[:count]
    if not chosen:
        raise ConfigurationError("no held-out prompt leaves room for the requested tokens", param="max_tokens")
    return chosen


def mixed(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The same prompts, one of each domain in turn, domains in the order of their first prompt."""
    by_domain: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_domain.setdefault(prompt.domain, []).append(prompt)
    return [prompt for row in zip_longest(*by_domain.values()) for prompt in row if prompt is not None]


def _items(file: Path | None) -> list[dict[str, Any]]:
    source = "the shipped held-out prompts" if file is None else str(file)
    try:
        if file is None:
            items = list(demo_models.held_out())
        else:
            items = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ConfigurationError(f"{source} cannot be read: {error.strerror}", param="held_out") from error
    except ValueError as error:
        raise ConfigurationError(f"{source} are not JSON lines: {error}", param="held_out") from error
    for place, item in enumerate(items, start=1):
        if not isinstance(item, dict) or not item.get("domain") or not isinstance(item.get("messages"), list):
            raise ConfigurationError(f"{source}, line {place}: a domain and messages are needed", param="held_out")
    return items
