"""Every kernel against its reference, on the device at serving sizes; without one, through Triton's interpreter.

The tests under `tests/gpu` are thorough; this is one look at each, at the shapes that are about to be timed. Run as a
module it prints figures as JSON: Triton decides whether to interpret when a kernel is defined, so that needs a process
of its own.

Shapes: R requests, B flat tokens, H query heads, K key/value heads, D head size, V vocabulary, γ block size.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from outrider.bench.gpu.figures import Asked, Figure
from outrider.bench.gpu.stand import Stand
from outrider_kernels import counter_noise
from outrider_kernels.draft_sampling.rows import DrawRows, SequentialHead
from outrider_kernels.ragged_attention.rows import RaggedRows
from outrider_kernels.verification.arguments import Drafted, VerifyRows

__all__ = ["check_kernels"]

_PART: Final = "correctness"
_INTERPRETED_S: Final = 240.0
_WITHIN: Final = "largest difference ÷ bound"
_ALIKE: Final = "share of tokens alike"
_DIFFERENCE: Final = Asked("≤", 1.0)
_SHARE: Final = Asked("≥", 0.99)
"""Of races between 150,000 tokens whose scores are summed in another order a few in 10,000 end otherwise."""
_ROUNDINGS: Final = {torch.bfloat16: 4 * 2.0**-8, torch.float32: 64 * 2.0**-24}
"""Relative to the largest value: weights and products are rounded once each, sums are kept in fp32."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    device: torch.device
    dtype: torch.dtype
    requests: int
    context: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    gamma: int = 7
    rank: int = 16
    hidden: int = 64

    def normal(self, *shape: int, std: float = 1.0) -> Tensor:
        return torch.randn(shape, device=self.device).mul_(std).to(self.dtype)

    def integers(self, *shape: int, most: int) -> Tensor:
        return torch.randint(most, shape, device=self.device)


def check_kernels(stand: Stand) -> list[Figure]:
    """One figure per kernel. Where there is no GPU the same is done at small sizes by the interpreter, elsewhere."""
    if stand.on_gpu:
        sizes = _Sizes(stand.device, torch.bfloat16, 16, 3000, 32, 8, 128, 151936, rank=256, hidden=4096)
        return _checked(sizes, "", lambda: stand.left_s > 0)
    command = [sys.executable, "-m", "outrider.bench.gpu.correctness"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    limit = max(1.0, min(_INTERPRETED_S, stand.left_s))
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit)
    except subprocess.TimeoutExpired:
        return [Figure(_PART, "kernels", _WITHIN, reason=f"the interpreter took more than {limit:.0f} s")]
    if done.returncode:
        raise RuntimeError(f"the interpreted check ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return [
        Figure(_PART, name, unit, value, asked=_DIFFERENCE if unit == _WITHIN else _SHARE, reason=reason, note=note)
        for name, unit, value, reason, note in json.loads(done.stdout)
    ]


def _checked(sizes: _Sizes, note: str, go_on: Callable[[], bool]) -> list[Figure]:
    figures = []
    for name, (unit, check) in _CHECKS.items():
        asked = _DIFFERENCE if unit == _WITHIN else _SHARE
        op = name.split(":")[0]
        if importlib.util.find_spec(f"outrider_kernels.{op}.triton") is None:
            figures.append(
                Figure(_PART, name, unit, asked=asked, reason="there is no kernel yet, the reference serves")
            )
        elif not go_on():
            figures.append(Figure(_PART, name, unit, asked=asked, reason="no time left"))
        else:
            torch.manual_seed(3)
            figures.append(Figure(_PART, name, unit, check(sizes), asked=asked, note=note))
    return figures


