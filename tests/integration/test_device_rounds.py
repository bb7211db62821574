"""Rounds that stay on the device emit what rounds through the host do, token by token, on the CPU as on a GPU.

The kernels' references compute here; the host's planning, staging, tables, cutting and bookkeeping are the real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from outrider.engine import Engine
from outrider.types import GenerationRequest
from support.engines import make_engine, prompts, request, run
from support.tiny import TinyPair

PROMPTS = prompts(7, 97, [3, 17, 40])
MIXES: dict[str, list[dict[str, Any]]] = {
    "greedy": [{}],
    "sampled": [{"temperature": 1.0}, {"temperature": 0.7}],
    "cuts": [{"temperature": 1.0, "top_p": 0.8}, {"temperature": 0.9, "top_k": 5}, {"temperature": 1.3, "min_p": 0.1}],
    "rejection": [{"temperature": 1.0, "verification": "rejection"}, {"temperature": 0.8}, {}],
    "rejection with cuts": [{"temperature": 1.0, "top_p": 0.7, "verification": "rejection"}],
    "asking the host": [{"logprobs": 2}, {"temperature": 1.0}, {"presence_penalty": 0.8}],
}  # fmt: skip


def wanted(mix: list[dict[str, Any]], tokens: int = 24) -> list[GenerationRequest]:
    return [request(i, prompt, tokens, seed=i, salt=str(i), **mix[i % len(mix)]) for i, prompt in enumerate(PROMPTS)]


def tokens(engine: Engine, requests: Sequence[GenerationRequest]) -> dict[str, list[int]]:
    return {name: [t for chunk in chunks for t in chunk.tokens] for name, chunks in run(engine, requests).items()}


def rounds_on_device(engine: Engine) -> list[str]:
    """Count what the engine's device is asked for, by name."""
    device: Any = engine._device
    calls: list[str] = []
    for name in ("verify", "draft_and_verify"):
        original = getattr(device, name)

        def counted(*args: Any, name: str = name, original: Any = original) -> Any:
            calls.append(name)
            return original(*args)

        setattr(device, name, counted)
    return calls


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("drafted", [False, True], ids=["plain", "drafted"])
def test_blocks_that_the_host_holds(pair: TinyPair, mix: str, drafted: bool) -> None:
    drafter = pair.drafter if drafted else None
    requests = wanted(MIXES[mix])
    expected = tokens(make_engine(pair.target, drafter), requests)
    engine = make_engine(pair.target, drafter, device_rounds=True)
    calls = rounds_on_device(engine)
    assert tokens(engine, requests) == expected
    assert ("verify" in calls) or mix == "asking the host"


@pytest.mark.parametrize("mix", MIXES)
def test_blocks_that_stay_on_the_device(pair: TinyPair, mix: str) -> None:
    """Drafted, cut and verified without the host: what the same drafter gives through it, draw by draw.

    Under the coupled rule the tokens are also those of plain decoding.
    """
    requests = wanted(MIXES[mix])
    options: dict[str, Any] = {"scheduler": "asynchronous", "device_draft": True, "calibration_share": 0.2}
    engine = make_engine(pair.target, pair.drafter, device_rounds=True, **options)
    calls = rounds_on_device(engine)
    found = run(engine, requests)
    assert ("draft_and_verify" in calls) == (mix != "asking the host")
    through_host = run(make_engine(pair.target, pair.drafter, **options), requests)
    plain = tokens(make_engine(pair.target), requests)
    for request_ in requests:
        name = request_.request_id
        ours = [t for chunk in found[name] for t in chunk.tokens]
        assert ours == [t for chunk in through_host[name] for t in chunk.tokens]
        if request_.sampling.verification == "coupled":
            assert ours == plain[name]
    accepted, expected = (
        sum(chunks[-1].summary.accepted_tokens for chunks in each.values() if chunks[-1].summary)
        for each in (found, through_host)
    )
    assert accepted > 0
    assert accepted == expected


@pytest.mark.parametrize("overrides", [{"kv_blocks": 14}, {"max_step_tokens": 20}, {"max_running_requests": 2}])
def test_under_pressure(pair: TinyPair, overrides: dict[str, int]) -> None:
    """Little memory (preemption), prompts in pieces, places given to one after the other."""
    requests = wanted(MIXES["sampled"])
    expected = tokens(make_engine(pair.target, pair.drafter), requests)
    engine = make_engine(pair.target, pair.drafter, device_rounds=True, **overrides)
    assert tokens(engine, requests) == expected


def test_a_prefix_that_another_request_computed(pair: TinyPair) -> None:
    prompt = prompts(1, 97, [70])[0]
    engine = make_engine(pair.target, pair.drafter, device_rounds=True)
    first = tokens(engine, [request("a", prompt, 12)])["a"]
    assert tokens(engine, [request("b", prompt, 12)])["b"] == first


def test_blocks_of_no_power_of_two_stay_with_the_host(pair: TinyPair) -> None:
    engine = make_engine(pair.target, device_rounds=True, block_size=12)
    assert engine._device is None
