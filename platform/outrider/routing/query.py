"""What the router is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from outrider.policy import Tenant
from outrider.types import Budgets

__all__ = ["RouteQuery"]

NO_BUDGETS = Budgets()


@dataclass(frozen=True, slots=True)
class RouteQuery:
    """One request before it has a road.

    model: a model's name or `auto`. prompt_tokens: length of the prompt by model, since tokenizers differ.
    max_tokens: the tenant's output limit; None leaves it to context and money. budgets are hard limits.
    tags: the first one that names a domain of a model's measured quality is the request's domain.
    """

    tenant: Tenant
    model: str
    prompt_tokens: Mapping[str, int]
    max_tokens: int | None = None
    budgets: Budgets = NO_BUDGETS
    workflow: str | None = None
    tags: tuple[str, ...] = ()
    stream: bool = False
