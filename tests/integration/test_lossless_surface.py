"""Every sampling parameter through the whole engine gives what a plain loop gives, at any depth and in any company."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from outrider.drafter import server
from outrider.engine import Engine
from outrider.types import FinishReason, GenerationRequest, SamplingParams, TokenChunk
from support.engines import make_engine, prompts, request, run
from support.surface import plain_generate
from support.tiny import TinyPair, make_drafter, make_target, reference

VOCAB, TOKENS = 97, 20
ENDS = tuple(range(0, VOCAB, 4))
PROMPTS = prompts(4, VOCAB, (1, 7, 23, 40), seed=8)
CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "top_k": {"temperature": 1.0, "top_k": 5},
    "min_p": {"temperature": 1.4, "min_p": 0.1},
    "all cuts": {"temperature": 1.2, "top_k": 30, "top_p": 0.9, "min_p": 0.02},
    "repetition, greedy": {"repetition_penalty": 1.7},
    "repetition below one": {"repetition_penalty": 0.8, "temperature": 0.8},
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": 0.9, "temperature": 1.0},
    "rewarded": {"frequency_penalty": -1.1, "presence_penalty": -0.6},
    "bias": {"logit_bias": ((5, 4.0), (17, 5.5), (60, -100.0)), "temperature": 0.7},
    "min_tokens": {"min_tokens": 12, "ignore_eos": False},
    "min_tokens, sampled": {"min_tokens": 6, "ignore_eos": False, "temperature": 1.0},
    "stop tokens withheld": {"min_tokens": 9, "stop_token_ids": tuple(range(50, 97))},
    "everything": {
        "temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2,
        "presence_penalty": 0.3, "frequency_penalty": 0.4, "logit_bias": ((8, 2.0),), "min_tokens": 10,
        "ignore_eos": False,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """A target with end tokens that come up often."""
    folder = tmp_path_factory.mktemp("surface")
    target = make_target(folder / "target", eos=list(ENDS), seed=4)
    return TinyPair(target, make_drafter(folder / "drafter", target, seed=5))


@pytest.fixture(scope="module")
def stock_ending(ending: TinyPair) -> Any:
    return reference(ending.target)


@pytest.fixture(scope="module")
def engine(ending: TinyPair) -> Engine:
    return make_engine(ending.target, ending.drafter)


def sampling(case: str, prompt: int) -> SamplingParams:
    return SamplingParams(
        TOKENS, **{"temperature": 0.0, "ignore_eos": True, "logprobs": 3, **CASES[case], "seed": 70 + prompt}
    )


def asked(case: str, prompt: int, depth: int | None) -> GenerationRequest:
    return GenerationRequest(f"{case} {prompt}", PROMPTS[prompt], sampling(case, prompt), depth_cap=depth)


def tokens(chunks: list[TokenChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.tokens]


@pytest.fixture(scope="module")
def plain(stock_ending: Any) -> dict[str, tuple[list[int], list[torch.Tensor]]]:
    """The reference's tokens and distributions."""
    return {
        f"{case} {place}": plain_generate(stock_ending, prompt, sampling(case, place), ENDS)
        for case in CASES
        for place, prompt in enumerate(PROMPTS)
    }


@pytest.mark.parametrize("depth", [0, 2, None])
def test_all_cases_together_give_the_references_tokens(
    engine: Engine, plain: dict[str, tuple[list[int], list[torch.Tensor]]], depth: int | None
) -> None:
    done = run(engine, [asked(case, place, depth) for case in CASES for place in range(len(PROMPTS))])
    assert {name: tokens(chunks) for name, chunks in done.items()} == {name: out for name, (out, _) in plain.items()}
    accepted = [chunks[-1].summary.accepted_tokens for chunks in done.values() if chunks[-1].summary]
    assert sum(accepted) == 0 if depth == 0 else sum(accepted) > 100, accepted
    assert any(chunks[-1].finish is FinishReason.STOP for chunks in done.values())


@pytest.mark.parametrize("case", CASES)
def test_a_case_alone_gives_the_references_tokens_and_logprobs(
    engine: Engine, plain: dict[str, tuple[list[int], list[torch.Tensor]]], case: str
) -> None:
    for place in range(len(PROMPTS)):
        chunks = run(engine, [asked(case, place, None)])[f"{case} {place}"]
        expected, rows = plain[f"{case} {place}"]
        assert tokens(chunks) == expected
        assert all(len(chunk.logprobs) == len(chunk.tokens) for chunk in chunks)
        told = [one for chunk in chunks for one in chunk.logprobs]
        for one, token, row in zip(told, expected, rows, strict=True):
            assert one.token == token
            assert one.logprob == pytest.approx(float(row[token]), abs=1e-4)
            best = row.topk(3)
            assert [p for _, p in one.top] == pytest.approx(best.values.tolist(), abs=1e-4)
            assert [i for i, _ in one.top] == best.indices.tolist()


