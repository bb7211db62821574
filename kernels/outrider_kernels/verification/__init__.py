"""Fused verification: from logit rows to accepted lengths, last tokens and log-probabilities, without [n, V] of fp32.

    coupled    chosen = argmin E(v)/p(v), E keyed by (seed, choice, position); a draft is accepted while it is chosen
    rejection  x is accepted while u·q(x) < p(x); a refusal draws from max(p − q, 0), the draft's end from p

p is softmax(l/T) after top-k, nucleus and min-p, exactly, whatever their size. One pass over the logits keeps per row
and stretch of the vocabulary: maximum and sums of exponentials, and the leader of the race. Rows that are cut, and the
one row per rejected request that its round ends on, are read again. E's logarithm is computed only for tokens that can
still take the lead: E ≥ u, so a token whose u exceeds the leader's E·p(v)/p(leader) cannot, which integers decide.
"""

from __future__ import annotations

import torch
from torch import Tensor

from outrider_kernels.dispatch import UnsupportedArgument, check_tensor, use_triton
from outrider_kernels.verification import reference
from outrider_kernels.verification.arguments import Drafted, Verified, VerifyRows

__all__ = ["Drafted", "Verified", "VerifyRows", "choose", "verify"]

_LOGITS = (torch.float32, torch.float16, torch.bfloat16)
_WIDEST = 1024


def choose(
    logits: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    choices: Tensor,
    positions: Tensor,
    *,
    random: bool,
    cuts: bool,
) -> Tensor:
    """Token ids int64 [n] chosen from logits [n, V] by exponential race, or argmax where temperature fp32 [n] is 0.

    top_p, min_p fp32 [n], top_k int64 [n]; seeds, choices, positions int64 [n]. random, cuts: whether any row needs
    noise, or is cut. Raises UnsupportedArgument.
    """
    _check_logits("choose", logits)
    floats = {"temperature": temperature, "top_p": top_p, "min_p": min_p}
    integers = {"top_k": top_k, "seeds": seeds, "choices": choices, "positions": positions}
    _check_rows("choose", logits, floats, integers)
    shape = (temperature, top_p, top_k, min_p, seeds, choices, positions)
    if use_triton("choose", logits.device):
        from outrider_kernels.verification import triton

        return triton.choose(logits, *shape, random=random, cuts=cuts)
    return reference.choose(logits, *shape, random=random, cuts=cuts)


def verify(
    logits: Tensor,
    rows: VerifyRows,
    drafted: Drafted,
    query_start: Tensor,
    *,
    random: bool,
    cuts: bool,
    rejects: bool,
) -> Verified:
    """Each request's accepted length and last token; query_start int32 [R+1], request r owns rows start[r]…start[r+1].

    logits [n, V]; random, cuts, rejects: whether any row needs noise, has a cut, or is under the rejection rule.
    Raises UnsupportedArgument.
    """
    check_verify(logits, rows, drafted, query_start, rejects=rejects)
    if use_triton("verify", logits.device):
        from outrider_kernels.verification import triton

        return triton.verify(logits, rows, drafted, query_start, random=random, cuts=cuts, rejects=rejects)
    return reference.verify(logits, rows, drafted, query_start, random=random, cuts=cuts, rejects=rejects)


def check_verify(logits: Tensor, rows: VerifyRows, drafted: Drafted, query_start: Tensor, *, rejects: bool) -> None:
    """Raise UnsupportedArgument for what `verify` does not take."""
    _check_logits("verify", logits)
    count, device = len(logits), logits.device
    floats = {"temperature": rows.temperature, "top_p": rows.top_p, "min_p": rows.min_p}
    integers = {"top_k": rows.top_k, "seeds": rows.seeds, "choices": rows.choices, "positions": rows.positions}
    integers |= {"rounds": rows.rounds, "tokens": drafted.tokens}
    _check_rows("verify", logits, floats, integers)
    check_tensor("verify", "request", rows.request, [count], [torch.int32], device=device)
    check_tensor("verify", "slot", rows.slot, [count], [torch.int32], device=device)
    check_tensor("verify", "query_start", query_start, [None], [torch.int32], device=device)
    if len(query_start) == 0:
        raise UnsupportedArgument("verify", "query_start", "is empty; it has one more element than there are requests")
    if not rejects:
        return
    if drafted.q_tokens is None or drafted.q_probs is None:
        raise UnsupportedArgument(
            "verify", "q_probs", "is missing; the rejection rule needs what drafts were drawn from"
        )
    width = drafted.q_tokens.shape[-1]
    check_tensor("verify", "q_tokens", drafted.q_tokens, [count, None], [torch.int64], device=device, contiguous=True)
    check_tensor("verify", "q_probs", drafted.q_probs, [count, width], [torch.float32], device=device, contiguous=True)
    if not 0 < width <= _WIDEST:
        raise UnsupportedArgument("verify", "q_tokens", f"is {width} wide, 1 to {_WIDEST} are supported")


def _check_logits(op: str, logits: Tensor) -> None:
    check_tensor(op, "logits", logits, [None, None], _LOGITS)
    if not 0 < logits.shape[1] < 1 << 30:
        raise UnsupportedArgument(op, "logits", f"has a vocabulary of {logits.shape[1]}, 1 to 2³⁰ are supported")


def _check_rows(op: str, logits: Tensor, floats: dict[str, Tensor], integers: dict[str, Tensor]) -> None:
    for name, tensor in floats.items():
        check_tensor(op, name, tensor, [len(logits)], [torch.float32], device=logits.device)
    for name, tensor in integers.items():
        check_tensor(op, name, tensor, [len(logits)], [torch.int64], device=logits.device)
