"""An engine measures costs that are missing, of another step or wrong, and leaves nothing with the drafter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from outrider.drafter.model import DSparkModel
from outrider.drafter.server import DraftServer
from outrider.engine import Engine, Profile, TargetModel, cost_subject
from outrider.engine.draft_profile import measure_draft
from outrider.errors import CurveError
from outrider.link import DraftBlock, DraftRound, InProcessLink, TargetHello
from outrider.scheduling import CostModel, StepCostCurve
from support.engines import CURVE, prompts, request, run, settings
from support.tiny import TinyPair, make_target

STEPS = StepCostCurve.measured([(1, 0.001), (8, 0.004), (64, 0.03)])


class Witness(DraftServer):
    """A drafter's server that remembers how many requests each round was for."""

    def __init__(self, drafter: Path, name: str = "witness") -> None:
        super().__init__(DSparkModel.load(drafter), name)
        self.asked: list[int] = []

    def handle(self, client: bytes, message: DraftRound, **options: Any) -> DraftBlock:
        self.asked.append(len(message.propose_keys))
        return super().handle(client, message, **options)


def link(engine: Engine, server: DraftServer) -> InProcessLink:
    target = engine.target
    assert target.projection is not None
    return InProcessLink(
        server, TargetHello("tiny", target.vocab_size, target.hidden_size, target.projection.fingerprint)
    )


def opened(pair: TinyPair, *, max_requests: int = 4) -> Engine:
    """An engine whose target's costs were measured, with a compiled step not in play."""
    target = TargetModel.load(pair.target, drafter=pair.drafter, compiled=False)
    costs = replace(CostModel.given(STEPS), subject=cost_subject(target, pair.drafter))
    return Engine(target, settings(), costs, profile=Profile(lambda: costs, max_requests))


def test_a_draft_is_measured_when_its_drafter_comes_and_nothing_is_left_with_it(pair: TinyPair) -> None:
    engine, server = opened(pair, max_requests=5), Witness(pair.drafter)
    assert engine.costing.costs.draft is None
    engine.attach_drafter(link(engine, server))
    draft = engine.costing.costs.draft
    assert draft is not None
    assert draft.tokens == (1, 2, 4)
    assert list(draft.seconds) == sorted(draft.seconds)
    assert engine.costing.costs.transfer_s > 0
    assert engine.costing.costs.append_row_s >= 0
    assert server.held_sequences == 0
    assert engine.curve is STEPS
    assert not engine.renew_costs()


def test_a_drafter_that_comes_back_is_not_measured_again_but_another_one_is(pair: TinyPair) -> None:
    engine = opened(pair)
    engine.attach_drafter(link(engine, Witness(pair.drafter)))
    known = engine.costing.costs.draft
    again, other = Witness(pair.drafter), Witness(pair.drafter, "other")
    engine.attach_drafter(link(engine, again))
    assert engine.costing.costs.draft is known
    assert again.asked == []
    engine.attach_drafter(link(engine, other))
    assert other.asked
    assert engine.costing.costs.draft not in (None, known)


def test_a_busy_engine_measures_once_it_is_idle(pair: TinyPair) -> None:
    engine, server = opened(pair), Witness(pair.drafter)
    engine.submit(request("x", prompts(1, 97, [5])[0], 4))
    engine.step()
    engine.attach_drafter(link(engine, server))
    assert server.asked == []
    run(engine, [])
    assert engine.renew_costs()
    assert engine.costing.costs.draft is not None


def test_given_costs_are_neither_measured_nor_refined_nor_foretold(pair: TinyPair) -> None:
    target = TargetModel.load(pair.target, drafter=pair.drafter)
    engine, server = Engine(target, settings(), CURVE), Witness(pair.drafter)
    engine.attach_drafter(link(engine, server))
    assert server.asked == []
    run(engine, [request(i, prompt, 40) for i, prompt in enumerate(prompts(3, 97, [5, 9]))])
    assert engine.curve is CURVE
    assert engine.snapshot().prediction_error == 0.0


def test_real_rounds_are_foretold_and_correct_the_costs(pair: TinyPair) -> None:
    """Steps said to take a thousandth of what they do are found out."""
    target = TargetModel.load(pair.target, compiled=False)
    said = StepCostCurve.measured([(1, 1e-7), (64, 2e-7)])
    engine = Engine(target, settings(), replace(CostModel.given(said), subject=cost_subject(target)))
    version = engine.costing.costs.version
    foretold = []
    engine.submit(request("x", (1, 2, 3), 250))
    while not engine.idle:
        engine.step()
        assert engine.last_times is not None
        if engine.last_times.predicted_s:
            foretold.append(engine.last_times.predicted_s)
    assert foretold
    assert engine.snapshot().prediction_error > 0
    assert engine.costing.costs.version != version
    assert said.seconds[0] < engine.curve.seconds[0] <= 3.001 * said.seconds[0]


def test_rounds_with_prompts_teach_nothing(pair: TinyPair) -> None:
    target = TargetModel.load(pair.target, compiled=False)
    said = StepCostCurve.measured([(1, 1e-7), (64, 2e-7)])
    costs = replace(CostModel.given(said), subject=cost_subject(target))
    engine = Engine(target, settings(), costs)
    for number in range(60):
        run(engine, [request(number, (1, 2, 3), 1)])
    assert engine.costing.costs is costs
    assert engine.snapshot().prediction_error == 0.0


def test_a_context_without_room_leaves_the_draft_unmeasured(pair: TinyPair) -> None:
    engine, server = opened(pair), Witness(pair.drafter)
    engine.attach_drafter(link(engine, server))
    with pytest.raises(CurveError, match="no room"):
        measure_draft(engine.costing.costs, engine.drafting, engine.cache, max_requests=4, context_tokens=20)
    assert server.held_sequences == 0


def test_a_drafter_lost_while_it_is_measured_is_lost_as_in_any_round(pair: TinyPair) -> None:
    class Failing(Witness):
        def handle(self, client: bytes, message: DraftRound, **options: Any) -> DraftBlock:
            if len(self.asked) == 3:
                raise ValueError("out of luck")
            return super().handle(client, message, **options)

    engine = opened(pair)
    engine.attach_drafter(link(engine, Failing(pair.drafter)))
    assert not engine.drafting.ready
    assert engine.costing.costs.draft is None
    assert engine.drafting.lost == 1
    assert len(run(engine, [request("x", (1, 2, 3), 5)])["x"]) == 5


def test_costs_measured_of_other_weights_have_another_fingerprint(pair: TinyPair, tmp_path: Path) -> None:
    here = cost_subject(TargetModel.load(pair.target))
    assert here == cost_subject(TargetModel.load(pair.target))
    other = cost_subject(TargetModel.load(make_target(tmp_path / "other", seed=9)))
    assert [difference.split()[0] for difference in here.differences(other)] == ["target"]
    assert cost_subject(TargetModel.load(pair.target), pair.drafter, link="process").fingerprint != here.fingerprint
