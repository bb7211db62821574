"""Tokens per second of the engine and of `transformers` on the same weights, the same prompts and the same lengths."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import GenerationConfig

from outrider.bench.gpu.figures import Figure
from outrider.bench.gpu.models import RandomPair
from outrider.bench.gpu.rounds import FREE, random_requests
from outrider.bench.gpu.stand import Stand, release
from outrider.engine.attention import ATTENTION_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["measure_speed"]

_UNIT: Final = "tok/s"
_NOTES: Final = {
    "outrider": "greedy, prompts included",
    "outrider, whole blocks drafted": "random drafts are rejected: what drafting costs, not what it gains",
    "transformers.generate": "sdpa, one batch",
    "transformers.generate_batch": "continuous batching, its own warm-up included",
}


def measure_speed(stand: Stand) -> list[Figure]:
    """Every arm once to warm up and once for the clock, prompts included; `generate_batch` sets up for each call."""
    pair = stand.pair
    if pair is None:
        return [stand.missing("speed", "outrider", _UNIT, "there is no model")]
    cases = ((1, 256, 128), (64, 256, 128)) if stand.on_gpu else ((2, 8, 4),)
    return [figure for case in cases for figure in _compared(stand, pair, *case)]


def _compared(stand: Stand, pair: RandomPair, requests: int, prompt: int, max_tokens: int) -> list[Figure]:
    arms: dict[str, Callable[[], int]] = {
        "outrider": lambda: 0,
        "outrider, whole blocks drafted": lambda: 0,
        "transformers.generate": lambda: _generate(pair, requests, prompt, max_tokens),
        "transformers.generate_batch": lambda: _generate_batch(pair, requests, prompt, max_tokens),
    }
    figures: list[Figure] = []
    ours = 0.0
    for name, run in arms.items():
        label = f"{name}, {requests} requests of {prompt} + {max_tokens}"
        if stand.left_s <= 0:
            figures.append(stand.missing("speed", label, _UNIT, "no time left"))
            continue
        if name == "transformers.generate_batch" and not stand.on_gpu:
            figures.append(stand.missing("speed", label, _UNIT, ""))  # 15 s of waiting for threads at any size
            continue
        release()
        try:
            if name.startswith("outrider"):
                rate = _engine_rate(pair, requests, prompt, max_tokens, drafted="drafted" in name)
                ours = ours or rate
            else:
                with _stock_attention(pair):
                    rate = _rate(run, warm=name != "transformers.generate_batch")
        except Exception as error:  # a peer that does not run here must not end the check
            if name.startswith("outrider"):
                raise
            figures.append(stand.missing("speed", label, _UNIT, f"it raised {type(error).__name__}: {error}"[:120]))
            continue
        if not stand.on_gpu:
            figures.append(stand.missing("speed", label, _UNIT, ""))
            continue
        note = _NOTES[name] + (f"; outrider ÷ it {ours / rate:.2f}" if name.startswith("transformers") and ours else "")
        figures.append(Figure("speed", label, _UNIT, rate, note=note))
    return figures


def _engine_rate(pair: RandomPair, requests: int, prompt: int, max_tokens: int, *, drafted: bool) -> float:
    scheduler = f"fixed:{pair.shape.gamma}" if drafted else "none"
    settings = pair.settings(requests, prompt + max_tokens + pair.shape.gamma, scheduler=scheduler)
    wanted = random_requests(requests, pair.shape.vocab, prompt=prompt, max_tokens=max_tokens)
    with pair.open(settings, FREE, drafted=drafted) as local:
        return _rate(lambda: sum(len(done.tokens) for done in local.generate(wanted)))


def _rate(run: Callable[[], int], *, warm: bool = True) -> float:
    """Tokens a second of one call, after another that does not count. Raises RuntimeError where there was none."""
    if warm:
        run()
    started = time.perf_counter()
    tokens = run()
    if not tokens:
        raise RuntimeError("no token was generated")
    return tokens / (time.perf_counter() - started)


def _prompts(pair: RandomPair, requests: int, prompt: int) -> list[list[int]]:
    made = random_requests(requests, pair.shape.vocab, prompt=prompt, max_tokens=1)
    return [list(each.prompt_token_ids) for each in made]


def _config(max_tokens: int) -> GenerationConfig:
    return GenerationConfig(do_sample=False, max_new_tokens=max_tokens, use_cache=True, pad_token_id=0)


def _generate(pair: RandomPair, requests: int, prompt: int, max_tokens: int) -> int:
    ids = torch.tensor(_prompts(pair, requests, prompt), device=pair.target.device)
    with torch.inference_mode():
        output = pair.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=_config(max_tokens))
    return int(output[:, prompt:].numel())


def _generate_batch(pair: RandomPair, requests: int, prompt: int, max_tokens: int) -> int:
    done: dict[str, Any] = pair.model.generate_batch(
        _prompts(pair, requests, prompt), generation_config=_config(max_tokens), progress_bar=False
    )
    return sum(len(each.generated_tokens) for each in done.values())


@contextmanager
def _stock_attention(pair: RandomPair) -> Iterator[None]:
    pair.model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        pair.model.set_attn_implementation(ATTENTION_NAME)