def _twins(op: str, function: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The kernel's launcher and the reference."""
    modules = [importlib.import_module(f"outrider_kernels.{op}.{twin}") for twin in ("triton", "reference")]
    return getattr(modules[0], function), getattr(modules[1], function)


def _off(found: Tensor, wanted: Tensor) -> float:
    """Largest difference ÷ what rounding explains; infinite where one is no number and the other is."""
    bound = _ROUNDINGS[wanted.dtype] * wanted.float().abs().max().clamp(min=1e-6)
    worst = ((found.float() - wanted.float()).abs() / bound).max().item()
    return float("inf") if worst != worst else float(worst)


def _alike(*pairs: tuple[Tensor, Tensor]) -> float:
    return min(float((found == wanted).float().mean()) for found, wanted in pairs)


def _noise(sizes: _Sizes) -> float:
    kernel = importlib.import_module("outrider_kernels.counter_noise.triton").exponential_rows
    keys = [sizes.integers(4, most=1 << 40) for _ in range(3)]
    wanted = counter_noise.exponential(counter_noise.row_keys(*keys).to(sizes.device), sizes.vocab)
    return _alike((kernel(*keys, sizes.vocab), wanted))


def _ragged(sizes: _Sizes) -> float:
    kernel, reference = _twins("ragged_attention", "ragged_attention")
    block = 16
    lengths = torch.arange(sizes.requests) % 8 + 1
    contexts = (torch.arange(sizes.requests) * 37 + 1) % sizes.context
    needed = int((lengths + contexts).max()) // block + 1
    blocks = torch.randperm(sizes.requests * needed).view(sizes.requests, needed).int()
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int()
    here = sizes.device
    rows = RaggedRows(starts.to(here), contexts.int().to(here), blocks.to(here), block, 8, needed * block)
    query = sizes.normal(int(lengths.sum()) + 3, sizes.heads, sizes.head_dim)
    kv = sizes.normal(blocks.numel() * block, 2, sizes.kv_heads, sizes.head_dim)
    options: dict[str, Any] = {"scaling": sizes.head_dim**-0.5}
    return _off(kernel(query, kv, rows, **options), reference(query, kv, rows, **options))


def _appended(sizes: _Sizes) -> float:
    kernel, reference = _twins("paged_append", "rotate_append")
    tokens, dim = 4 * sizes.requests, sizes.head_dim
    qkv = sizes.normal(tokens, (sizes.heads + 2 * sizes.kv_heads) * dim)
    positions = sizes.integers(tokens, most=sizes.context)
    slots = torch.randperm(2 * tokens, device=sizes.device)[:tokens]
    slots[:2] = -1
    norms = [1 + sizes.normal(dim, std=0.1) for _ in range(2)]
    frequencies = 1e6 ** (-torch.arange(0, dim, 2, device=sizes.device).float() / dim)
    results = []
    for run in (kernel, reference):
        kv = torch.zeros(2 * tokens, 2, sizes.kv_heads, dim, dtype=sizes.dtype, device=sizes.device)
        query = run(
            qkv, positions, slots, kv, heads=sizes.heads, kv_heads=sizes.kv_heads, q_norm=norms[0], k_norm=norms[1],
            eps=1e-6, frequencies=frequencies,
        )  # fmt: skip
        results.append(torch.cat([query.flatten(), kv.flatten()]))
    return _off(*results)


def _norms(sizes: _Sizes) -> float:
    kernel, reference = _twins("row_ops", "add_norm")
    hidden, added = sizes.normal(sizes.requests, sizes.hidden), sizes.normal(sizes.requests, sizes.hidden)
    weight = 1 + sizes.normal(sizes.hidden, std=0.1)
    pairs = zip(kernel(hidden, added, weight, 1e-6), reference(hidden, added, weight, 1e-6), strict=True)
    return max(_off(found, wanted) for found, wanted in pairs)


def _gates(sizes: _Sizes) -> float:
    kernel, reference = _twins("row_ops", "silu_mul")
    gate_up = sizes.normal(sizes.requests, 6 * sizes.hidden)
    return _off(kernel(gate_up), reference(gate_up))


def _blocks(sizes: _Sizes) -> float:
    kernel, reference = _twins("block_attention", "block_attention")
    own, dim = (sizes.requests, sizes.gamma), sizes.head_dim
    planes = [sizes.normal(sizes.requests, sizes.context, sizes.kv_heads, dim) for _ in range(2)]
    query, key, value = (sizes.normal(*own, heads, dim) for heads in (sizes.heads, sizes.kv_heads, sizes.kv_heads))
    slots = torch.randperm(sizes.requests, device=sizes.device)
    lengths = sizes.integers(sizes.requests, most=sizes.context).int()
    given = (query, key, value, *planes, slots, lengths)
    return _off(kernel(*given, scaling=dim**-0.5), reference(*given, scaling=dim**-0.5))


def _drawn(sizes: _Sizes) -> float:
    kernel, reference = _twins("draft_sampling", "draw_blocks")
    r, here = sizes.requests, sizes.device
    w1, w2 = (sizes.normal(sizes.vocab, sizes.rank, std=0.3) for _ in range(2))
    confidence = sizes.normal(sizes.hidden + sizes.rank, std=0.02)
    head = SequentialHead(w1, w2, confidence, torch.zeros((), device=here))
    ones, none = torch.ones(r, device=here), torch.zeros(r, dtype=torch.int64, device=here)
    temperature = torch.arange(r, device=here).remainder(2).float()
    seeds = torch.arange(r, device=here)
    rows = DrawRows(temperature, seeds, none, ones, none, ones * 0, none - 1, random=True, cuts=False, rejects=False)
    hidden, base = sizes.normal(r, sizes.gamma, sizes.hidden), sizes.normal(r, sizes.gamma, sizes.vocab, std=3.0)
    given = (hidden, base, sizes.integers(r, most=sizes.vocab), sizes.integers(r, most=sizes.context), head, rows)
    return _alike((kernel(*given).tokens[:, 0], reference(*given).tokens[:, 0]))


def _verified(sizes: _Sizes) -> float:
    kernel, reference = _twins("verification", "verify")
    logits, rows, drafted, starts = _judged(sizes)
    flags = {"random": True, "cuts": True, "rejects": False}
    found, wanted = kernel(logits, rows, drafted, starts, **flags), reference(logits, rows, drafted, starts, **flags)
    return _alike((found.accepted, wanted.accepted), (found.last, wanted.last))


def _judged(sizes: _Sizes) -> tuple[Tensor, VerifyRows, Drafted, Tensor]:
    """Coupled rows, some greedy, some with a nucleus; every other draft is the target's own choice."""
    each, here = sizes.gamma + 1, sizes.device
    count = sizes.requests * each
    request = torch.arange(sizes.requests, device=here).repeat_interleave(each)
    slot = torch.arange(each, device=here).repeat(sizes.requests)
    ones, none = torch.ones(count, device=here), torch.zeros(count, dtype=torch.int64, device=here)
    top_p = torch.where(request % 3 == 2, 0.9, 1.0)
    rows = VerifyRows(
        request.int(), slot.int(), (request % 2).float(), top_p, none, ones * 0, request, none, 100 + slot, none - 1
    )
    logits = sizes.normal(count, sizes.vocab, std=3.0)
    shape = (rows.temperature, rows.top_p, rows.top_k, rows.min_p, rows.seeds, rows.choices, rows.positions)
    chosen = _twins("verification", "choose")[1](logits, *shape, random=True, cuts=True)
    wrong = (chosen + 1) % sizes.vocab
    tokens = torch.where(slot < request % each, chosen, wrong)
    starts = torch.arange(0, count + 1, each, device=here).int()
    return logits, rows, Drafted(torch.where(slot == sizes.gamma, -1, tokens)), starts


_CHECKS: Final[dict[str, tuple[str, Callable[[_Sizes], float]]]] = {
    "counter_noise": (_ALIKE, _noise),
    "ragged_attention": (_WITHIN, _ragged),
    "paged_append: rotate_append": (_WITHIN, _appended),
    "row_ops: add_norm": (_WITHIN, _norms),
    "row_ops: silu_mul": (_WITHIN, _gates),
    "block_attention": (_WITHIN, _blocks),
    "draft_sampling": (_ALIKE, _drawn),
    "verification": (_ALIKE, _verified),
}


def _main() -> None:
    sizes = _Sizes(torch.device("cpu"), torch.float32, 3, 40, 4, 2, 16, 300, gamma=3)
    figures = _checked(sizes, "small sizes, through Triton's interpreter", lambda: True)
    print(json.dumps([(f.name, f.unit, f.value, f.reason, f.note) for f in figures]))


if __name__ == "__main__":
    _main()
