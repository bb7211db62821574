"""Any load and any request: what a decision may never do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.errors import OutriderError
from outrider.policy import Policy, Tenant, load_policy
from outrider.routing import Axes, Corrections, Fleet, Prediction, RouteQuery, Spread, decide, predict, records
from outrider.types import BatchClass, Budgets, Decision, LoadSnapshot

POLICY: Policy = load_policy(Path(__file__).resolve().parents[2] / "policies/default.yaml")
MODELS = tuple(POLICY.models)
NOW_S = 1000.0


@st.composite
def curves(draw: st.DrawFn) -> tuple[tuple[int, float], ...]:
    """Ascending sizes, times that do not fall."""
    sizes = sorted(draw(st.sets(st.integers(1, 600), min_size=2, max_size=8)))
    steps = draw(st.lists(st.floats(0, 0.05), min_size=len(sizes), max_size=len(sizes)))
    return tuple(zip(sizes, (np.cumsum(steps) + 1e-3).tolist(), strict=True))


@st.composite
def snapshots(draw: st.DrawFn, model: str = "flash") -> LoadSnapshot:
    gains = draw(st.lists(st.floats(0, 1), max_size=7))
    return LoadSnapshot(
        model=model,
        replica=f"{model}-0",
        epoch=1,
        time_s=NOW_S - draw(st.sampled_from([-1.0, 0.0, 0.0, 0.1, 30.0])),
        queued_requests=draw(st.integers(0, 40)),
        queued_tokens=draw(st.integers(0, 20_000)),
        running_requests=draw(st.integers(0, 64)),
        step_curve=draw(curves()),
        draft_s=draw(st.floats(0, 0.05)),
        round_s=draw(st.floats(0, 0.5)),
        acceptance_tokens=(1.0, *(1.0 + np.cumsum(gains)).tolist()),
        drafter_ready=draw(st.booleans()),
        context_tokens=draw(st.sampled_from([100, 1000, 4000, 4000])),
        max_running_requests=draw(st.integers(0, 32)),
    )


def rarely(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """None three times out of four: a request with every limit set is hardly ever feasible."""
    return st.sampled_from([None, None, None, strategy]).flatmap(lambda each: st.none() if each is None else each)


@st.composite
def queries(draw: st.DrawFn) -> RouteQuery:
    limit, money = rarely(st.floats(0.01, 30.0)), rarely(st.floats(1e-5, 1e-2))
    budgets = Budgets(draw(limit), draw(limit), draw(limit), draw(money), draw(rarely(st.floats(0, 1))))
    tier = draw(st.sampled_from(sorted(POLICY.tiers)))
    tenant = Tenant(
        name="t",
        tier=POLICY.tiers[tier],
        models=tuple(draw(st.permutations(MODELS))[: draw(st.integers(1, len(MODELS)))]),
        max_depth=draw(st.integers(0, 9)),
        max_cost_usd_per_request=draw(money),
        objective=draw(st.sampled_from(["cheapest", "fastest", "best_quality", "balanced"])),
    )
    return RouteQuery(
        tenant=tenant,
        model=draw(st.sampled_from(["auto", "auto", "auto", *MODELS])),
        prompt_tokens={model: draw(st.integers(1, 500)) for model in MODELS},
        max_tokens=draw(rarely(st.integers(1, 1000))),
        budgets=budgets,
        tags=draw(st.sampled_from([(), ("code",), ("x", "maths")])),
    )


@st.composite
def ready_or_not(draw: st.DrawFn, model: str) -> LoadSnapshot | None:
    snapshot = draw(snapshots(model))
    return draw(st.sampled_from([snapshot, snapshot, snapshot, None]))


loads = st.fixed_dictionaries({model: ready_or_not(model) for model in MODELS})


def decided(query: RouteQuery, load: dict[str, LoadSnapshot | None]) -> Decision | None:
    """A decision, or None for a refusal that a tenant can act on."""
    try:
        loads = {name: [] if each is None else [each] for name, each in load.items()}
        return decide(query, loads, POLICY, now_s=NOW_S, decision_id="d")
    except OutriderError as error:
        refusal = error
    assert refusal.status in (400, 403, 429, 503)
    assert refusal.message
    return None


@settings(max_examples=300, deadline=None)
@given(queries(), loads)
def test_a_winner_keeps_every_hard_limit_and_cap(query: RouteQuery, load: dict[str, LoadSnapshot | None]) -> None:
    decision = decided(query, load)
    if decision is None:
        return
    snapshot, model, tenant = load[decision.model], POLICY.models[decision.model], query.tenant
    assert snapshot is not None
    assert decision.model in tenant.models
    assert query.model in ("auto", decision.model)
    assert 0 <= decision.depth_cap <= (min(tenant.max_depth, 7) if snapshot.drafter_ready else 0)
    assert decision.batch_class in tenant.tier.batch_classes
    prompt = query.prompt_tokens[decision.model]
    assert 1 <= decision.max_tokens <= (query.max_tokens or snapshot.context_tokens)
    assert prompt + decision.max_tokens <= snapshot.context_tokens
    for money in (query.budgets.max_cost_usd, tenant.max_cost_usd_per_request):
        assert money is None or model.cost_usd(prompt, decision.max_tokens) <= money * (1 + 1e-6)
    assert query.budgets.quality is None or model.quality_for(query.tags) >= query.budgets.quality
    winner = records(decision.candidates)[0]
    for name, limit in (
        ("ttft_s", query.budgets.ttft_s),
        ("tpot_s", query.budgets.tpot_s),
        ("e2e_s", query.budgets.deadline_s),
    ):
        assert limit is None or number(winner[name]) <= limit * (1 + 1e-6)


def number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


@settings(max_examples=300, deadline=None)
@given(queries(), loads)
def test_a_winner_is_not_beaten_in_everything(query: RouteQuery, load: dict[str, LoadSnapshot | None]) -> None:
    decision = decided(query, load)
    if decision is None:
        return
    winner, *others = (record for record in records(decision.candidates) if record["feasible"])

    def merits(record: dict[str, object]) -> list[float]:
        times = [f"quantile_{name}" for name in ("ttft_s", "tpot_s", "e2e_s")]
        return [*(number(record[name]) for name in (*times, "cost_usd")), -number(record["quality"])]

    for other in others:
        pairs = list(zip(merits(other), merits(winner), strict=True))
        clearly_better = any(theirs < ours - 0.035 * abs(ours) for theirs, ours in pairs)
        assert not (clearly_better and all(theirs <= ours for theirs, ours in pairs)), (winner, other)


@settings(max_examples=200, deadline=None)
@given(queries(), loads)
def test_decisions_are_repeatable_and_finite(query: RouteQuery, load: dict[str, LoadSnapshot | None]) -> None:
    decision = decided(query, load)
    assert decision == decided(query, dict(reversed(load.items())))
    if decision is not None:
        times = (decision.predicted_ttft_s, decision.predicted_tpot_s, decision.predicted_cost_usd)
        assert all(np.isfinite(each) and each >= 0 for each in times)
        assert sum(bool(record["feasible"]) for record in records(decision.candidates)) >= 1


AXES = Axes.of(
    (0, 1, 3, 7),
    [
        BatchClass("a"),
        BatchClass("b", prefill_share=1.0, admission_wait_s=0.01),
        BatchClass("c", prefill_share=0.25, co_batch_tokens=16),
    ],
)


def foretold(load: LoadSnapshot, prompt_tokens: int, output_tokens: int) -> Prediction:
    return predict(Fleet.of([load]), AXES, np.array([prompt_tokens]), np.array([output_tokens]))


growth: dict[str, st.SearchStrategy[Any]] = {
    "queued_requests": st.integers(0, 20),
    "queued_tokens": st.integers(0, 5000),
    "running_requests": st.integers(0, 20),
}


@settings(max_examples=400, deadline=None)
@given(snapshots(), st.fixed_dictionaries(growth), st.integers(1, 3000), st.integers(1, 500))
def test_more_load_never_lowers_the_predicted_ttft(
    snapshot: LoadSnapshot, more: dict[str, int], prompt_tokens: int, output_tokens: int
) -> None:
    heavier = dataclasses.replace(snapshot, **{name: getattr(snapshot, name) + extra for name, extra in more.items()})
    light = foretold(snapshot, prompt_tokens, output_tokens)
    heavy = foretold(heavier, prompt_tokens, output_tokens)
    company = heavier.running_requests > 0 and snapshot.running_requests == 0
    spared_s = AXES.wait_s[:, None] if company else 0.0  # who finds others running does not wait for company
    assert (heavy.ttft_s + spared_s >= light.ttft_s * (1 - 1e-9)).all()


def test_the_load_test_can_fail() -> None:
    """A queue that takes time off must be caught."""
    base = LoadSnapshot("flash", "r", 1, NOW_S, step_curve=((1, 0.1), (2, 0.2)), context_tokens=100)
    light = foretold(dataclasses.replace(base, queued_tokens=500), 10, 10)
    heavy = foretold(base, 10, 10)
    with pytest.raises(AssertionError):
        assert (heavy.ttft_s >= light.ttft_s * (1 - 1e-9)).all()


Recorded = tuple[RouteQuery, dict[str, LoadSnapshot | None], Corrections]


@settings(max_examples=150, deadline=None)
@given(queries(), loads, st.floats(-1.0, 1.0))
def test_explain_replays_decide(query: RouteQuery, load: dict[str, LoadSnapshot | None], shift: float) -> None:
    """From what was recorded as JSON the same decision is made again."""
    recorded = msgspec.json.encode((query, load, learnt(shift)))
    assert taught(*msgspec.json.decode(recorded, type=Recorded)) == taught(query, load, learnt(shift))


@settings(max_examples=50, deadline=None)
@given(queries(), loads)
def test_the_replay_test_can_fail(query: RouteQuery, load: dict[str, LoadSnapshot | None]) -> None:
    """Negative control: replayed from another state of the predictor, what was decided is not the same."""
    first = taught(query, load, learnt(0.0))
    if first is not None:
        assert taught(query, load, learnt(0.5)) != first


def learnt(shift: float) -> Corrections:
    spreads = {model: Spread(shift, shift + 0.3) for model in MODELS}
    return Corrections("p16", spreads, spreads)


def taught(query: RouteQuery, load: dict[str, LoadSnapshot | None], state: Corrections) -> Decision | None:
    found = {name: [] if each is None else [each] for name, each in load.items()}
    try:
        return decide(query, found, POLICY, now_s=NOW_S, decision_id="d", predictor=state)
    except OutriderError:
        return None
