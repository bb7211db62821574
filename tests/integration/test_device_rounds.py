"""Rounds that stay on the device emit what rounds through the host do, token by token, on the CPU as on a GPU.

The kernels' references compute here; the host's planning, staging, tables, cutting and bookkeeping are the real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from outrider.engine import Engine
from outrider.types import FinishReason, GenerationRequest
from support.engines import in_process_link, make_engine, prompts, request, run
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
    for name in ("verify", "launch"):
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
    assert (("verify" if drafted else "launch") in calls) or mix == "asking the host"


ON_DEVICE: dict[str, Any] = {
    "scheduler": "asynchronous", "device_draft": True, "device_rounds": True, "calibration_share": 0.2
}  # fmt: skip


@pytest.mark.parametrize("mix", MIXES)
def test_blocks_that_stay_on_the_device(pair: TinyPair, mix: str) -> None:
    """Drafted, cut and verified without the host, one round ahead of it.

    Under the coupled rule the tokens are those of plain decoding. Under rejection they are those that the same drafter
    gives through the host, draw by draw, up to the last rounds: there the host, a round late, has some drafted for who
    need no draft any more, which is another draw.
    """
    requests = wanted(MIXES[mix])
    engine = make_engine(pair.target, pair.drafter, **ON_DEVICE)
    calls = rounds_on_device(engine)
    found = run(engine, requests)
    assert "verify" not in calls or mix == "asking the host"
    through_host = run(make_engine(pair.target, pair.drafter, **{**ON_DEVICE, "device_rounds": False}), requests)
    plain = tokens(make_engine(pair.target), requests)
    for request_ in requests:
        name = request_.request_id
        ours, theirs = ([t for chunk in each[name] for t in chunk.tokens] for each in (found, through_host))
        coupled = request_.sampling.verification == "coupled"
        assert len(ours) == len(theirs)
        assert ours[: None if coupled else -9] == theirs[: None if coupled else -9]
        if coupled:
            assert ours == plain[name]
    assert sum(c[-1].summary.accepted_tokens for c in found.values() if c[-1].summary) > len(requests)


def test_prompts_longer_than_one_call_hands_over(pair: TinyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their context rows reach the drafter in pieces, and its blocks are what they are with all at once."""
    requests = wanted(MIXES["sampled"])
    found = []
    for most in (1024, 8):
        monkeypatch.setattr("outrider.engine.device.colocated._MOST_APPENDED", most)
        chunks = run(make_engine(pair.target, pair.drafter, **ON_DEVICE), requests)
        accepted = [s.accepted_tokens for each in chunks.values() if (s := each[-1].summary)]
        found.append((sum(accepted), {name: [t for c in each for t in c.tokens] for name, each in chunks.items()}))
    assert found[0] == found[1]
    assert found[0][0] > len(requests)


@pytest.mark.parametrize("depth", [1, 3, 7])
def test_fixed_depths_are_cut_on_the_device_too(pair: TinyPair, depth: int) -> None:
    options = {**ON_DEVICE, "scheduler": f"fixed:{depth}", "calibration_share": 0.0}
    engine = make_engine(pair.target, pair.drafter, **options)
    calls = rounds_on_device(engine)
    found = run(engine, wanted(MIXES["sampled"]))
    assert set(calls) == {"launch"}
    expected = tokens(make_engine(pair.target), wanted(MIXES["sampled"]))
    assert {name: [t for chunk in chunks for t in chunk.tokens] for name, chunks in found.items()} == expected
    depths = {admitted for chunks in found.values() if (s := chunks[-1].summary) for admitted, _ in s.round_records}
    assert max(depths) == depth


@pytest.mark.parametrize("options", [{}, ON_DEVICE], ids=["over the link", "on the device"])
@pytest.mark.parametrize("drafted", [False, True], ids=["plain", "drafted"])
@pytest.mark.parametrize("overrides", [{"kv_blocks": 14}, {"max_step_tokens": 20}, {"max_running_requests": 2}])
def test_under_pressure(pair: TinyPair, overrides: dict[str, int], drafted: bool, options: dict[str, Any]) -> None:
    """Little memory (preemption), prompts in pieces, places given to one after the other."""
    requests = wanted(MIXES["sampled"])
    expected = tokens(make_engine(pair.target), requests)
    drafter = pair.drafter if drafted else None
    engine = make_engine(pair.target, drafter, **{"device_rounds": True, **options, **overrides})
    assert tokens(engine, requests) == expected


