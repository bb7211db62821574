"""A drafter's round in draft.h and race.h: contexts that grow, blocks proposed in one call, tokens chosen.

Shapes: R blocks, γ block size, d hidden size, V vocabulary, L layers, S token capacity of a slot, n rows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from outrider_kernels.decoder_step.native import PACKED, NativeStep, packed, pointer, struct
from outrider_kernels.decoder_step.weights import HeadWeights

__all__ = ["NativeDraft", "native_choose", "native_noise", "store_context"]

_I = c_int64
_P = c_void_p
_ContextRows = struct(
    "ContextRows",
    **dict.fromkeys(("count", "kv_stride", "layer_stride"), _I),
    **dict.fromkeys(("rows", "positions", "slots", "keys", "values"), _P),
)
_DraftHead = struct(
    "DraftHead",
    **dict.fromkeys(("rank", "hidden", "vocab", "confidence_reads_previous"), _I),
    **dict.fromkeys(("w1", "confidence"), _P),
    confidence_bias=c_float,
    w2=PACKED,
)
_Proposal = struct(
    "Proposal",
    **dict.fromkeys(("blocks", "slots", "mask_token", "kv_stride", "layer_stride"), _I),
    **dict.fromkeys(("anchors", "positions", "first_slot", "context", "keys", "values"), _P),
    **dict.fromkeys(("temperature", "seeds", "choices", "tokens", "confidence"), _P),
)
_Choosing = struct(
    "Choosing",
    **dict.fromkeys(("count", "vocab"), _I),
    **dict.fromkeys(("logits", "temperature", "seeds", "choices", "positions", "tokens"), _P),
)

Racers = tuple[Tensor, Tensor, Tensor]
"""Temperatures fp32, of which 0 is greedy, seeds and choices int64, one per block or row."""


def store_context(
    step: NativeStep, rows: Tensor, positions: Tensor, slots: Tensor, keys: Tensor, values: Tensor
) -> None:
    """Keys and values of rows [n, d], taken as every layer's normed input, into planes [L, slots, S, K, D].

    positions, slots: int64 [n], the latter among all slots' rows. As `reference_context`.
    """
    context = _ContextRows(
        rows.shape[0], keys.stride(2), keys.stride(0), rows.data_ptr(), positions.data_ptr(), slots.data_ptr(),
        keys.data_ptr(), values.data_ptr(),
    )  # fmt: skip
    threads = min(torch.get_num_threads(), rows.shape[0])
    step.library.outrider_context(byref(step.model), byref(context), c_int(threads))


class NativeDraft:
    """A drafter's stack and its sequential head: blocks from contexts in one call, without a tensor of V in Python."""

    def __init__(self, step: NativeStep, weights: HeadWeights, *, block_size: int, mask_token: int) -> None:
        self._step = step
        self._block_size = block_size
        self._mask_token = mask_token
        self._kept: list[Any] = []
        w1, w2 = weights.w1, weights.w2
        reads = weights.confidence.shape[0] > weights.hidden_size
        self._head: Any = _DraftHead(
            rank=0 if w1 is None else w1.shape[1], hidden=weights.hidden_size, vocab=weights.vocab_size,
            confidence_reads_previous=reads, confidence=pointer(self._kept, weights.confidence),
            confidence_bias=weights.confidence_bias,
        )  # fmt: skip
        if w1 is not None and w2 is not None:
            self._head.w1, self._head.w2 = pointer(self._kept, w1), packed(self._kept, w2)

    def propose(
        self,
        first_slot: Sequence[int],
        anchors: Tensor,
        positions: Tensor,
        racers: Racers | None,
        keys: Tensor,
        values: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Tokens int64 and confidence logits fp32, both [R, γ], as `reference_draw` draws them from `reference_step`.

        anchors, positions: contiguous int64 [R]; block r's context is its first positions[r] rows at first_slot[r] of
        planes [L, slots, S, K, D]. racers: as many, for noise as `counter_noise` defines it; None when all is
        greedy.
        """
        count = len(first_slot)
        tokens = torch.empty(count, self._block_size, dtype=torch.int64)
        confidence = torch.empty(count, self._block_size)
        at = positions.data_ptr()
        proposal = _Proposal(
            count, self._block_size, self._mask_token, keys.stride(2), keys.stride(0), anchors.data_ptr(), at,
            ctypes.addressof(first := (_I * count)(*first_slot)), at, keys.data_ptr(), values.data_ptr(),
            *_addresses(racers), tokens.data_ptr(), confidence.data_ptr(),
        )  # fmt: skip
        threads = self._step.threads(count * self._block_size)
        self._step.library.outrider_propose(byref(self._step.model), byref(self._head), byref(proposal), c_int(threads))
        del first  # until here its address was in use
        return tokens, confidence


def native_choose(library: ctypes.CDLL, logits: Tensor, racers: Racers, positions: Tensor) -> Tensor:
    """int64 [n]: each row's argmax, or the winner of its race, of contiguous fp32 logits [n, V].

    positions: contiguous int64 [n] at which the tokens will stand.
    """
    count, vocab = logits.shape
    tokens = torch.empty(count, dtype=torch.int64)
    rows = _Choosing(
        count, vocab, logits.data_ptr(), *_addresses(racers), positions.data_ptr(), tokens.data_ptr()
    )  # fmt: skip
    library.outrider_choose(byref(rows), c_int(min(torch.get_num_threads(), count)))
    return tokens


def native_noise(library: ctypes.CDLL, seed: int, choice: int, position: int, vocab: int) -> Tensor:
    """What the races of `native_choose` draw for one row, fp32 [vocab]: to be held against its definition."""
    noise = torch.empty(vocab)
    library.outrider_noise(_I(seed), _I(choice), _I(position), _I(vocab), _P(noise.data_ptr()))
    return noise


def _addresses(racers: Racers | None) -> list[int | None]:
    return [None] * 3 if racers is None else [column.data_ptr() for column in racers]
