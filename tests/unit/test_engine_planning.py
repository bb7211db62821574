"""What shapes a round beside confidences: what rounds cost, targets to keep, allowances, probes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from outrider.engine import Engine, TargetModel, cost_subject
from outrider.engine.costing import Costing
from outrider.engine.pacing import Pacing
from outrider.engine.pricing import CostMeter
from outrider.engine.probing import Probes
from outrider.engine.sequence import Sequence
from outrider.errors import ConfigurationError
from outrider.scheduling import Budget, CostModel, Requests, RoundCosts, StepCostCurve
from support.engines import CURVE, in_process_link, make_engine, prompts, request, run, settings
from support.tiny import TinyPair

LINE = StepCostCurve((1, 101), (0.001, 0.101), "a millisecond a token")
FLATTER = StepCostCurve((1, 101), (0.001, 0.051), "half of it for those beside")
ALONE = StepCostCurve((1, 2, 1000), (0.001, 1.0, 1.1), "no time for two")
NOW_S = 1000.0


@pytest.fixture(scope="module")
def target(pair: TinyPair) -> TargetModel:
    return TargetModel.load(pair.target, compiled=False)


@pytest.fixture
def meter(target: TargetModel) -> CostMeter:
    return CostMeter(Costing(target, CostModel.given(LINE), None))


def sequence(key: int, *, target_s: float | None = None, emitted: int = 4, served_s: float = NOW_S) -> Sequence:
    """One that decodes, its first token a hundred milliseconds ago."""
    asked = replace(request(key, (1, 2, 3), 64), tpot_target_s=target_s)
    made = Sequence(asked, key, NOW_S - 1, [1, 2, 3, *range(emitted)])
    made.first_token_s, made.served_s = NOW_S - 0.1, served_s
    return made


# costs


def test_host_seconds_are_what_a_round_takes_beside_its_draft_and_its_step(meter: CostMeter) -> None:
    for _ in range(3):
        meter.learn(4, tokens=4, draft_s=0.0, round_s=0.0045)
        meter.learn(4, tokens=8, draft_s=0.002, round_s=0.0108)
    costs = meter.costs(4, 0)
    assert costs.plain_s == pytest.approx(0.0005)
    assert costs.drafted_s == pytest.approx(0.0008)
    assert meter.costs(64, 0).plain_s == costs.plain_s  # nothing nearer is known


def test_one_disturbed_round_changes_nothing(meter: CostMeter) -> None:
    for round_s in (0.0025, 0.0025, 0.5):
        meter.learn(2, tokens=2, draft_s=0.0, round_s=round_s)
    assert meter.costs(2, 0).plain_s == pytest.approx(0.0005)


def test_drafts_that_were_not_measured_beforehand_are_learnt(meter: CostMeter) -> None:
    assert meter.costs(4, 0).draft(np.array([1, 16])).tolist() == [0, 0]
    meter.learn_draft(1, 0.001)
    meter.learn_draft(12, 0.005)
    one, six, twelve, many = meter.costs(4, 0).draft(np.array([1, 6, 12, 48]))
    assert one < six < twelve < many


def test_a_round_is_as_large_as_time_allows(meter: CostMeter) -> None:
    assert meter.tokens_within(0.0105, 4) == 10
    assert meter.tokens_within(0.0001, 4) == 0
    meter.learn(4, tokens=4, draft_s=0.0, round_s=0.006)
    assert meter.tokens_within(0.0105, 4) == 8


# targets


def test_without_targets_everyone_takes_part(meter: CostMeter) -> None:
    everyone = [sequence(key) for key in range(200)]
    pacing = Pacing(everyone, meter, NOW_S)
    assert pacing.company(everyone) == everyone
    assert pacing.prompt_tokens(200) is None


def test_those_without_a_target_sit_out_as_far_as_the_next_due_token_asks(meter: CostMeter) -> None:
    # pace 27.1 ms: the fifth token is due 108.4 ms after the first, 8.4 ms from now
    held = sequence(1, target_s=0.0301)
    others = [sequence(key, served_s=NOW_S - key / 1000) for key in range(2, 20)]
    pacing = Pacing([held, *others], meter, NOW_S)
    assert pacing.room_tokens == 8
    company = pacing.company([*others, held])
    assert company[-1] is held
    assert {each.key for each in company} == {1, *range(13, 20)}  # who waited longest
    assert pacing.prompt_tokens(len(company)) == 0
    assert Pacing([held], meter, NOW_S).prompt_tokens(1) == 7


def test_nobody_sits_out_for_long(meter: CostMeter) -> None:
    late, waiting, fresh = sequence(1, target_s=0.020), sequence(2, served_s=NOW_S - 1), sequence(3)
    assert Pacing([late, waiting], meter, NOW_S).company([late, waiting]) == [late, waiting]
    assert Pacing([late, fresh], meter, NOW_S).company([late, fresh]) == [late]


def test_nobody_waits_for_the_hopeless_until_they_have_hope_again(meter: CostMeter) -> None:
    # four tokens in 100 ms; at 1 ms a token the other sixty make up 60 · (pace − 1 ms)
    late, fresh = sequence(1, target_s=0.0015), sequence(2)
    assert Pacing([late, fresh], meter, NOW_S).company([late, fresh]) == [late, fresh]
    assert late.hopeless
    late.first_token_s = NOW_S - 0.01
    assert Pacing([late, fresh], meter, NOW_S).company([late, fresh]) == [late]
    assert not late.hopeless


def test_a_target_is_kept_at_the_others_expense_and_no_answer_changes(pair: TinyPair) -> None:
    first, second = prompts(2, 90, (6, 9))
    relaxed, tight = request("relaxed", first, 24), request("tight", second, 24)
    alone = {name: [t for c in each for t in c.tokens] for one in (relaxed, tight) for name, each in
             run(make_engine(pair.target, pair.drafter), [one]).items()}  # fmt: skip
    engine = make_engine(pair.target, pair.drafter, curve=ALONE)
    ended: list[str] = []
    answers: dict[str, list[int]] = {"relaxed": [], "tight": []}
    engine.submit(relaxed)
    engine.submit(replace(tight, tpot_target_s=0.04))
    while not engine.idle:
        for name, chunk in engine.step():
            answers[name] += chunk.tokens
            ended += [name] if chunk.finish else []
    assert ended == ["tight", "relaxed"]
    assert answers == alone


# allowances and names


def test_a_tenants_allowance_holds_over_all_its_requests(pair: TinyPair) -> None:
    engine = make_engine(pair.target, pair.drafter, tenant_draft_tokens=3, calibration_share=0.0)
    for place, prompt in enumerate(prompts(4, 90, (6, 9))):
        engine.submit(request(place, prompt, 24, salt="ab"[place % 2]))
    deepest = 0
    while not engine.idle:
        engine.step()
        admitted = dict.fromkeys("ab", 0)
        for each in engine.running:
            if each.rounds:
                admitted[each.request.cache_salt] += each.rounds[-1][0]
        assert max(admitted.values()) <= 3 or any(
            len(e.rounds) != len(engine.running[0].rounds) for e in engine.running
        )
        deepest = max(deepest, *admitted.values())
    assert deepest == 3


def test_settings_name_their_scheduler() -> None:
    with pytest.raises(ConfigurationError, match=r"fixed:0.*there are none, fixed:DEPTH") as caught:
        settings(scheduler="fixed:0")
    assert caught.value.param == "scheduler"
    with pytest.raises(ConfigurationError, match="tenant_draft_tokens"):
        settings(tenant_draft_tokens=-1)


def test_plain_rounds_are_looked_at_before_drafts_are_judged(pair: TinyPair) -> None:
    """A drafted round alone does not say what it saves; costs that were given are taken at their word."""
    asked = [request(0, prompts(1, 90, (6,))[0], 40)]
    model = TargetModel.load(pair.target, drafter=pair.drafter, compiled=False)
    measured = Engine(model, settings(), replace(CostModel.given(CURVE), subject=cost_subject(model, pair.drafter)))
    measured.attach_drafter(in_process_link(measured, pair.drafter))
    told = run(measured, asked)["0"][-1].summary
    assert told is not None
    assert [depth for depth, _ in told.round_records[:3]] == [0, 0, 0]
    assert told.round_records[3][0] > 0
    given = run(make_engine(pair.target, pair.drafter), asked)["0"][-1].summary
    assert given is not None
    assert given.round_records[0][0] > 0


# probes

SKIPPED = Budget(np.zeros(2, dtype=np.bool_), tokens=0)


def two(expected: float) -> Requests:
    return Requests(np.array([4, 4]), np.ones(2), np.full((2, 4), expected))


def test_a_probe_waits_until_its_loss_is_saved_and_takes_whom_nothing_is_known_of() -> None:
    costs = RoundCosts(FLATTER, draft=lambda requests: 0.0005 * requests)
    probes = Probes()
    assert probes.pick(two(0.1), costs, SKIPPED, [3, 9]) is None
    # 0.5 ms of draft and 2 of verifying for 0.4 tokens of 0.75 ms each, at half a per cent of 2 ms a round
    rounds = int(0.0022 / (0.005 * 0.002))
    for _ in range(rounds - 1):
        probes.save(0.002)
    assert probes.pick(two(0.1), costs, SKIPPED, [3, 9]) is None
    for _ in range(2):
        probes.save(0.002)
    found = probes.pick(two(0.1), costs, SKIPPED, [3, 9])
    assert found is not None
    assert found.tolist() == [False, True]
    assert probes.pick(two(0.1), costs, SKIPPED, [3, 9]) is None


def test_what_cannot_pay_even_if_all_is_accepted_is_never_tried() -> None:
    dear = RoundCosts(FLATTER, draft=lambda requests: 0.1 * requests)
    probes = Probes()
    for _ in range(10_000):
        probes.save(1.0)
    assert probes.pick(two(1.0), dear, SKIPPED, [3, 9]) is None


def test_who_may_not_be_drafted_for_closes_nothing_for_others(pair: TinyPair) -> None:
    """Nothing was weighed for a request of depth 0, so nothing is known of what drafts would be worth."""
    engine = make_engine(pair.target, pair.drafter)
    prompt = prompts(1, 90, (6,))[0]
    run(engine, [request("shallow", prompt, 8, depth_cap=0)])
    told = run(engine, [request("deep", prompt, 8)])["deep"][-1].summary
    assert told is not None
    assert told.round_records[0][0] > 0