@pytest.fixture
def flying(pair: TinyPair) -> Engine:
    """An engine with seven requests and a round in flight."""
    engine = make_engine(pair.target, pair.drafter, **ON_DEVICE)
    for one in wanted(MIXES["sampled"]):
        engine.submit(one)
    for _ in range(4):
        engine.step()
    assert engine._flight is not None
    return engine


def emitted(engine: Engine) -> dict[str, list[int]]:
    return {s.request.request_id: s.tokens[s.prompt_tokens :] for s in engine.running}


def rest(engine: Engine) -> dict[str, list[int]]:
    """Step to the end; what each request gained in it."""
    gained: dict[str, list[int]] = {}
    while not engine.idle:
        for name, chunk in engine.step():
            gained.setdefault(name, []).extend(chunk.tokens)
    engine.check_integrity()
    return gained


def test_stop_tokens_end_an_answer_while_the_next_round_is_in_flight(pair: TinyPair) -> None:
    whole = tokens(make_engine(pair.target), wanted(MIXES["greedy"]))
    stops = {name: each[9] for name, each in whole.items()}
    requests = [
        request(i, prompt, 24, salt=str(i), stop_token_ids=(stops[str(i)],)) for i, prompt in enumerate(PROMPTS)
    ]
    for drafter in (None, pair.drafter):
        found = tokens(make_engine(pair.target, drafter, **ON_DEVICE), requests)
        assert found == {name: each[: each.index(stops[name]) + 1] for name, each in whole.items()}


def test_cancelling_a_request_whose_round_is_in_flight(flying: Engine, pair: TinyPair) -> None:
    expected = tokens(make_engine(pair.target), wanted(MIXES["sampled"]))
    so_far = emitted(flying)
    ((name, chunk),) = flying.cancel("3")
    assert (name, chunk.finish) == ("3", FinishReason.CANCELLED)
    gained = rest(flying)
    assert "3" not in gained
    del expected["3"]
    assert {name: [*so_far[name], *gained[name]] for name in expected} == expected


def test_a_drafter_that_comes_while_a_round_is_in_flight(flying: Engine, pair: TinyPair) -> None:
    """Nothing of the round is lost, and the new drafter is filled from nothing."""
    expected = tokens(make_engine(pair.target), wanted(MIXES["sampled"]))
    so_far = emitted(flying)
    flying.attach_drafter(in_process_link(flying, pair.drafter, device_draft=True))
    gained = rest(flying)
    assert {name: [*so_far[name], *gained[name]] for name in expected} == expected


def test_a_failure_ends_what_was_in_flight(flying: Engine) -> None:
    ended = flying.fail("broken on purpose")
    assert {chunk.error for _, chunk in ended} == {"broken on purpose"}
    assert flying.idle
    flying.check_integrity()


def test_a_request_that_only_the_host_can_serve_joins(flying: Engine, pair: TinyPair) -> None:
    """Rounds change sides and back, in the middle of the others' answers."""
    guest = request("guest", PROMPTS[0], 6, salt="guest", logprobs=1)
    expected = tokens(make_engine(pair.target), [*wanted(MIXES["sampled"]), guest])
    so_far = emitted(flying)
    flying.submit(guest)
    gained = rest(flying)
    assert {name: [*so_far.get(name, []), *gained[name]] for name in expected} == expected


def test_a_prefix_that_another_request_computed(pair: TinyPair) -> None:
    prompt = prompts(1, 97, [70])[0]
    engine = make_engine(pair.target, pair.drafter, device_rounds=True)
    first = tokens(engine, [request("a", prompt, 12)])["a"]
    assert tokens(engine, [request("b", prompt, 12)])["b"] == first


def test_blocks_of_no_power_of_two_stay_with_the_host(pair: TinyPair) -> None:
    engine = make_engine(pair.target, device_rounds=True, block_size=12)
    assert engine._device is None
