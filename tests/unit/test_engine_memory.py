"""What a sequence takes over of others, what it may not, and who gives way when memory is short."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.engine import Engine
from outrider.errors import OutOfBlocks
from outrider.types import BatchClass, RequestSummary
from support.engines import make_engine, prompts, request, run
from support.tiny import TinyPair

VOCAB, BLOCK = 97, 16
[PROMPT] = prompts(1, VOCAB, (70,))
FULL = len(PROMPT) // BLOCK * BLOCK


def summary(engine: Engine, name: str, *args: Any, **options: Any) -> RequestSummary:
    """Run one request to its end."""
    last = run(engine, [request(name, *args, **options)])[name][-1]
    assert last.summary is not None
    return last.summary


def test_a_prompt_seen_before_is_computed_from_its_last_block_on(pair: TinyPair) -> None:
    engine = make_engine(pair.target)
    assert summary(engine, "first", PROMPT, 4).cached_tokens == 0
    assert engine.snapshot().kv_blocks_cached == FULL // BLOCK
    assert engine.snapshot().kv_blocks_used == 0
    assert summary(engine, "again", PROMPT, 4).cached_tokens == FULL


def test_the_last_token_is_always_computed(pair: TinyPair) -> None:
    """Its logits are wanted, so a prompt of whole blocks takes over one less than it could."""
    engine = make_engine(pair.target)
    run(engine, [request("first", PROMPT[:FULL], 4)])
    assert summary(engine, "again", PROMPT[:FULL], 4).cached_tokens == FULL - BLOCK
    assert summary(engine, "longer", PROMPT[: FULL + 1], 4).cached_tokens == FULL


def test_a_second_turn_takes_over_the_first_answer_too(pair: TinyPair) -> None:
    engine = make_engine(pair.target, pair.drafter)
    chunks = run(engine, [request("turn", PROMPT, 40)])["turn"]
    said = [token for chunk in chunks for token in chunk.tokens]
    turn = [*PROMPT, *said, 1, 2, 3]
    assert summary(engine, "next", turn, 4).cached_tokens == (len(turn) - 4) // BLOCK * BLOCK


@pytest.mark.parametrize(("salt", "cached"), [("acme", FULL), ("other", 0), ("", 0)])
def test_prefixes_are_not_shared_between_salts(pair: TinyPair, salt: str, cached: int) -> None:
    engine = make_engine(pair.target)
    run(engine, [request("first", PROMPT, 4, salt="acme")])
    assert summary(engine, "second", PROMPT, 4, salt=salt).cached_tokens == cached


def test_only_the_common_beginning_is_shared(pair: TinyPair) -> None:
    engine = make_engine(pair.target)
    run(engine, [request("first", PROMPT, 4)])
    changed = [*PROMPT[:20], (PROMPT[20] + 1) % VOCAB, *PROMPT[21:]]
    assert summary(engine, "changed in the second block", changed, 4).cached_tokens == BLOCK
    assert summary(engine, "changed at once", [(PROMPT[0] + 1) % VOCAB, *PROMPT[1:]], 4).cached_tokens == 0


def test_prompt_rows_that_are_wanted_are_computed(pair: TinyPair) -> None:
    engine = make_engine(pair.target)
    run(engine, [request("first", PROMPT, 4)])
    assert summary(engine, "rows", PROMPT, 4, prompt_logprobs=0).cached_tokens == 0


def test_the_switch(pair: TinyPair) -> None:
    engine = make_engine(pair.target, prefix_cache=False)
    run(engine, [request("first", PROMPT, 4)])
    assert engine.snapshot().kv_blocks_cached == 0
    assert summary(engine, "again", PROMPT, 4).cached_tokens == 0


def test_choices_of_one_prompt_compute_it_once(pair: TinyPair) -> None:
    """Those that come together wait for the first instead of computing the same blocks beside it."""
    engine = make_engine(pair.target, max_step_tokens=32)
    chunks = run(engine, [request(i, PROMPT, 4, choice_index=i, temperature=1.0) for i in range(4)])
    summaries = [chunks[str(i)][-1].summary for i in range(4)]
    assert [s.cached_tokens for s in summaries if s] == [0, FULL, FULL, FULL]


def test_least_recently_used_prefixes_make_way(pair: TinyPair) -> None:
    """Room for three prompts of two blocks: the fourth takes that of the one not asked for again."""
    engine = make_engine(pair.target, kv_blocks=7)
    first, second, third, fourth = prompts(4, VOCAB, (2 * BLOCK + 1,))
    for name, prompt in (("a", first), ("b", second), ("c", third), ("a again", first), ("d", fourth)):
        run(engine, [request(name, prompt, 1)])
    cached = {
        name: summary(engine, name, prompt, 1).cached_tokens
        for name, prompt in (("first", first), ("fourth", fourth), ("third", third), ("second", second))
    }
    assert cached == {"first": 2 * BLOCK, "fourth": 2 * BLOCK, "third": 2 * BLOCK, "second": 0}


def test_a_failed_step_leaves_no_prefix_behind(pair: TinyPair) -> None:
    engine = make_engine(pair.target)
    run(engine, [request("first", PROMPT, 4)])
    engine.submit(request("second", PROMPT, 40))
    engine.step()
    engine.fail("engine_fault: on purpose")
    engine.check_integrity()
    assert summary(engine, "third", PROMPT, 4).cached_tokens == 0


@pytest.mark.parametrize(("orders", "loser"), [((0, 0, 0), "2"), ((1, 0, 0), "0"), ((2, 1, 2), "2")])
def test_the_last_in_order_gives_way(pair: TinyPair, orders: tuple[int, ...], loser: str) -> None:
    """Of equal classes the youngest, and before it whoever's class is preempted first."""
    engine = make_engine(pair.target, kv_blocks=8)
    for i, order in enumerate(orders):
        engine.submit(request(i, PROMPT[i : i + 20], 60, batch_class=BatchClass("x", preemption_order=order)))
    preempted: list[str] = []
    while not engine.idle and not preempted:
        engine.step()
        preempted = [s.request.request_id for s in engine.queue if s.preemptions]
    assert preempted == [loser]


def test_what_gave_way_goes_on_before_whoever_waits(pair: TinyPair) -> None:
    engine = make_engine(pair.target, kv_blocks=8, max_running_requests=3)
    for i in range(5):
        engine.submit(request(i, PROMPT[i : i + 20], 60))
    while not any(s.preemptions for s in engine.queue):
        engine.step()
    assert [s.request.request_id for s in engine.queue] == ["2", "3", "4"]


def test_a_preempted_request_that_is_cancelled_holds_nothing(pair: TinyPair) -> None:
    engine = make_engine(pair.target, pair.drafter, kv_blocks=8)
    for i in range(3):
        engine.submit(request(i, PROMPT[i : i + 20], 60))
    while not any(s.preemptions for s in engine.queue):
        engine.step()
    [(name, chunk)] = engine.cancel("2")
    assert name == "2"
    assert chunk.summary is not None
    assert chunk.summary.preemptions == 1
    while not engine.idle:
        engine.step()
    engine.check_integrity()
    assert engine.memory.pool.used == 0


def test_a_leak_is_noticed(pair: TinyPair) -> None:
    engine = make_engine(pair.target)
    engine.memory.pool.allocate(1)
    with pytest.raises(OutOfBlocks, match="running sequences hold 0"):
        engine.check_integrity()
    engine.reset_memory()
    engine.check_integrity()
