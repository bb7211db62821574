"""Semi-autoregressive drawing of whole blocks: bias, processors, noise and choice of a slot in one pass over V.

Slot k's logits are U_k + W2·W1[x_{k−1}], x_0 being the anchor; its token is drawn, and the next slot follows
(arXiv 2607.05147). Coupled rows take argmin E/p by the noise of (seed, choice, position); rows under the rejection
rule draw from q, the renormalised `width` best tokens after temperature and cuts, by place in it.

Shapes: R rows, γ block size, d hidden size, V vocabulary, r Markov rank, w width.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from outrider_kernels.dispatch import UnsupportedArgument, check_tensor, use_triton
from outrider_kernels.draft_sampling import reference
from outrider_kernels.draft_sampling.rows import DrawRows, Sampled, SequentialHead

__all__ = ["LARGEST_RANK", "DrawRows", "Sampled", "SequentialHead", "draw_blocks"]

_OP: Final = "draft_sampling"
_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
_CUT_WIDTH: Final = 64
"""How many tokens a coupled row with cuts looks at where nobody says how many."""
_WIDEST: Final = 128
_MOST_TOKENS: Final = 1 << 24
"""Ids of a tile are added up, with their number above this bit."""
LARGEST_RANK: Final = 256
"""A tile of W2 is read whole: the released checkpoints' rank."""


def draw_blocks(
    hidden: Tensor,
    base: Tensor,
    anchors: Tensor,
    positions: Tensor,
    head: SequentialHead,
    rows: DrawRows,
    *,
    width: int = 0,
) -> Sampled:
    """Draw a block for every row from normed hidden states [R, γ, d] and base logits [R, γ, V].

    anchors int64 [R] with their positions int64 [R]; slot k (from 0) chooses for position + k + 1. A coupled row with
    cuts chooses among its `width` best tokens (64 where width is 0): a nucleus that is larger loses what is beyond
    them, which costs acceptance and nothing else. Equal scores: the lower id. Confidence depends on the tokens before
    its slot alone; −inf where it is NaN. Raises UnsupportedArgument.
    """
    _check(hidden, base, anchors, positions, head)
    _check_rows(rows, anchors, width)
    looked_at = min(width or _CUT_WIDTH, base.shape[2]) if rows.rejects or (rows.cuts and rows.random) else 0
    if use_triton(_OP, base.device):
        from outrider_kernels.draft_sampling import triton

        return triton.draw_blocks(hidden, base, anchors, positions, head, rows, width=looked_at)
    return reference.draw_blocks(hidden, base, anchors, positions, head, rows, width=looked_at)


def _check(hidden: Tensor, base: Tensor, anchors: Tensor, positions: Tensor, head: SequentialHead) -> None:
    device = base.device
    check_tensor(_OP, "base", base, (None, None, None), _DTYPES)
    requests, gamma, vocab = base.shape
    if vocab >= _MOST_TOKENS:
        raise UnsupportedArgument(_OP, "base", f"has {vocab} tokens; up to {_MOST_TOKENS - 1} would do")
    if not gamma or not vocab:
        raise UnsupportedArgument(_OP, "base", f"has shape {list(base.shape)}: there is nothing to draw")
    check_tensor(_OP, "hidden", hidden, (requests, gamma, None), _DTYPES, device=device)
    for name, column in (("anchors", anchors), ("positions", positions)):
        check_tensor(_OP, name, column, (requests,), (torch.int64,), device=device)
    rank = 0
    if (head.w1 is None) != (head.w2 is None):
        raise UnsupportedArgument(_OP, "head.w2", "must be given where w1 is, and only there")
    if head.w1 is not None and head.w2 is not None:
        check_tensor(_OP, "head.w1", head.w1, (vocab, None), _DTYPES, device=device, contiguous=True)
        check_tensor(_OP, "head.w2", head.w2, head.w1.shape, (head.w1.dtype,), device=device, contiguous=True)
        rank = head.w1.shape[1]
        if not 1 <= rank <= LARGEST_RANK:
            raise UnsupportedArgument(_OP, "head.w1", f"has rank {rank}; 1 to {LARGEST_RANK} would do")
    check_tensor(_OP, "head.confidence", head.confidence, (None,), _DTYPES, device=device)
    if len(head.confidence) not in (hidden.shape[2], hidden.shape[2] + rank):
        reason = f"has {len(head.confidence)} weights for states of {hidden.shape[2]} and rank {rank}"
        raise UnsupportedArgument(_OP, "head.confidence", reason)
    if isinstance(head.confidence_bias, Tensor):
        check_tensor(_OP, "head.confidence_bias", head.confidence_bias, (), (torch.float32,), device=device)


def _check_rows(rows: DrawRows, anchors: Tensor, width: int) -> None:
    for name, dtype in (
        ("temperature", torch.float32),
        ("seeds", torch.int64),
        ("choices", torch.int64),
        ("top_p", torch.float32),
        ("top_k", torch.int64),
        ("min_p", torch.float32),
        ("rounds", torch.int64),
    ):
        check_tensor(_OP, f"rows.{name}", getattr(rows, name), anchors.shape, (dtype,), device=anchors.device)
    if not 0 <= width <= _WIDEST:
        raise UnsupportedArgument(_OP, "width", f"is {width}; 1 to {_WIDEST} would do, or 0")
    if rows.rejects and not width:
        raise UnsupportedArgument(_OP, "width", "is 0, and rows under the rejection rule draw from that many tokens")
