"""Which models are open to a request at all: granted, ready, long enough, good enough, affordable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from outrider.errors import ModelNotAllowed, ModelNotFound
from outrider.policy import AUTO, ModelPolicy, Policy
from outrider.routing.prediction import Grid, Prediction, predict
from outrider.routing.query import RouteQuery
from outrider.types import BatchClass, LoadSnapshot

__all__ = ["Closed", "Closure", "Road", "granted_models", "survey"]

_MONEY_SLACK = 1e-9  # tokens; a budget that pays for exactly n tokens must not lose one to rounding


class Closed(StrEnum):
    """Why a model is out of the question whatever its load."""

    NOT_READY = "not_ready"
    CONTEXT = "context"
    MONEY = "money"
    QUALITY = "quality"


@dataclass(frozen=True, slots=True)
class Closure:
    """A model that cannot take the request, and the sentence that says why."""

    model: str
    kind: Closed
    why: str


@dataclass(frozen=True, slots=True)
class Road:
    """A model and replica that could take the request, with n candidates of depth cap × batch class on it.

    estimate: predictions from the snapshot as it is; widening ≥ 1: the factor its age puts on them.
    max_tokens: output limit of a choice after context and money. cost_usd: of all, at the expected output length.
    """

    model: ModelPolicy
    snapshot: LoadSnapshot
    grid: Grid
    batch_classes: tuple[BatchClass, ...]
    estimate: Prediction
    widening: float
    age_s: float
    max_tokens: int
    limited_by_cost: bool
    cost_usd: float
    quality: float


def granted_models(query: RouteQuery, policy: Policy) -> tuple[str, ...]:
    """The models to look at. Raises ModelNotFound, ModelNotAllowed."""
    if query.model == AUTO:
        return query.tenant.models
    if query.model not in policy.models:
        known = ", ".join([AUTO, *query.tenant.models])
        raise ModelNotFound(f"the model {query.model[:80]!r} does not exist; yours are {known}", param="model")
    if query.model not in query.tenant.models:
        granted = ", ".join(query.tenant.models)
        raise ModelNotAllowed(f"the model {query.model!r} is not granted to you; yours are {granted}", param="model")
    return (query.model,)


def survey(name: str, query: RouteQuery, snapshot: LoadSnapshot | None, policy: Policy, now_s: float) -> Road | Closure:
    """Look at one model: a road with its candidates predicted, or why it is closed."""
    model = policy.models[name]
    prompt, quality = query.prompt_tokens.get(name), model.quality_for(query.tags)
    if snapshot is None or prompt is None:
        return Closure(name, Closed.NOT_READY, f"no healthy replica of {name} is known")
    if len(snapshot.step_curve) < 2:
        return Closure(name, Closed.NOT_READY, f"{name} has not measured its step costs yet")
    wanted = query.max_tokens
    if prompt + (wanted or 1) > snapshot.context_tokens:
        asked = f"{prompt} prompt tokens" + (f" and max_tokens {wanted}" if wanted else "")
        return Closure(name, Closed.CONTEXT, f"{asked} exceed the {snapshot.context_tokens} of {name}")
    if query.budgets.quality is not None and quality < query.budgets.quality:
        return Closure(name, Closed.QUALITY, f"{name} has quality {quality:g}, below {query.budgets.quality:g}")
    room = wanted if wanted is not None else snapshot.context_tokens - prompt
    paid = query.paid_prompt_tokens(name)
    affordable = _affordable_tokens(model, paid, _money_usd(query), query.choices)
    if affordable < 1:
        need = model.cost_usd(paid, query.choices)
        tokens = "one token" if query.choices == 1 else f"one token of each of {query.choices} choices"
        return Closure(name, Closed.MONEY, f"{name} needs ${need:.8f} for the prompt and {tokens}")
    max_tokens = int(min(room, affordable))
    expected = min(max_tokens, policy.routing.expected_output_tokens)
    grid, batch_classes = _grid(query, snapshot, policy)
    age_s = max(0.0, now_s - snapshot.time_s)
    return Road(
        model=model,
        snapshot=snapshot,
        grid=grid,
        batch_classes=batch_classes,
        estimate=predict(snapshot, grid, paid, expected, query.choices),
        widening=1.0 + policy.routing.staleness_per_s * age_s,
        age_s=age_s,
        max_tokens=max_tokens,
        limited_by_cost=affordable < room,
        cost_usd=model.cost_usd(paid, expected * query.choices),
        quality=quality,
    )


def _money_usd(query: RouteQuery) -> float:
    limits = (query.budgets.max_cost_usd, query.tenant.max_cost_usd_per_request)
    return min((limit for limit in limits if limit is not None), default=math.inf)


def _affordable_tokens(model: ModelPolicy, prompt_tokens: int, money_usd: float, choices: int) -> float:
    """Output tokens of each choice that the money left after the prompt pays for; infinite where output is free."""
    left = money_usd - prompt_tokens * model.input_usd_per_token
    if left < 0:
        return 0.0
    if math.isinf(left) or model.output_usd_per_token == 0:
        return math.inf
    return float(math.floor(left / (choices * model.output_usd_per_token) + _MONEY_SLACK))


def _grid(query: RouteQuery, snapshot: LoadSnapshot, policy: Policy) -> tuple[Grid, tuple[BatchClass, ...]]:
    """Depth caps × batch classes of a replica. Without a drafter there is one depth: 0."""
    bound = query.tenant.max_depth if snapshot.drafter_ready else 0
    caps = sorted({min(cap, bound) for cap in policy.routing.depth_caps})
    classes = query.tenant.tier.batch_classes
    grid = Grid(
        depths=np.tile(np.array(caps, dtype=np.int64), len(classes)),
        co_batch_tokens=np.repeat(np.array([each.co_batch_tokens for each in classes]), len(caps)),
        prefill_share=np.repeat(np.array([each.prefill_share for each in classes]), len(caps)),
        wait_s=np.repeat(np.array([each.admission_wait_s for each in classes]), len(caps)),
    )
    return grid, tuple(each for each in classes for _ in caps)
