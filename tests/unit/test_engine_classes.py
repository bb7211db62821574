"""The five numbers of a batch class, each where it acts: alone, in mixed company, and never so that anybody starves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from outrider.engine import Engine
from outrider.scheduling import StepCostCurve
from outrider.types import BatchClass, TokenChunk
from support.engines import make_engine, prompts, request, run
from support.tiny import TinyPair

VOCAB, BLOCK = 97, 16
INTERACTIVE = BatchClass("interactive", weight=4, prefill_share=0.25, co_batch_tokens=4)
THROUGHPUT = BatchClass("throughput", weight=0.5, prefill_share=1.0, co_batch_tokens=128, preemption_order=2)


@dataclass(frozen=True)
class Step:
    """Names of those who decoded, the flat batch's tokens, and all chunks."""

    decoded: frozenset[str]
    tokens: int
    chunks: list[tuple[str, TokenChunk]]


def steps(engine: Engine) -> Iterator[Step]:
    """Run to the end."""
    while not engine.idle:
        rounds = {s.request.request_id: len(s.rounds) for s in engine.running}
        running = list(engine.running)
        chunks = engine.step()
        decoded = {s.request.request_id for s in running if len(s.rounds) > rounds[s.request.request_id]}
        assert engine.last_times is not None
        yield Step(frozenset(decoded), engine.last_times.tokens, chunks)


def depths(engine: Engine, weight: float, count: int) -> list[float]:
    """Mean depth of the first rounds of a request of this weight, then of its neighbours of weight 1; one tenant's."""
    kinds = [BatchClass("heavy", weight=weight), *[BatchClass("par")] * (count - 1)]
    asked = [request(i, [i + 1], 40, batch_class=kind, salt="acme") for i, kind in enumerate(kinds)]
    ended = [chunks[-1].summary for chunks in run(engine, asked).values()]
    return [sum(admitted for admitted, _ in s.round_records[:4]) / 4 for s in ended if s is not None]


# weight


@pytest.mark.parametrize("scheduler", ["constrained", "asynchronous", "algorithm1"])
def test_drafts_of_the_heavy_are_verified_first_where_the_step_has_no_room_for_all(
    pair: TinyPair, scheduler: str
) -> None:
    """Room for eight drafts of eight requests."""
    alike, (heavy, *others) = (
        depths(
            make_engine(pair.target, pair.drafter, max_step_tokens=16, scheduler=scheduler, calibration_share=0.0),
            weight,
            count=8,
        )
        for weight in (1.0, 1000.0)
    )
    assert max(alike) <= 2
    assert heavy == 7
    assert sum(others) <= 1


@pytest.mark.parametrize("scheduler", ["constrained", "asynchronous"])
def test_a_tenants_allowance_goes_to_its_heavy_requests(pair: TinyPair, scheduler: str) -> None:
    alike, (heavy, *others) = (
        depths(
            make_engine(pair.target, pair.drafter, tenant_draft_tokens=7, scheduler=scheduler, calibration_share=0.0),
            weight,
            count=4,
        )
        for weight in (1.0, 1000.0)
    )
    assert max(alike) <= 3
    assert heavy == 7
    assert sum(others) == 0


def test_the_prompt_of_who_weighs_more_is_computed_first(pair: TinyPair) -> None:
    """As long as the other has not waited for as much longer: then it is its turn."""
    for waited_s, first in ((0.0, "heavy"), (1e6, "light")):
        engine = make_engine(pair.target, max_step_tokens=32)
        engine.submit(request("light", [1] * 120, 1, batch_class=THROUGHPUT))
        engine.step()
        engine.submit(request("heavy", [2] * 96, 1, batch_class=INTERACTIVE))
        engine.running[0].arrived_s -= waited_s
        order = [name for step in steps(engine) for name, _ in step.chunks]
        assert order[0] == first


