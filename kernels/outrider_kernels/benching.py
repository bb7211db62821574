"""What an op's benchmark consists of, and how one is timed on a GPU.

Every op folder has a `bench.py` with `cases() -> list[Case]`. A case knows what the op has to read, write and compute,
so that its time can be held against what the machine could do; whoever runs it (`outrider.bench.gpu`) has the rates. An
op may also list the forms that serving compiles, `code_variants() -> list[Variant]`, for `load_tests/kernel_code.py`.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch

__all__ = ["Case", "Measured", "Unit", "Variant", "copy_bandwidth", "input_sets", "measured"]

Unit = Literal["bf16", "fp32", "int32"]
"""Which of a GPU's pipes does most of an op's operations: tensor cores, fp32 or int32 lanes."""

_REPLAY_S: Final = 2e-3
"""How long one timed replay lasts at least: what starts and ends it then weighs less than a per cent."""
_MOST_SETS: Final = 16
_MOST_CALLS: Final = 256
_TIMED_REPLAYS: Final = 15
_UNSEEN_L2S: Final = 3
"""How many times the L2 cache the bytes between two uses of the same inputs are: none of them is left there."""


@dataclass(frozen=True, slots=True)
class Case:
    """One op at one size.

    `make` allocates and fills inputs on a device and returns the call to time; it is called several times, for several
    sets of inputs. `bytes`: each input read once and each output written once. `operations`: counted by hand, in `unit`
    (a multiply-add is two).
    """

    name: str
    make: Callable[[torch.device], Callable[[], object]]
    bytes: int
    operations: int
    unit: Unit


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of one call: the median of `replays`, and the quarter and three-quarter points. None: not measured."""

    median_s: float | None
    low_s: float | None = None
    high_s: float | None = None
    replays: int = 0
    sets: int = 0
    graph: bool = False
    """Whether the calls were replayed from one CUDA graph. Else they were launched one by one, and small ones wait for
    the host."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One form of a Triton kernel that serving compiles: what `triton.compile` needs to know of it.

    `signature`: argument name to type (`*bf16`, `i32`, `fp32`, `constexpr`), in the kernel's order. `aligned`: names of
    pointers and integers that are multiples of 16, as those of torch are. `elements`: what one program works off in one
    pass of its longest loop (of all its code where it has none); 0 where instructions per element say nothing.
    `tensor_cores`: whether its products are meant to run on them. `wide_loads`: whether its bulk is meant to be read 16
    bytes at a time.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, object]
    aligned: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    elements: int = 0
    tensor_cores: bool = False
    wide_loads: bool = False


def input_sets(bytes_per_set: int, l2_bytes: int, free_bytes: int) -> int:
    """How many sets of inputs a case takes turns with, so that the L2 cache never serves one: 1 where a set is so large
    that its own end has driven its beginning out, and no more than fit in half of the free memory.
    """
    needed = -(-_UNSEEN_L2S * l2_bytes // max(bytes_per_set, 1)) + 1
    if bytes_per_set >= 2 * _UNSEEN_L2S * l2_bytes:
        needed = 1
    fitting = free_bytes // 2 // max(bytes_per_set, 1)
    return max(1, min(needed, fitting, _MOST_SETS))


def measured(case: Case, device: torch.device) -> Measured:
    """Seconds of one call of a case on a GPU; on any other device nothing runs and there is no time.

    All sets of inputs are called in turn inside one CUDA graph, after a warm-up outside of it, often enough that a
    replay lasts 2 ms; what a graph cannot hold is launched anew each time. Out of memory is the caller's to catch.
    """
    if device.type != "cuda":
        return Measured(None)
    with torch.cuda.device(device), torch.inference_mode():
        gc.collect()
        torch.cuda.empty_cache()
        properties = torch.cuda.get_device_properties(device)
        sets = input_sets(case.bytes, properties.L2_cache_size, torch.cuda.mem_get_info(device)[0])
        calls = [case.make(device) for _ in range(sets)]
        _warm(calls)
        replay = _captured(calls)
        graph = replay is not None
        replay = replay or (lambda: _all(calls))
        turns = max(1, min(_MOST_CALLS // len(calls), round(_REPLAY_S / max(_seconds(replay), 1e-7))))
        repeated = (_captured(calls * turns) if graph else None) or (lambda: _all(calls * turns))
        repeated()
        times = sorted(_seconds(repeated) / (len(calls) * turns) for _ in range(_TIMED_REPLAYS))
    low, median, high = statistics.quantiles(times, n=4)
    return Measured(median, low, high, len(times), len(calls), graph)


def copy_bandwidth(device: torch.device, size: int = 1 << 30) -> float | None:
    """Bytes a second, read and written together, of copying `size` bytes within a GPU's memory; None elsewhere."""
    if device.type != "cuda":
        return None

    def make(on: torch.device) -> Callable[[], object]:
        source = torch.empty(size, dtype=torch.uint8, device=on).random_()
        copy = torch.empty_like(source)
        return lambda: copy.copy_(source)

    found = measured(Case("copy", make, 2 * size, 0, "int32"), device).median_s
    return None if found is None else 2 * size / found


def _all(calls: list[Callable[[], object]]) -> None:
    for call in calls:
        call()


def _warm(calls: list[Callable[[], object]]) -> None:
    """On a stream of its own, as capturing asks for: the first call compiles, the second is the first ordinary one."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        _all(calls)
        _all(calls)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()


def _captured(calls: list[Callable[[], object]]) -> Callable[[], None] | None:
    """The calls as one graph; None where one of them does what a graph cannot hold."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            _all(calls)
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph.replay


def _seconds(replay: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    replay()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
