"""One step of the target on every path there is, in turn: stock modules, the flat eager path, the compiled step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from outrider.bench.report import Report, Table
from outrider.bench.setup import Setup
from outrider.bench.spread import Say, Spread, ratios, take_turns
from outrider.engine import TargetModel
from outrider.engine.attention import Span
from outrider.engine.target import FlatBatch

__all__ = ["measure_step", "verify_step"]

STOCK = "stock"
_BLOCK = 16
_STEPS = 8


def measure_step(
    setup: Setup, *, requests: tuple[int, ...], depths: tuple[int, ...], context: int, repetitions: int, say: Say
) -> Report:
    """Milliseconds of a forward in which each request verifies `depth` drafts and its anchor after `context` tokens.

    Speed is the stock path's time over a path's own, turn by turn.
    """
    arms = {
        STOCK: TargetModel.load(setup.target, dtype=setup.dtype, device=setup.device, stock=True),
        "flat, eager": TargetModel.load(setup.target, dtype=setup.dtype, device=setup.device, compiled=False),
        "compiled": TargetModel.load(setup.target, dtype=setup.dtype, device=setup.device),
    }
    ready = arms["compiled"].compiled
    if ready is None or ready.pending.wait() is None:
        del arms["compiled"]
    report = Report(
        "step",
        setup.configuration(),
        {"context": context, "repetitions": repetitions, "parameters": _parameters(setup)},
        notes=[] if "compiled" in arms else ["no compiled step on this machine for this model"],
    )
    for depth in depths:
        for count in requests:
            label = f"{count} request{'s' if count > 1 else ''}, depth {depth}"
            steps = {name: verify_step(target, [depth + 1] * count, context) for name, target in arms.items()}
            runs = take_turns(steps, repetitions, lambda line, label=label: say(f"{label}, {line}"))  # type: ignore[misc]
            table = Table(f"a step, {label}", ("arm", "ms", f"speed ÷ {STOCK}", "tokens/s"))
            for name, seconds in runs.items():
                table.add(
                    name,
                    Spread.of([each * 1e3 for each in seconds]),
                    ratios(runs[STOCK], seconds),
                    Spread.of([count * (depth + 1) / each for each in seconds]),
                )
            report.tables.append(table)
    return report


def verify_step(target: TargetModel, lengths: Sequence[int], context: int) -> Callable[[], float]:
    """Seconds of a forward of requests that each verify `lengths` tokens after `context`, the mean of several in a row.

    One before them warms what the other arms have emptied.
    """
    blocks = -(-(context + max(lengths)) // _BLOCK)
    cache = target.new_cache(blocks * len(lengths), _BLOCK)
    slots = [cache.slots_of(list(range(row * blocks, (row + 1) * blocks))) for row in range(len(lengths))]
    positions = torch.cat([torch.arange(context, context + length) for length in lengths]).to(target.device)
    tokens = torch.arange(len(positions)).remainder(target.vocab_size).to(target.device)
    batch = FlatBatch(
        tokens,
        positions,
        tuple(Span(context, length, each) for length, each in zip(lengths, slots, strict=True)),
        torch.arange(len(positions), device=target.device),
    )
    forward = partial(target.forward, batch, cache)

    def run() -> float:
        forward()
        started = time.perf_counter()
        for _ in range(_STEPS):
            forward()
        if target.device.type == "cuda":
            torch.cuda.synchronize(target.device)
        return (time.perf_counter() - started) / _STEPS

    return run


def _parameters(setup: Setup) -> int:
    """How many the target's files hold."""
    from safetensors import safe_open

    total = 0
    for file in sorted(setup.target.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                total += torch.Size(tensors.get_slice(name).get_shape()).numel()
    return total