def test_who_weighs_more_is_admitted_first(pair: TinyPair) -> None:
    for waited_s, second in ((0.0, "heavy"), (1e6, "light")):
        engine = make_engine(pair.target, max_running_requests=1)
        for name, kind in (("running", THROUGHPUT), ("light", THROUGHPUT), ("heavy", INTERACTIVE)):
            engine.submit(request(name, [1, 2], 2, batch_class=kind))
            if name == "running":
                engine.step()
        engine.queue[0].arrived_s -= waited_s
        ended = [name for step in steps(engine) for name, chunk in step.chunks if chunk.finish]
        assert ended[:2] == ["running", second]


# co_batch_tokens


def test_a_small_cap_holds_in_large_company_and_nobody_starves(pair: TinyPair) -> None:
    """Twelve requests of a large co-batch class take turns beside one with a small cap, which sits out no round."""
    engine = make_engine(pair.target, pair.drafter)
    asked = [request(i, [i + 1] * 3, 30, batch_class=THROUGHPUT) for i in range(12)]
    for one in asked:
        engine.submit(one)
    engine.step()
    engine.submit(request("small", [50, 51], 20, batch_class=INTERACTIVE))
    last = dict.fromkeys([str(i) for i in range(12)], 0)
    longest = beside = 0
    answers: dict[str, list[int]] = {}
    for place, step in enumerate(steps(engine)):
        decoding = any(s.request.request_id == "small" and s.decoding for s in engine.running)
        if "small" in step.decoded:
            beside += 1
            assert step.tokens <= INTERACTIVE.co_batch_tokens
        else:
            assert not decoding or not beside, "the small one sat a round out"
        for name in step.decoded - {"small"}:
            longest = max(longest, place - last[name])
            last[name] = place
        for name, chunk in step.chunks:
            answers.setdefault(name, []).extend(chunk.tokens)
    assert beside >= 5
    assert longest <= math.ceil(12 / 3) + 1
    alone = make_engine(pair.target)
    for name, chunks in run(alone, asked).items():
        assert answers[name][-20:] == [token for chunk in chunks for token in chunk.tokens][-20:]


def test_nobody_new_of_equal_weight_crowds_out_who_has_a_cap(pair: TinyPair) -> None:
    """They wait in the queue instead of taking turns, which would be slower for everybody."""
    engine = make_engine(pair.target)
    for i in range(10):
        engine.submit(request(i, [i + 1], 6, batch_class=INTERACTIVE))
    most = 0
    for step in steps(engine):
        running = sum(s.decoding for s in engine.running)
        most = max(most, len(step.decoded))
        assert len(engine.running) <= INTERACTIVE.co_batch_tokens
        assert running <= INTERACTIVE.co_batch_tokens
        assert step.tokens <= INTERACTIVE.co_batch_tokens or not step.decoded
    assert most == INTERACTIVE.co_batch_tokens


def test_who_weighs_more_is_admitted_to_a_crowd_of_lighter_ones(pair: TinyPair) -> None:
    engine = make_engine(pair.target)
    for i in range(8):
        engine.submit(request(i, [i + 1], 40, batch_class=THROUGHPUT))
    engine.step()
    for name in ("first", "second"):
        engine.submit(request(name, [60], 3, batch_class=INTERACTIVE))
    engine.submit(request("late", [61], 3, batch_class=THROUGHPUT))
    engine.step()
    names = {s.request.request_id for s in engine.running}
    assert {"first", "second"} <= names
    assert "late" not in names
    ended = [name for step in steps(engine) for name, chunk in step.chunks if chunk.finish]
    assert sorted(ended) == sorted([*map(str, range(8)), "first", "second", "late"])


def test_a_light_request_with_a_small_cap_has_steps_of_its_own(pair: TinyPair) -> None:
    """It binds those only; the others go on in large ones."""
    engine = make_engine(pair.target)
    small = BatchClass("small and light", weight=0.5, co_batch_tokens=2)
    large = BatchClass("large", weight=1.0, co_batch_tokens=128)
    for i in range(8):
        engine.submit(request(i, [i + 1], 30, batch_class=large))
    engine.step()
    engine.submit(request("small", [60], 6, batch_class=small))
    engine.step()
    sizes = [(step.tokens, "small" in step.decoded) for step in steps(engine)]
    assert sum(served for _, served in sizes) == 5
    assert {tokens for tokens, served in sizes if served} == {2}
    assert max(tokens for tokens, _ in sizes) == 8


