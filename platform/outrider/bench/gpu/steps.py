"""The engine's step over random weights: against the time its weights take to read, and as a cost model.

Shapes: R requests, B flat tokens.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import torch

from outrider.bench.gpu.figures import Asked, Figure
from outrider.bench.gpu.models import RandomPair, random_pair
from outrider.bench.gpu.stand import Stand, release
from outrider.engine.device.profile import DeviceStage
from outrider.engine.device.step import DeviceStep
from outrider.scheduling import CostModel, costs_document

__all__ = ["build_models", "measure_costs", "measure_decode"]

_BLOCK: Final = 16
_REPLAYS: Final = 20
_TIMED: Final = 7
_DECODE: Final = ((1, 256, Asked("≤", 1.25)), (64, 256, Asked("≤", 1.6)), (1, 8192, None), (64, 1024, None))
"""Requests, context, and what was asked of the time ÷ the time its weights take to read. Keys and values come on top:
64 requests at 1,024 positions read 0.6 of the 8B weights' bytes again, so that what was asked is at a short context."""
_SMOKE_DECODE: Final = ((1, 32, Asked("≤", 1.25)), (4, 32, Asked("≤", 1.6)))


def build_models(stand: Stand) -> list[Figure]:
    """Random models of the stand's preset. Building checks the engine's forward against the stock one's."""
    started = time.perf_counter()
    dtype = torch.bfloat16 if stand.on_gpu else torch.float32
    stand.pair = random_pair(stand.preset, stand.device, dtype)
    seconds = time.perf_counter() - started
    note = "built, and its forward agrees with transformers' own"
    if not stand.on_gpu:
        return [stand.missing("model", stand.preset, "s", "", note=note)]
    return [Figure("model", stand.preset, "s", seconds, note=note)]


def measure_decode(stand: Stand) -> list[Figure]:
    """Decode steps, one token a request, choosing included, replayed back to back: device time ÷ weight-read floor."""
    pair = stand.pair
    unit = "time ÷ weight read"
    figures = []
    for requests, context, asked in _DECODE if stand.on_gpu else _SMOKE_DECODE:
        name = f"{stand.preset} decode step, {requests} x 1 token at {context}"
        if pair is None:
            figures.append(stand.missing("step", name, unit, "there is no model", asked=asked))
            continue
        if stand.left_s <= 0:
            figures.append(stand.missing("step", name, unit, "no time left", asked=asked))
            continue
        release()
        run = _decode_step(pair, requests, context)
        if not stand.on_gpu or stand.copy_bytes_s is None:
            run()
            figures.append(stand.missing("step", name, unit, "no copy bandwidth was measured", asked=asked))
            continue
        seconds = [_replayed_s(run) for _ in range(_TIMED)]
        floor = pair.step_bytes / stand.copy_bytes_s
        low, median, high = (each / floor for each in statistics.quantiles(seconds, n=4))
        kv = requests * context * pair.shape.kv_bytes / stand.copy_bytes_s
        note = (
            f"{statistics.median(seconds) * 1e3:.3f} ms; weights {floor * 1e3:.3f} ms, keys and values {kv * 1e3:.3f}"
        )
        figures.append(Figure("step", name, unit, median, low, high, asked, note=note + " ms more"))
    return figures


def _decode_step(pair: RandomPair, requests: int, context: int) -> Callable[[], None]:
    """A step that is captured at its first call, in memory of its own where every request has blocks of its own."""
    target = pair.target
    if target.paged is None:
        raise RuntimeError("this target has no paged step")
    each = -(-(context + 2) // _BLOCK)
    cache = target.new_cache(each * requests, _BLOCK)
    for plane in cache.kv:
        plane.normal_()
    own = torch.arange(requests + 1, dtype=torch.int32, device=target.device) % requests
    tables = own[:, None] * each + torch.arange(each, dtype=torch.int32, device=target.device)
    step = DeviceStep(target.paged, cache, requests=requests, tokens=requests, gamma=1, tables=tables)
    stage: Any = DeviceStage(step, 1, requests)
    shape = stage._stage(context, requests)
    step.stage.send()

    def run() -> None:
        with torch.inference_mode():
            step.run(shape, step.told_depths())

    return run


def _replayed_s(run: Callable[[], None]) -> float:
    """Device seconds of one of many replays: the host is ahead after the first."""
    run()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(_REPLAYS):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / _REPLAYS


def measure_costs(stand: Stand) -> list[Figure]:
    """T_verify by tokens and context, T_draft by requests, as an engine measures them at start; kept for planning."""
    pair = stand.pair
    if pair is None:
        return [stand.missing("costs", "T_verify", "ms", "there is no model")]
    release()
    requests = 64 if stand.on_gpu else 4
    costs = pair.measure(256 if stand.on_gpu else 16, 20.0 if stand.on_gpu else 0.0)
    settings = pair.settings(requests, 512 if stand.on_gpu else 96)
    with pair.open(settings, costs, drafted=True, profiled=True) as local:
        costs = local.engine.costing.costs
    if not stand.on_gpu:
        return [stand.missing("costs", name, "ms", "") for name in ("T_verify", "T_draft")]
    stand.document["costs"] = costs_document(costs, {"model": pair.name, "weights": "random"})
    return _shown(costs)


def _shown(costs: CostModel) -> list[Figure]:
    """A few points of the curves; the document has them all."""
    figures = []
    for context, curve in costs.verify:
        for tokens in (1, 8, 64, 256):
            if tokens in curve.tokens:
                figures.append(
                    Figure("costs", f"T_verify, {tokens} tokens at {context}", "ms", curve.step_s(tokens) * 1e3)
                )
    if costs.draft is None:
        figures.append(Figure("costs", "T_draft", "ms", reason="drafts could not be measured"))
    else:
        figures += [Figure("costs", f"T_draft, {r} requests", "ms", s * 1e3) for r, s in costs.draft.points()]
    return figures
