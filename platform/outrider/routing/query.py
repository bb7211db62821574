"""What the router is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from outrider.policy import Tenant
from outrider.types import Budgets

__all__ = ["RouteQuery"]

NO_BUDGETS = Budgets()


@dataclass(frozen=True, slots=True)
class RouteQuery:
    """One request before it has a road.

    model: a model's name or `auto`. prompt_tokens: length of the prompt by model, since tokenizers differ; of the
    longest one where several came at once, and then batch_tokens is their sum. choices: answers to all of them.
    max_tokens: the tenant's output limit of one answer; None leaves it to context and money. budgets are hard limits.
    domain: what the request is about; the first of the tags that names a domain of a model's measured quality wins.
    success: by model, the probability that its answer to this request is right, where that was estimated.
    cached_tokens: by replica, how much of the prompt it is expected to hold already.
    repeatable: the answer is to be a function of the seed the tenant gave, or there is nothing random in it.
    exploration_seed: decides among equals and whether to explore; equal queries with equal seeds decide equally.
    """

    tenant: Tenant
    model: str
    prompt_tokens: Mapping[str, int]
    max_tokens: int | None = None
    budgets: Budgets = NO_BUDGETS
    workflow: str | None = None
    tags: tuple[str, ...] = ()
    stream: bool = False
    repeatable: bool = False
    choices: int = 1
    batch_tokens: Mapping[str, int] | None = None
    domain: str = "other"
    success: Mapping[str, float] = field(default_factory=dict)
    cached_tokens: Mapping[str, int] = field(default_factory=dict)
    exploration_seed: int = 0

    def paid_prompt_tokens(self, model: str) -> int:
        """Prompt tokens of the whole request: each prompt counts once, however many answers it gets."""
        return (self.batch_tokens or self.prompt_tokens)[model]