# prefill_share


def test_the_cap_holds_beside_a_prompt(pair: TinyPair) -> None:
    """Seats are given up for it, as many as the prefill share allows, and it advances every step."""
    engine = make_engine(pair.target)
    kind = BatchClass("shares", prefill_share=0.25, co_batch_tokens=8)
    for i in range(8):
        engine.submit(request(i, [i + 1], 30, batch_class=kind))
    engine.step()
    engine.submit(request("long", [60] * 20, 1, batch_class=BatchClass("heavy", weight=9)))
    waiting = 0
    for step in steps(engine):
        assert step.tokens <= 8
        waiting += any(s.request.request_id == "long" for s in engine.running)
        assert len(step.decoded) >= 6 or not waiting
        if any(name == "long" for name, _ in step.chunks):
            break
    assert waiting == 9  # two tokens a step, the tenth told above


# admission_wait_s


def test_whoever_runs_is_company(pair: TinyPair) -> None:
    engine = make_engine(pair.target)
    engine.submit(request("running", [1], 9))
    engine.step()
    engine.submit(request("patient", [2], 2, batch_class=BatchClass("patient", admission_wait_s=1e6)))
    assert engine.admission_wait_s == 0
    assert {name for name, _ in engine.step()} == {"running", "patient"}


def test_nobody_waits_for_company_that_has_no_memory(pair: TinyPair) -> None:
    engine = make_engine(pair.target, kv_blocks=4)
    patient = BatchClass("patient", admission_wait_s=1e6)
    engine.submit(request("one", [1] * 30, 2, batch_class=patient))
    assert engine.admission_wait_s > 0
    engine.submit(request("two", [2] * 30, 2, batch_class=patient))
    assert engine.admission_wait_s == 0
    assert engine.step()


# preemption_order


def held(engine: Engine, orders: Sequence[int]) -> None:
    """Fill eight blocks of memory with two that run for long, of these preemption orders."""
    for i, order in enumerate(orders):
        kind = BatchClass("holds", preemption_order=order)
        engine.submit(request(i, prompts(2, VOCAB, (40,))[i], 20, batch_class=kind))
    engine.step()
    assert len(engine.running) == 2


@pytest.mark.parametrize(
    ("orders", "gives_way"), [((1, 1), "1"), ((2, 1), "0"), ((1, 0), "0"), ((0, 0), None), ((0, 1), "1")]
)
def test_memory_is_given_up_for_a_newcomer_whose_class_comes_before(
    pair: TinyPair, orders: tuple[int, int], gives_way: str | None
) -> None:
    """By the last in order, and it goes on later with the same answer."""
    engine = make_engine(pair.target, kv_blocks=8)
    held(engine, orders)
    engine.submit(request("newcomer", [7] * 30, 4))
    chunks = engine.step()
    queued = [s.request.request_id for s in engine.queue]
    assert ("newcomer" in {name for name, _ in chunks}) == (gives_way is not None)
    assert queued == [gives_way or "newcomer"]
    answers: dict[str, list[int]] = {}
    for step in steps(engine):
        engine.check_integrity()
        for name, chunk in step.chunks:
            answers.setdefault(name, []).extend(chunk.tokens)
    for i in range(2):
        [alone] = run(make_engine(pair.target), [request(i, prompts(2, VOCAB, (40,))[i], 20)]).values()
        assert answers[str(i)][-15:] == [token for chunk in alone for token in chunk.tokens][-15:]


