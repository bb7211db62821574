"""A seed reproduces its response: at any depth, alone or in company, over either link, after a drafter restart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from outrider.local import Completion, LocalEngine
from outrider.types import GenerationRequest
from support.engines import open_tiny, prompts, request
from support.parity import TIE, allowed_ties, first_difference, seeded_gap
from support.tiny import TinyPair

VOCAB, TOKENS = 97, 20
KINDS: tuple[Mapping[str, float], ...] = (
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.8},
    {"temperature": 1.5, "top_p": 0.95},
    {"temperature": 0.0},
)
PROMPTS = prompts(16, VOCAB, (1, 7, 32, 40))


def asked(depth: int | None, **changes: Any) -> list[GenerationRequest]:
    """Sixteen requests, four ways of sampling, each with a seed of its own."""
    return [
        request(i, prompt, TOKENS, depth_cap=depth, **{"seed": 1000 + i, **KINDS[i % len(KINDS)], **changes})
        for i, prompt in enumerate(PROMPTS)
    ]


@pytest.fixture(scope="module")
def engine(pair: TinyPair) -> Iterator[LocalEngine]:
    with open_tiny(pair.target, pair.drafter) as engine:
        yield engine


@pytest.fixture(scope="module")
def plain(pair: TinyPair) -> list[Completion]:
    """Each request alone, on an engine that never had a drafter."""
    with open_tiny(pair.target, None) as engine:
        return [engine.generate([one])[0] for one in asked(0)]


def check(done: list[Completion], plain: list[Completion], stock: Any) -> None:
    """Same tokens, but where the first difference was a tie of the race or of the nucleus border."""
    ties = 0
    for ours, theirs, one in zip(done, plain, asked(0), strict=False):
        place = first_difference(ours.tokens, theirs.tokens)
        if place is not None:
            prefix = [*one.prompt_token_ids, *theirs.tokens[:place]]
            assert one.sampling.temperature > 0, f"greedy request {one.request_id} differs at {place}"
            assert seeded_gap(stock, prefix, one.sampling) < TIE, f"request {one.request_id} differs at {place}"
            ties += 1
    assert ties <= allowed_ties(len(done))


@pytest.mark.parametrize("depth", [0, 1, 7, None])
def test_in_company_at_any_depth(engine: LocalEngine, plain: list[Completion], stock: Any, depth: int | None) -> None:
    done = engine.generate(asked(depth))
    check(done, plain, stock)
    taken = sum(one.summary.accepted_tokens for one in done if one.summary)
    assert taken == 0 if depth == 0 else taken > 20


def test_alone_at_full_depth(engine: LocalEngine, plain: list[Completion], stock: Any) -> None:
    check([engine.generate([one])[0] for one in asked(7)[:8]], plain, stock)


def test_in_narrow_steps_with_other_neighbours(pair: TinyPair, plain: list[Completion], stock: Any) -> None:
    with open_tiny(pair.target, pair.drafter, max_running_requests=3, max_step_tokens=24) as engine:
        done = engine.generate(list(reversed(asked(7))))
    check(done[::-1], plain, stock)


def test_over_zeromq_and_after_a_restart_of_the_drafter(
    separated: LocalEngine, plain: list[Completion], stock: Any
) -> None:
    check(separated.generate(asked(7)), plain, stock)
    separated.kill_drafter()
    separated.attach_drafter()
    done = separated.generate(asked(7))
    check(done, plain, stock)
    assert separated.engine.drafting.lost == 0
    assert sum(one.summary.accepted_tokens for one in done if one.summary) > 20


def test_seeds_and_choices_change_what_is_drawn(engine: LocalEngine, plain: list[Completion]) -> None:
    sampled = [i for i, one in enumerate(asked(0)) if one.sampling.temperature > 0]
    other_seed = engine.generate(asked(7, seed=77))
    assert sum(other_seed[i].tokens != plain[i].tokens for i in sampled) == len(sampled)
    one = asked(7)[0]
    first, second = engine.generate(
        [
            request(name, one.prompt_token_ids, TOKENS, temperature=1.0, seed=5, choice_index=n)
            for n, name in enumerate(("first", "second"))
        ]
    )
    assert first.tokens != second.tokens


def test_seeds_are_taken_modulo_two_to_the_64(engine: LocalEngine) -> None:
    def drawn(seed: int) -> list[int]:
        return engine.generate([request("x", PROMPTS[1], TOKENS, temperature=1.0, seed=seed)])[0].tokens

    assert drawn(-1) == drawn(2**64 - 1)
    assert drawn(2**63) == drawn(-(2**63))
    assert drawn(0) != drawn(1)
