"""Memory changes neither answers nor acceptance: prefixes taken over, sequences preempted and resumed."""

from __future__ import annotations

import pytest

from outrider.types import GenerationRequest, TokenChunk
from support.engines import make_engine, prompts, request, run
from support.tiny import TinyPair

VOCAB, BLOCK = 97, 16


def tokens(chunks: list[TokenChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.tokens]


def asked(salt: str = "") -> list[GenerationRequest]:
    """16 requests of up to 100 positions, half of them sampled."""
    return [
        request(i, prompt, 60, temperature=float(i % 2), seed=i, salt=salt)
        for i, prompt in enumerate(prompts(16, VOCAB, (40, 7, 25, 33)))
    ]


@pytest.mark.parametrize("drafted", [False, True])
def test_memory_for_four_of_sixteen(pair: TinyPair, drafted: bool) -> None:
    drafter = pair.drafter if drafted else None
    roomy = run(make_engine(pair.target, drafter, kv_blocks=256), asked())
    tight = run(make_engine(pair.target, drafter, kv_blocks=4 * 7), asked())
    assert {name: tokens(chunks) for name, chunks in tight.items()} == {n: tokens(c) for n, c in roomy.items()}
    summaries = [chunks[-1].summary for chunks in tight.values()]
    assert sum(s.preemptions for s in summaries if s) > 3
    assert all(s and s.completion_tokens == 60 for s in summaries)
    assert all(s and s.completion_tokens == 1 + s.rounds + s.accepted_tokens for s in summaries)


def test_preempted_without_a_prefix_cache(pair: TinyPair) -> None:
    roomy = run(make_engine(pair.target, pair.drafter), asked())
    tight = run(make_engine(pair.target, pair.drafter, kv_blocks=4 * 7, prefix_cache=False), asked())
    assert {name: tokens(chunks) for name, chunks in tight.items()} == {n: tokens(c) for n, c in roomy.items()}


def test_answers_and_acceptance_after_a_hit_are_those_without_one(pair: TinyPair) -> None:
    """Greedy and full depth, so that both see the same proposals: round by round, the same admitted and accepted."""
    fresh = make_engine(pair.target, pair.drafter)
    hit = make_engine(pair.target, pair.drafter)
    turns = prompts(6, VOCAB, (90, 50, 33))
    run(hit, [request(f"before {i}", turn[:-5], 30) for i, turn in enumerate(turns)])
    for i, turn in enumerate(turns):
        [cold], [warm] = (run(engine, [request(f"turn {i}", turn, 30)]).values() for engine in (fresh, hit))
        assert tokens(warm) == tokens(cold)
        assert cold[-1].summary is not None
        assert warm[-1].summary is not None
        assert cold[-1].summary.cached_tokens == 0
        assert warm[-1].summary.cached_tokens == (len(turn) - 5) // BLOCK * BLOCK
        assert warm[-1].summary.round_records == cold[-1].summary.round_records
        assert warm[-1].summary.accepted_tokens > 0


def test_a_new_drafter_is_refilled_for_those_that_wait(pair: TinyPair) -> None:
    """A drafter that starts while sequences are preempted knows nothing of them."""
    from support.engines import in_process_link

    engine = make_engine(pair.target, pair.drafter, kv_blocks=4 * 7)
    expected = {n: tokens(c) for n, c in run(make_engine(pair.target), asked()).items()}
    done: dict[str, list[int]] = {name: [] for name in expected}
    for one in asked():
        engine.submit(one)
    attached = 0
    while not engine.idle:
        if attached < 3 and any(s.preemptions for s in engine.queue):
            engine.attach_drafter(in_process_link(engine, pair.drafter))
            attached += 1
        for name, chunk in engine.step():
            done[name] += chunk.tokens
    assert attached == 3
    assert done == expected