def test_nobody_gives_way_to_newcomers_twice_or_for_nothing(pair: TinyPair) -> None:
    engine = make_engine(pair.target, kv_blocks=8)
    held(engine, (0, 1))
    engine.submit(request("too large", [7] * 100, 4))
    engine.step()
    assert not any(s.preemptions for s in (*engine.running, *engine.queue))
    engine.cancel("too large")
    for i in range(6):
        engine.submit(request(f"newcomer {i}", [8 + i] * 30, 4))
    summaries = {name: c.summary for step in steps(engine) for name, c in step.chunks if c.summary is not None}
    assert summaries["1"].preemptions == 1
    assert summaries["0"].preemptions == 0


# rows


def test_a_prompt_that_sits_a_step_out_lends_nobody_its_sampling(pair: TinyPair) -> None:
    """Wanted prompt rows are limited per step; who comes after one that waits for them still draws by its own seed."""
    first, second, third = prompts(3, VOCAB, (70, 70, 20))
    sampled = request("third", third, 6, temperature=1.0, seed=7)
    told = [request("first", first, 2, prompt_logprobs=0), request("second", second, 2, prompt_logprobs=0)]
    answers = [
        [token for chunk in run(make_engine(pair.target), asked)["third"] for token in chunk.tokens]
        for asked in ([sampled], [*told, sampled])
    ]
    assert answers[0] == answers[1]


# all together


CURVE = StepCostCurve((1, 101), (1.0, 6.0), "a second, and a twentieth a token")


@dataclass(frozen=True)
class Pace:
    """Seconds per token after the first, a mean over requests, and all tokens per second, by the curve's clock."""

    tpot_s: float
    rate: float


def pace(pair: TinyPair, kinds: Sequence[BatchClass]) -> dict[str, Pace]:
    """What each class gets when requests of these classes come at once and every step takes what the curve says."""
    engine = make_engine(pair.target, pair.drafter, curve=CURVE, calibration_share=0.0)
    asked = [
        request(i, prompt, 24, batch_class=kind)
        for i, (kind, prompt) in enumerate(zip(kinds, prompts(len(kinds), VOCAB, (3, 8)), strict=True))
    ]
    for one in asked:
        engine.submit(one)
    now_s = 0.0
    first_s: dict[str, float] = {}
    last_s: dict[str, float] = {}
    for step in steps(engine):
        now_s += CURVE.step_s(step.tokens)
        for name, _ in step.chunks:
            first_s.setdefault(name, now_s)
            last_s[name] = now_s
    found = {}
    for kind in kinds:
        names = [one.request_id for one in asked if one.batch_class is kind]
        tpot_s = sum(last_s[name] - first_s[name] for name in names) / (23 * len(names))
        found[kind.name] = Pace(tpot_s, 24 * len(names) / max(last_s[name] for name in names))
    return found


SMALL = BatchClass("interactive", weight=4.0, prefill_share=0.25, co_batch_tokens=8)
MIDDLE = BatchClass("balanced", weight=1.0, prefill_share=0.5, co_batch_tokens=16, preemption_order=1)
LARGE = BatchClass("throughput", weight=0.5, prefill_share=1.0, co_batch_tokens=64, preemption_order=2)


def test_interactive_buys_time_per_token_and_throughput_gives_it_away(pair: TinyPair) -> None:
    """The shipped classes at an eighth of their caps, 48 requests at once."""
    small, middle, large = (pace(pair, [kind] * 48)[kind.name] for kind in (SMALL, MIDDLE, LARGE))
    assert small.tpot_s < middle.tpot_s < large.tpot_s
    assert small.rate < middle.rate < large.rate
    assert large.tpot_s > 2 * small.tpot_s
    assert large.rate > 1.5 * small.rate


def test_a_crowd_of_throughput_costs_the_interactive_among_it_little(pair: TinyPair) -> None:
    """One among 40 keeps the pace it would have among its like; as one of the crowd it has the crowd's."""
    crowd = [LARGE] * 40
    kept = pace(pair, [SMALL, *crowd])
    assert kept["interactive"].tpot_s < 1.1 * CURVE.step_s(SMALL.co_batch_tokens)
    assert (
        pace(pair, [replace(LARGE, name="one of them"), *crowd])["one of them"].tpot_s > 2 * kept["interactive"].tpot_s
    )
    assert kept["throughput"].rate > 0
