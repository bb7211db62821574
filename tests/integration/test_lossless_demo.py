"""The shipped models in the whole engine: greedy equal to transformers, seeds equal at any depth, drafts that pay."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM

from outrider import demo_models
from outrider.errors import ModelDirectoryError
from outrider.local import Completion, LocalEngine
from outrider.text import TextModel
from outrider.types import GenerationRequest
from support.engines import open_tiny, request
from support.parity import TIE, allowed_ties, first_difference, greedy_reference, is_tie, seeded_gap

TOKENS, PER_DOMAIN = 24, 4


def installed() -> bool:
    try:
        return bool([demo_models.path(name) for name in ("flash", "flash-drafter")])
    except ModelDirectoryError:
        return False


pytestmark = pytest.mark.skipif(not installed(), reason="no demo models here: run `outrider models build`")


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with open_tiny(demo_models.path("flash"), demo_models.path("flash-drafter")) as engine:
        yield engine


@pytest.fixture(scope="module")
def stock() -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
        demo_models.path("flash"), dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    return model.eval()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """A few held-out conversations of each domain."""
    text = TextModel.load(demo_models.path("flash"))
    domains = sorted({item["domain"] for item in demo_models.held_out()})
    items = [item for domain in domains for item in itertools.islice(demo_models.held_out(domain), PER_DOMAIN)]
    return [text.encode_chat(item["messages"]) for item in items]


def asked(prompts: list[list[int]], depth: int, temperature: float) -> list[GenerationRequest]:
    return [
        request(i, prompt, TOKENS, depth_cap=depth, temperature=temperature, seed=i, ignore_eos=False)
        for i, prompt in enumerate(prompts)
    ]


def tau(done: list[Completion]) -> float:
    """Mean acceptance length, bonus included, over all decode rounds."""
    summaries = [one.summary for one in done if one.summary]
    return 1 + sum(s.accepted_tokens for s in summaries) / sum(s.rounds for s in summaries)


@pytest.mark.parametrize("depth", [0, 7])
def test_greedy_output_is_that_of_transformers(
    engine: LocalEngine, stock: torch.nn.Module, prompts: list[list[int]], depth: int
) -> None:
    done = engine.generate(asked(prompts, depth, 0.0))
    ties = 0
    for one, prompt in zip(done, prompts, strict=True):
        tokens, gaps = greedy_reference(stock, prompt, TOKENS)
        place = first_difference(one.tokens, tokens)
        if place is not None:
            assert is_tie(place, gaps), f"request {one.request_id} differs at {place}"
            ties += 1
    assert ties <= allowed_ties(len(done))
    assert depth == 0 or tau(done) > 2.0


def test_a_seed_gives_one_answer_at_any_depth(
    engine: LocalEngine, stock: torch.nn.Module, prompts: list[list[int]]
) -> None:
    plain = engine.generate(asked(prompts, 0, 1.0))
    deep = engine.generate(asked(prompts, 7, 1.0))
    ties = 0
    for ours, theirs, one in zip(deep, plain, asked(prompts, 0, 1.0), strict=True):
        place = first_difference(ours.tokens, theirs.tokens)
        if place is not None:
            prefix = [*one.prompt_token_ids, *theirs.tokens[:place]]
            assert seeded_gap(stock, prefix, one.sampling) < TIE, f"request {one.request_id} differs at {place}"
            ties += 1
    assert ties <= allowed_ties(len(plain))
    assert tau(deep) > 1.6
