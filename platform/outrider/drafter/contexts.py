"""Where a drafter keeps the context keys and values of its sequences.

Shapes: L drafter layers, S token capacity of a slot, h key/value heads, e head dimension, n rows, R
sequences.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import chain

import torch
from torch import Tensor

__all__ = ["ContextPool"]

_FIRST_SLOTS = 4
_FIRST_TOKENS = 256


class ContextPool:
    """One slot per sequence in two tensors [L, slots, S, h, e] that double when slots or tokens run out.

    A round appends in place and reads a view: neither copies the context. Memory beyond a slot's length is
    always zero, because a masked key has weight zero, and zero times what a stranger left there may be NaN.

    `version` changes when the tensors are replaced by larger ones: who keeps their addresses looks at it.
    """

    def __init__(
        self, num_layers: int, kv_heads: int, head_dim: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (num_layers, _FIRST_SLOTS, _FIRST_TOKENS, kv_heads, head_dim)
        self._keys = torch.zeros(shape, device=device, dtype=dtype)
        self._values = torch.zeros_like(self._keys)
        self._lengths: list[int] = []
        self._free: list[int] = []
        self.version = 0

    @property
    def keys(self) -> Tensor:
        """All slots' keys [L, slots, S, h, e]."""
        return self._keys

    @property
    def values(self) -> Tensor:
        """All slots' values [L, slots, S, h, e]."""
        return self._values

    @property
    def slot_tokens(self) -> int:
        """S: row `offset` of a slot lies at place slot·S + offset among all slots' rows."""
        return int(self._keys.shape[2])

    @property
    def held_slots(self) -> int:
        """Slots in use."""
        return len(self._lengths) - len(self._free)

    def length(self, slot: int) -> int:
        """Rows a slot holds."""
        return self._lengths[slot]

    def acquire(self) -> int:
        """The lowest free slot, empty; low slots keep the sequences of a round side by side."""
        if self._free:
            return heappop(self._free)
        self._lengths.append(0)
        self.reserve(len(self._lengths), 0)
        return len(self._lengths) - 1

    def release(self, slot: int) -> None:
        """Empty a slot and give it back."""
        self.clear(slot)
        heappush(self._free, slot)

    @torch.inference_mode()
    def clear(self, slot: int) -> None:
        """Empty a slot, restoring the zeros."""
        self._keys[:, slot, : self._lengths[slot]].zero_()
        self._values[:, slot, : self._lengths[slot]].zero_()
        self._lengths[slot] = 0

    @torch.inference_mode()
    def store(self, takers: list[tuple[int, int]], keys: Tensor, values: Tensor) -> None:
        """Add the next rows of several distinct sequences.

        takers: (slot, count) pairs; keys, values: [L, n, h, e], sequence after sequence.
        """
        places = self.grow(takers)
        self._keys.flatten(1, 2).index_copy_(1, places, keys)
        self._values.flatten(1, 2).index_copy_(1, places, values)

    def grow(self, takers: list[tuple[int, int]]) -> Tensor:
        """Count the takers' new rows in, and say where each lies among all slots' rows: int64 [n]."""
        for slot, count in takers:
            self._lengths[slot] += count
        self.reserve(0, max(self._lengths[slot] for slot, _ in takers))
        room = self._keys.shape[2]
        ends = [(slot * room + self._lengths[slot], count) for slot, count in takers]
        return torch.tensor(list(chain(*[range(end - count, end) for end, count in ends])), device=self._keys.device)

    def view(self, slots: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values [L, R, longest, h, e] and lengths int64 [R] of ascending slots.

        A view when the slots are adjacent, else a copy of theirs. Rows beyond a length are zero.
        """
        lengths = [self._lengths[slot] for slot in slots]
        longest = max(lengths)
        if slots[-1] - slots[0] == len(slots) - 1:
            run = slice(slots[0], slots[-1] + 1)
            keys, values = self._keys[:, run, :longest], self._values[:, run, :longest]
        else:
            index = torch.tensor(slots, device=self._keys.device)
            keys = self._keys[:, :, :longest].index_select(1, index)
            values = self._values[:, :, :longest].index_select(1, index)
        return keys, values, torch.tensor(lengths, device=self._keys.device)

    def reserve(self, slots: int, tokens: int) -> None:
        """Double the capacity in slots, in tokens per slot, or both, until it suffices."""
        num_layers, had_slots, had_tokens, kv_heads, head_dim = self._keys.shape
        new_slots, new_tokens = had_slots, had_tokens
        while new_slots < slots:
            new_slots *= 2
        while new_tokens < tokens:
            new_tokens *= 2
        if (new_slots, new_tokens) == (had_slots, had_tokens):
            return
        shape = (num_layers, new_slots, new_tokens, kv_heads, head_dim)
        for name in ("_keys", "_values"):
            old: Tensor = getattr(self, name)
            grown = old.new_zeros(shape)
            grown[:, :had_slots, :had_tokens] = old
            setattr(self, name, grown)
        self.version += 1
