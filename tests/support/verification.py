"""Random batches for verification, and a comparison of tokens that knows which of them rounding may decide."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from outrider_kernels import counter_noise
from outrider_kernels.verification import Drafted, VerifyRows
from outrider_kernels.verification.reference import token_probs
from support.kernels import DEVICE

__all__ = ["Batch", "Hand", "batch", "moved", "shape_of", "undecided", "unequal"]


@dataclass(frozen=True)
class Hand:
    """What one request asks: its draft's length, temperature, cuts, whether its rule is rejection."""

    length: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    rejects: bool = False


@dataclass(frozen=True)
class Batch:
    """Arguments of `verify`, on the CPU."""

    logits: Tensor
    rows: VerifyRows
    drafted: Drafted
    query_start: Tensor
    flags: dict[str, bool]


def moved(value: Any) -> Any:
    """Tensors, or a dataclass of them, on the device under test."""
    if isinstance(value, Tensor):
        return value.to(DEVICE)
    return None if value is None else type(value)(*(moved(getattr(value, f.name)) for f in fields(value)))


def shape_of(rows: VerifyRows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Temperature, top_p, top_k, min_p."""
    return rows.temperature, rows.top_p, rows.top_k, rows.min_p


def batch(
    hands: list[Hand | None],
    vocab: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    width: int = 5,
    padding: int = 0,
    spread: float = 3.0,
) -> Batch:
    """A batch with one request per hand (None: a request without rows) and NaN rows of padding at the end.

    Coupled drafts are the target's choice two times in three; rejection drafts come from a q that resembles p.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = [0 if hand is None else hand.length + 1 for hand in hands]
    owned = [(r, slot) for r, length in enumerate(lengths) for slot in range(length)]
    asked = [hand for hand in hands if hand is not None for _ in range(hand.length + 1)]
    count = len(owned) + padding
    none = [0.0] * padding

    def ints(values: list[int], fill: int, kind: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor([*values, *[fill] * padding], dtype=kind)

    rows = VerifyRows(
        ints([r for r, _ in owned], -1, torch.int32),
        ints([slot for _, slot in owned], 0, torch.int32),
        torch.tensor([*(hand.temperature for hand in asked), *none]),
        torch.tensor([*(hand.top_p for hand in asked), *none]),
        ints([hand.top_k for hand in asked], 0),
        torch.tensor([*(hand.min_p for hand in asked), *none]),
        ints([seed * 1000 + r for r, _ in owned], 0),
        ints([r % 2 for r, _ in owned], 0),
        ints([10 * r + slot for r, slot in owned], 0),
        ints([3 + r if hand.rejects else -1 for (r, _), hand in zip(owned, asked, strict=True)], -1),
    )
    logits = (torch.randn(count, vocab, generator=generator) * spread).to(dtype)
    logits[len(owned) :] = float("nan")
    width = min(width, vocab)
    drawn = torch.zeros(count, dtype=torch.int64)
    q_tokens = torch.zeros(count, width, dtype=torch.int64)
    q_probs = torch.zeros(count, width)
    ends = torch.tensor([slot == lengths[r] - 1 for r, slot in owned] + [True] * padding, dtype=torch.bool)
    if owned:
        live = slice(0, len(owned))
        probs = token_probs(logits[live], *(x[live] for x in shape_of(rows)))
        keys = counter_noise.row_keys(rows.seeds[live], rows.choices[live], rows.positions[live])
        chosen = (counter_noise.exponential(keys, vocab) / probs).argmin(dim=-1)
        chosen = torch.where(rows.temperature[live] > 0, chosen, logits[live].float().argmax(dim=-1))
        blurred = logits[live].float() + torch.randn(len(owned), vocab, generator=generator)
        q = torch.softmax(blurred.topk(width).values, dim=-1)
        places = torch.multinomial(q, 1, generator=generator)
        q_tokens[live] = blurred.topk(width).indices
        q_probs[live] = q
        other = torch.randint(vocab, (len(owned),), generator=generator)
        keep = torch.rand(len(owned), generator=generator) < 2 / 3
        rejecting = rows.rounds[live] >= 0
        drawn[live] = torch.where(
            rejecting, q_tokens[live].gather(1, places).squeeze(1), torch.where(keep, chosen, other)
        )
    drawn[ends], q_probs[ends] = -1, 0.0
    flags = {
        "random": any(hand.temperature > 0 for hand in asked),
        "cuts": any(hand.top_p < 1 or hand.top_k or hand.min_p for hand in asked),
        "rejects": any(hand.rejects for hand in asked),
    }
    starts = torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()], dtype=torch.int32)
    return Batch(logits, rows, Drafted(drawn, q_tokens, q_probs), starts, flags)


def undecided(noise: Tensor, weights: Tensor, found: int, wanted: int, logit: float, temperature: float) -> bool:
    """Whether two tokens' scores E/w, one row of each, lie within what rounding moves them: 8 ulp, and of the exponent
    l/T, of which each side rounds products and differences of size |l|/T, 4 ulp each.
    """
    one, other = (float(noise[t].double() / weights[t].double()) for t in (found, wanted))
    slack = 2.0**-24 * (16 + 8 * abs(logit) / max(temperature, 1e-5))
    return abs(one - other) <= slack * max(one, other)


def unequal(b: Batch, found: Tensor, wanted: Tensor) -> int:
    """How many rows' tokens differ for no better reason than rounding; fails where there is no such reason.

    Both are the `chosen` of `verify`, on the CPU.
    """
    rows = b.rows
    differing = (found != wanted).nonzero().flatten().tolist()
    if not differing:
        return 0
    at = torch.tensor(differing)
    probs = token_probs(b.logits[at], *(x[at] for x in shape_of(rows)))
    keys = counter_noise.row_keys(rows.seeds[at], rows.choices[at], rows.positions[at])
    noise = counter_noise.exponential(keys, probs.shape[-1])
    for place, row in enumerate(differing):
        assert rows.rounds[row] < 0, f"row {row}: {found[row]} and {wanted[row]} end a rejection"
        assert rows.temperature[row] > 0, f"row {row}: {found[row]} and {wanted[row]} are not both the argmax"
        one, other = int(found[row]), int(wanted[row])
        size = float(b.logits[row].float().abs().amax())
        assert undecided(noise[place], probs[place], one, other, size, float(rows.temperature[row])), (
            f"row {row}: {one} and {other}"
        )
    return len(differing)
