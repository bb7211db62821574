"""Kernels against what the device can do: bytes and operations that each op counts, rates that are measured first."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Final

import torch

from outrider.bench.gpu.figures import Asked, Figure
from outrider.bench.gpu.stand import Stand
from outrider_kernels.benching import Case, copy_bandwidth, measured

__all__ = ["OPS", "cases_of", "compare_kernels", "measure_rates"]

OPS: Final = ("ragged_attention", "block_attention", "draft_sampling", "verification", "paged_append", "row_ops")

_FLOOR: Final = "time ÷ floor"
_COPY: Final = "bandwidth ÷ copy"
_WORDS: Final[dict[str, tuple[str, Asked]]] = {
    "ragged_attention": (_COPY, Asked("≥", 0.75)),
    "verification": (_FLOOR, Asked("≤", 1.5)),
    "draft_sampling": (_FLOOR, Asked("≤", 1.5)),
}
"""What was asked of whom; of verification and drawing where 64 requests have blocks of 8 rows over 152,000 tokens."""
_ASKED_BYTES: Final = 100_000_000
"""Smaller cases wait for launches, not for memory: nothing was asked of them."""
_PRODUCT: Final = 8192
_MOST_MEMORY: Final = 0.8


def measure_rates(stand: Stand) -> list[Figure]:
    """Copy bandwidth and the rate of a large bf16 product: what the other figures are held against."""
    part = "device"
    if not stand.on_gpu:
        return [stand.missing(part, "copy bandwidth", "GB/s", ""), stand.missing(part, "bf16 product", "TFLOP/s", "")]
    stand.copy_bytes_s = copy_bandwidth(stand.device)
    operations = 2 * _PRODUCT**3

    def make(device: torch.device) -> Callable[[], object]:
        left, right = (torch.randn(_PRODUCT, _PRODUCT, device=device, dtype=torch.bfloat16) for _ in range(2))
        return lambda: left @ right

    seconds = measured(Case("product", make, 6 * _PRODUCT**2, operations, "bf16"), stand.device).median_s
    assert stand.copy_bytes_s is not None
    assert seconds is not None
    stand.bf16_operations_s = operations / seconds
    return [
        Figure(part, "copy bandwidth", "GB/s", stand.copy_bytes_s / 1e9, note="read and written, 1 GiB"),
        Figure(part, "bf16 product", "TFLOP/s", stand.bf16_operations_s / 1e12, note=f"{_PRODUCT}³"),
    ]


def cases_of(op: str) -> list[Case]:
    """An op's cases; none where it has no benchmark."""
    module = f"outrider_kernels.{op}.bench"
    if importlib.util.find_spec(module) is None:
        return []
    cases: list[Case] = importlib.import_module(module).cases()
    return cases


def compare_kernels(stand: Stand) -> list[Figure]:
    """Every op's cases. A floor is the larger of bytes ÷ copy bandwidth and bf16 operations ÷ the product's rate."""
    figures = []
    for op in OPS:
        cases = cases_of(op)
        if not cases:
            figures.append(stand.missing(op, "all", _FLOOR, "it has no benchmark yet"))
        unit, asked = _WORDS.get(op, (_FLOOR, None))
        for case in cases:
            bound = asked if case.bytes >= _ASKED_BYTES else None
            figures.append(_compared(stand, op, case, unit, bound))
    return figures


def _compared(stand: Stand, op: str, case: Case, unit: str, asked: Asked | None) -> Figure:
    def missing(reason: str) -> Figure:
        return stand.missing(op, case.name, unit, reason, asked=asked)

    if not stand.on_gpu:
        return missing("")
    if stand.copy_bytes_s is None:
        return missing("no copy bandwidth was measured")
    if stand.left_s <= 0:
        return missing("no time left")
    if case.bytes > _MOST_MEMORY * torch.cuda.mem_get_info(stand.device)[0]:
        return missing(f"its {case.bytes / 1e9:.0f} GB do not fit")
    try:
        found = measured(case, stand.device)
    except torch.OutOfMemoryError:
        return missing("out of memory")
    if found.median_s is None or found.low_s is None or found.high_s is None:
        return missing("nothing was timed")
    floor = case.bytes / stand.copy_bytes_s
    if case.unit == "bf16" and stand.bf16_operations_s:
        floor = max(floor, case.operations / stand.bf16_operations_s)
    times = (found.median_s, found.low_s, found.high_s)
    value, low, high = (each / floor for each in times)
    if unit == _COPY:
        rates = [case.bytes / each / stand.copy_bytes_s for each in times]
        value, low, high = rates[0], rates[2], rates[1]
    note = f"{found.median_s * 1e6:.1f} µs, floor {floor * 1e6:.1f} µs"
    return Figure(op, case.name, unit, value, low, high, asked, note=note + ("" if found.graph else ", no graph"))
