"""Every common family: greedy output equals `transformers.generate`, plain and under speculation, past the window."""

from __future__ import annotations

from pathlib import Path

import pytest

from outrider.drafter.lookup import LookupProposer
from outrider.engine import Engine, TargetModel
from outrider.local import Completion, LinkKind, LocalEngine
from support.engines import CURVE, open_tiny, prompts, request, settings
from support.families import FAMILIES, VOCAB, WINDOW, make_family
from support.parity import first_difference, greedy_reference, is_tie
from support.tiny import make_drafter, reference

TOKENS = 16
PROMPTS = prompts(5, VOCAB, (1, 7, 9, 40, 70))
"""Shorter than the window and longer, one of them longer than a step."""

Expected = list[tuple[list[int], list[float]]]


def answers(directory: Path) -> Expected:
    stock = reference(directory)
    return [greedy_reference(stock, prompt, TOKENS) for prompt in PROMPTS]


def narrow(target: TargetModel) -> LocalEngine:
    """An engine that prefills in chunks of 32 and pages of 8."""
    one = settings(max_step_tokens=32, block_size=8)
    return LocalEngine(Engine(target, one, CURVE), None, LinkKind.IN_PROCESS)


def generate(engine: LocalEngine, depth: int) -> list[Completion]:
    return engine.generate([request(i, prompt, TOKENS, depth_cap=depth) for i, prompt in enumerate(PROMPTS)])


def check(done: list[Completion], expected: Expected) -> None:
    for completion, (tokens, gaps) in zip(done, expected, strict=True):
        place = first_difference(completion.tokens, tokens)
        assert place is None or is_tie(place, gaps), f"request {completion.request_id} differs at {place}"


def accepted(done: list[Completion]) -> int:
    return sum(one.summary.accepted_tokens for one in done if one.summary)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_plain_and_with_prompt_lookup(tmp_path: Path, family: str) -> None:
    directory = make_family(tmp_path / family, family)
    expected = answers(directory)
    assert len({token for tokens, _ in expected for token in tokens}) > len(PROMPTS)  # not one word over and over
    target = TargetModel.load(directory)
    sliding = any("sliding" in str(value) for value in FAMILIES[family])
    assert set(target.attention.windows.values()) == ({WINDOW} if sliding else set())
    engine = narrow(target)
    check(generate(engine, 0), expected)
    engine.attach_proposer(LookupProposer(VOCAB, 256, 4), "lookup")
    done = generate(engine, 4)
    check(done, expected)
    assert sum(one.summary.drafted_tokens for one in done if one.summary) > 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "gpt_neox"])
def test_a_drafter_taps_any_family(tmp_path: Path, family: str) -> None:
    directory = make_family(tmp_path / family, family)
    drafter = make_drafter(tmp_path / "drafter", directory, layer_ids=(-1, 1), fitted=3.0)
    with open_tiny(directory, drafter, max_step_tokens=32, block_size=8) as engine:
        done = generate(engine, 7)
    check(done, answers(directory))
    assert accepted(done) > 5