def test_parameters_do_change_the_output(plain: dict[str, tuple[list[int], list[torch.Tensor]]]) -> None:
    """What the parity above compares is not the same thing fourteen times."""
    outputs = {case: tuple(tuple(plain[f"{case} {place}"][0]) for place in range(len(PROMPTS))) for case in CASES}
    assert len(set(outputs.values())) == len(CASES)


def test_state_survives_losing_memory(ending: TinyPair, plain: dict[str, tuple[list[int], list[torch.Tensor]]]) -> None:
    engine = make_engine(ending.target, ending.drafter, kv_blocks=18, block_size=4)
    done = run(engine, [asked(case, place, None) for case in CASES for place in range(len(PROMPTS))])
    assert {name: tokens(chunks) for name, chunks in done.items()} == {name: out for name, (out, _) in plain.items()}
    preempted = [chunks[-1].summary.preemptions for chunks in done.values() if chunks[-1].summary]
    assert sum(preempted) > 10


def test_cuts_known_to_the_drafter_keep_acceptance(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With top_k told to both sides more is accepted than with the drafter left in the dark."""

    def accepted() -> int:
        wanted = [request(i, PROMPTS[i % 4], 40, temperature=1.6, top_k=3, seed=i, depth_cap=None) for i in range(32)]
        done = run(engine, wanted)
        return sum(chunks[-1].summary.accepted_tokens for chunks in done.values() if chunks[-1].summary)

    told = accepted()
    known = server._sampling
    monkeypatch.setattr(server, "_sampling", lambda *message: replace(known(*message), top_k=None))
    blind = accepted()
    assert told > 1.2 * blind, (told, blind)


# prompt log-probabilities


@pytest.mark.parametrize("overrides", [{}, {"max_step_tokens": 16}, {"kv_blocks": 18, "block_size": 4}])
def test_prompt_logprobs_are_the_models_own(ending: TinyPair, stock_ending: Any, overrides: dict[str, int]) -> None:
    """In one chunk, in many, and with memory lost between them; penalties have no say in a prompt."""
    engine = make_engine(ending.target, ending.drafter, **overrides)
    long = prompts(6, VOCAB, (1, 2, 17, 45, 40, 30), seed=3)
    plain = [request(f"other {i}", prompt, 10) for i, prompt in enumerate(long)]
    told = [
        request(i, prompt, 10, prompt_logprobs=2, repetition_penalty=1.5, logprobs=0) for i, prompt in enumerate(long)
    ]
    done = run(engine, [each for pair in zip(plain, told, strict=True) for each in pair])
    for i, prompt in enumerate(long):
        chunks = done[str(i)]
        assert not any(chunk.prompt_logprobs for chunk in (*chunks[1:], *done[f"other {i}"]))
        assert not any(chunk.logprobs for chunk in done[f"other {i}"])
        found = chunks[0].prompt_logprobs
        assert len(found) == len(prompt)
        assert found[0] is None
        with torch.inference_mode():
            rows = torch.log_softmax(stock_ending(torch.tensor([prompt])).logits[0], dim=-1)
        for row, token, one in zip(rows, prompt[1:], found[1:], strict=False):
            assert one is not None
            assert one.token == token
            assert one.logprob == pytest.approx(float(row[token]), abs=1e-4)
            assert [p for _, p in one.top] == pytest.approx(row.topk(2).values.tolist(), abs=1e-4)


def test_a_prompt_with_logprobs_is_computed_even_where_it_is_cached(engine: Engine, stock_ending: Any) -> None:
    prompt = PROMPTS[3]
    run(engine, [request("first", prompt, 2)])
    chunks = run(engine, [request("second", prompt, 2, prompt_logprobs=0)])["second"]
    assert len(chunks[0].prompt_logprobs) == len(prompt)
    assert chunks[-1].summary is not None
    assert chunks[-1].summary.cached_tokens == 0


def test_few_prompt_rows_are_kept_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt's logits never stand in memory together."""
    seen: list[int] = []
    forward = engine.target.forward

    def listen(batch: Any, cache: Any) -> Any:
        seen.append(0 if batch.logit_rows is None else len(batch.logit_rows))
        return forward(batch, cache)

    monkeypatch.setattr(engine.target, "forward", listen)
    long = prompts(3, VOCAB, (200, 150, 180), seed=9)
    run(engine, [request(i, prompt, 2, prompt_logprobs=0, depth_cap=0) for i, prompt in enumerate(long)])
    assert 0 < max(seen) <= 64 + len(long)
