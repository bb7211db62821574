"""Steady rounds of the engine over random weights: where their time goes, and how long the GPU waits for the host."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import torch

from outrider.bench.gpu.figures import Asked, Figure
from outrider.bench.gpu.gaps import profiled
from outrider.bench.gpu.stand import Stand, release
from outrider.engine import RoundTimes
from outrider.local import LocalEngine
from outrider.scheduling import StepCostCurve
from outrider.types import GenerationRequest, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FREE", "measure_rounds", "random_requests"]

FREE: Final = StepCostCurve(tokens=(1, 1 << 20), seconds=(1.0, 1.0), version="untrimmed")
"""A curve under which verifying costs nothing, for engines whose depth is set by hand."""
_GAPS: Final = Asked("≤", 0.05)
_WARM: Final = 12
_TIMED: Final = 24
_PROFILED: Final = 8
_PROMPT: Final = 256


def random_requests(
    count: int, vocab: int, *, prompt: int, max_tokens: int, temperature: float = 0.0
) -> list[GenerationRequest]:
    """Requests with random prompts of one length, that nothing but their length ends."""
    generator = torch.Generator().manual_seed(11)
    rows = torch.randint(vocab, (count, prompt), generator=generator).tolist()
    return [
        GenerationRequest(
            f"check-{place}",
            tuple(row),
            SamplingParams(max_tokens, temperature=temperature, seed=place, ignore_eos=True),
        )
        for place, row in enumerate(rows)
    ]


def measure_rounds(stand: Stand) -> list[Figure]:
    """Arms: decoding without a drafter, and every round with whole blocks drafted and verified; greedy and at T = 1."""
    pair = stand.pair
    sizes: Sequence[tuple[int, bool, float]] = [(1, False, 0.0), (64, False, 1.0), (1, True, 0.0), (64, True, 1.0)]
    if not stand.on_gpu:
        sizes = [(2, False, 0.0), (2, True, 1.0)]
    figures: list[Figure] = []
    for requests, drafted, temperature in sizes:
        label = f"{requests} requests, {'whole blocks' if drafted else 'no drafter'}, T {temperature:g}"
        if pair is None or stand.left_s <= 0:
            reason = "there is no model" if pair is None else "no time left"
            figures.append(stand.missing("round", f"host gaps, {label}", "share", reason, asked=_GAPS))
            continue
        rounds = _WARM + _TIMED + _PROFILED + 2 if stand.on_gpu else 6
        prompt = _PROMPT if stand.on_gpu else 16
        emitted = rounds * (1 + pair.shape.gamma) if drafted else rounds
        scheduler = f"fixed:{pair.shape.gamma}" if drafted else "none"
        settings = pair.settings(requests, prompt + emitted + pair.shape.gamma, scheduler=scheduler)
        release()
        with pair.open(settings, FREE, drafted=drafted) as local:
            wanted = random_requests(
                requests, pair.shape.vocab, prompt=prompt, max_tokens=emitted, temperature=temperature
            )
            figures += _steady(stand, local, wanted, label)
    return figures


def _steady(stand: Stand, local: LocalEngine, requests: list[GenerationRequest], label: str) -> list[Figure]:
    with _decoding(local, requests):
        if not stand.on_gpu:
            _rounds(local, 3)
            return [stand.missing("round", f"host gaps, {label}", "share", "", asked=_GAPS)]
        _rounds(local, _WARM)
        started = time.perf_counter()
        times = _rounds(local, _TIMED)
        whole = (time.perf_counter() - started) / _TIMED
        found = profiled(lambda: _rounds(local, _PROFILED))
    parts = ", ".join(
        f"{name} {statistics.median(getattr(t, f'{name}_s') for t in times) * 1e3:.3f}"
        for name in ("draft", "schedule", "run", "commit")
    )
    figures = [Figure("round", f"whole, {label}", "ms", whole * 1e3, note=f"ms: {parts}")]
    if found is None:
        reason = "the profiler saw no kernel (its use may not be permitted)"
        return [*figures, stand.missing("round", f"host gaps, {label}", "share", reason, asked=_GAPS)]
    note = f"under the profiler; gaps within graphs {found.within_s / found.span_s:.3f} more"
    return [*figures, Figure("round", f"host gaps, {label}", "share", found.host_share, asked=_GAPS, note=note)]


@contextmanager
def _decoding(local: LocalEngine, requests: list[GenerationRequest]) -> Iterator[None]:
    """All requests past their prompts; what is left of them is cancelled at the end."""
    engine = local.engine
    for request in requests:
        engine.submit(request)
    while engine.queue or not all(sequence.decoding for sequence in engine.running):
        time.sleep(engine.admission_wait_s)
        engine.step()
    yield
    for request in requests:
        engine.cancel(request.request_id)


def _rounds(local: LocalEngine, count: int) -> list[RoundTimes]:
    times = []
    for _ in range(count):
        local.engine.step()
        if (last := local.engine.last_times) is not None:
            times.append(last)
    return times
