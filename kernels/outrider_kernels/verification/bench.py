"""Verification at serving sizes: 64 requests, γ = 7, a vocabulary of 151,936.

What bounds it, by counting sm_90 code (Triton 3.6), per bf16 logit of the scan: 7 instructions for maximum and sum, 2
for what may still win, 15 for the noise's integer (4 of them products), no logarithm. 12.8 of these 24 run on the
integer pipe, 64 a cycle: 0.20 cycles, where 4.8 TB/s into 132 multiprocessors at 1.755 GHz bring a bf16 logit in 0.097
and an fp32 one in 0.19. So coupled bf16 rows are bound by the noise's integers, at about twice the bytes' time, fp32
ones by both alike; greedy and rejection rows (8 instructions) by memory. A part's first tile costs as much as four
others, and tiles in which nothing is likelier than 2⁻³³ of the leader cost 9 instructions a logit.

Shapes: R requests, n rows, V vocabulary, w width of q.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch

from outrider_kernels.benching import Case, Variant
from outrider_kernels.verification import Drafted, VerifyRows, verify

__all__ = ["cases", "code_variants"]

_VOCAB: Final = 151_936
_ROWS: Final = 8
_WIDTH: Final = 64


def _make(
    requests: int, dtype: torch.dtype, heat: float, top_p: float, top_k: int, rejects: bool, device: torch.device
) -> Callable[[], object]:
    """Logits as of a language model: a standard deviation of 3 and, in each row, 8 tokens 12 above the rest."""
    count = requests * _ROWS
    logits = torch.randn(count, _VOCAB, device=device) * 3
    best = torch.randint(_VOCAB, (count, 8), device=device)
    logits = logits.scatter(1, best, logits.gather(1, best) + 12).to(dtype)
    places = torch.arange(count, device=device)
    slot = places % _ROWS
    rows = VerifyRows(
        (places // _ROWS).int(),
        slot.int(),
        torch.full((count,), heat, device=device),
        torch.full((count,), top_p, device=device),
        torch.full((count,), top_k, device=device),
        torch.zeros(count, device=device),
        places // _ROWS,
        torch.zeros_like(places),
        places,
        torch.full_like(places, 3 if rejects else -1),
    )
    ending = slot == _ROWS - 1
    q_tokens = torch.cat([best, torch.randint(_VOCAB, (count, _WIDTH - 8), device=device)], dim=1)
    q_probs = torch.softmax(torch.linspace(4, 0, _WIDTH, device=device), dim=0).repeat(count, 1)
    drafted = Drafted(
        torch.where(ending, -1, best[:, 0]), q_tokens, torch.where(ending[:, None], 0.0, q_probs).contiguous()
    )
    starts = torch.arange(0, count + 1, _ROWS, device=device, dtype=torch.int32)
    random, cuts = heat > 0, top_p < 1 or top_k > 0
    return lambda: verify(logits, rows, drafted, starts, random=random, cuts=cuts, rejects=rejects)


def cases() -> list[Case]:
    """Greedy, coupled, cut and rejection rounds, of bf16 and fp32 logits."""
    found = []
    for requests, dtype, heat, top_p, top_k, rejects in (
        (64, torch.bfloat16, 0.0, 1.0, 0, False),
        (64, torch.bfloat16, 1.0, 1.0, 0, False),
        (64, torch.float32, 1.0, 1.0, 0, False),
        (64, torch.bfloat16, 0.7, 0.95, 0, False),
        (64, torch.bfloat16, 0.7, 1.0, 50, False),
        (64, torch.bfloat16, 1.0, 1.0, 0, True),
        (1, torch.bfloat16, 1.0, 1.0, 0, False),
    ):
        count = requests * _ROWS
        size = count * _VOCAB * dtype.itemsize
        # of each logit: a maximum, an exponent, a sum, and at T > 0 also the noise's 5 products, 3 shifts and 4 xors, a
        # sum and a comparison; what the race, the cut and the residual read again is theirs to save
        operations = count * _VOCAB * (17 if heat > 0 and not rejects else 3)
        rule = "rejection" if rejects else "coupled" if heat > 0 else "greedy"
        cut = f", top-p {top_p}" if top_p < 1 else f", top-k {top_k}" if top_k else ""
        name = f"{requests} x {_ROWS} rows, {str(dtype).removeprefix('torch.')}, {rule}, T {heat}{cut}"
        make = partial(_make, requests, dtype, heat, top_p, top_k, rejects)
        found.append(Case(name, make, size + count * (80 + 12 * _WIDTH * rejects), operations, "int32"))
    return found


def code_variants() -> list[Variant]:
    """The passes over the logits, and where rows are cut."""
    from outrider_kernels.counter_noise.triton import EXACT
    from outrider_kernels.triton_parts.cuts import cut_kernel
    from outrider_kernels.triton_parts.passes import race_kernel, scan_kernel

    integers = ("request", "slot", "ends", "tokens_out", "cut_token")
    longs = ("top_k", "seeds", "choices", "positions", "rounds", "q_tokens")
    floats = ("temperature", "top_p", "min_p", "floats", "stats", "cut_at", "q_probs", "scratch")
    types = dict.fromkeys(integers, "*i32") | dict.fromkeys(longs, "*i64") | dict.fromkeys(floats, "*fp32")
    types |= dict.fromkeys(("stride", "vocab", "width", "per_part", "parts"), "i32")
    found = []
    for kind, size in (("bf16", 2), ("fp32", 4)):
        tile = {"G": 512, "E": 16 // size, "CHUNK": 512, "EVEN": True, "HAS_REQUEST": True}
        elements = 8192 // size
        for name, kernel, constants, options in (
            ("scan, greedy", scan_kernel, tile | {"RANDOM": False, "CUTS": False, "REJECTS": False}, EXACT),
            ("scan, coupled", scan_kernel, tile | {"RANDOM": True, "CUTS": False, "REJECTS": False}, EXACT),
            ("scan, all", scan_kernel, tile | {"RANDOM": True, "CUTS": True, "REJECTS": True}, EXACT),
            ("race, all", race_kernel, tile | {"CUTS": True, "REJECTS": True}, EXACT),
            (
                "cut",
                cut_kernel,
                {"HAS_REQUEST": True, "SHIFT": 16 if size == 2 else 0, "BLOCK": 2048, "ROOM": 4096},
                {"num_warps": 8},
            ),
        ):
            known = types | {"logits": f"*{kind}"}
            signature = {each: known.get(each, "constexpr") for each in kernel.arg_names}
            aligned = tuple(each for each in signature if each not in ("width", "parts") and each in known)
            name = f"{name}, {kind}"
            found.append(
                Variant(
                    name,
                    kernel,
                    signature,
                    constants,
                    aligned,
                    options,
                    elements if "cut" not in name else 0,
                    wide_loads=True,
                )
            )
    return found
