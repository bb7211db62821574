"""The draft gate: drafts while it does not know, skips what does not pay, probes what it has closed."""

from __future__ import annotations

from outrider.engine.gate import DraftGate, RoundCosts
from outrider.scheduling import StepCostCurve

CURVE = StepCostCurve((1, 8, 128), (0.004, 0.006, 0.026), "test")


def costs(plain_s: float, drafted_s: float) -> RoundCosts:
    made = RoundCosts()
    for _ in range(6):
        made.add(plain_s, drafted=False)
        made.add(drafted_s, drafted=True)
    return made


COSTS = costs(0.001, 0.001)


def seen(emitted: float, draft_s: float, requests: int = 1, rounds: int = 10) -> DraftGate:
    """A gate after some rounds in which every request verified eight tokens."""
    gate = DraftGate(CURVE)
    for _ in range(rounds):
        gate.record(requests, 8 * requests, round(emitted * requests), draft_s)
    return gate


def test_an_unknown_size_drafts() -> None:
    assert DraftGate(CURVE).opens(1, 0, 0, COSTS)
    assert seen(1, 0.004, requests=1).opens(16, 0, 0, COSTS)


def test_it_drafts_while_that_emits_faster() -> None:
    # Plain: 1 token in 5 ms. Drafted: 3 tokens in 1 + 4 + 6 = 11 ms.
    assert seen(3, 0.004).opens(1, 0, 0, COSTS)


def test_it_skips_when_plain_rounds_are_clearly_faster() -> None:
    # Plain: 1 token in 5 ms. Drafted: 2 tokens in 1 + 4 + 6 = 11 ms, 9 % slower; with a 3.5 ms draft 5 % slower.
    assert not seen(2, 0.004).opens(1, 0, 0, COSTS)
    assert seen(2, 0.0035).opens(1, 0, 0, COSTS)


def test_requests_it_knows_nothing_of_are_drafted_for() -> None:
    # Plain: 4 tokens in 4.9 ms. Drafted: 10 tokens in 4 + 10 ms, 12 % slower.
    assert seen(2.5, 0.004, requests=4).opens(4, 3, 0, costs(0, 0))
    assert not seen(2.5, 0.004, requests=4).opens(4, 2, 0, costs(0, 0))


def test_a_large_prompt_in_the_step_makes_drafting_worth_more() -> None:
    # With 120 prompt tokens the step costs about the same either way, and two tokens beat one.
    assert seen(2, 0.004).opens(1, 0, 120, COSTS)


def test_a_closed_gate_is_probed_ever_less_often() -> None:
    gate = seen(2, 0.004)
    decisions = [gate.opens(1, 0, 0, COSTS) for _ in range(40)]
    assert [round_ for round_, drafts in enumerate(decisions) if drafts] == [4, 13, 30]


def test_a_closed_gate_opens_once_probes_pay_again() -> None:
    gate = seen(2, 0.004)
    assert not gate.opens(1, 0, 0, COSTS)
    for _ in range(60):
        gate.record(1, 8, 6, 0.004)
    assert all(gate.opens(1, 0, 0, COSTS) for _ in range(10))


def test_drafted_rounds_are_charged_with_their_own_bookkeeping() -> None:
    # Plain: 1 token in 4.5 ms. Drafted: 2 tokens in 0.5 + 2.5 + 6 ms are as fast; in 3.5 + 2.5 + 6 ms they are not.
    assert seen(2, 0.0025).opens(1, 0, 0, costs(0.0005, 0.0005))
    assert not seen(2, 0.0025).opens(1, 0, 0, costs(0.0005, 0.0035))


def test_new_requests_do_not_open_a_hopeless_class() -> None:
    # 2 tokens in 15 ms against 1 in 5: 33 % slower. In 11 ms: 9 % slower, and new ones may be better than the rest.
    assert not seen(2, 0.008).opens(1, 1, 0, COSTS)
    assert seen(2, 0.004).opens(1, 1, 0, COSTS)


def test_it_learns_what_plain_rounds_take_where_that_decides() -> None:
    # Plain rounds cost 4 ms at least. 2 tokens in 10 ms may be too few; 8 tokens are not.
    assert not seen(2, 0.004).opens(1, 0, 0, RoundCosts())
    assert seen(8, 0.004).opens(1, 0, 0, RoundCosts())
