"""Whose tokens are whose: the metadata of one step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["RaggedRows"]


@dataclass(frozen=True, slots=True)
class RaggedRows:
    """The tokens of R requests in one flat step, and where their past lies. On the device, shared by all layers.

    query_start: int32 [R + 1], request r's new tokens are the flat ones from query_start[r] to query_start[r + 1]; what
    comes after query_start[R] is padding. context: int32 [R], positions computed before this step: new token j stands
    at context[r] + j. blocks: int32 [R, M], position p lies in slot blocks[r, p // block_size] · block_size +
    p % block_size; entries beyond a request's last position are never used, nor those a window has left behind.
    block_size: a power of two.

    Known to the host, bounds that may be generous: longest_query, new tokens of any one request; longest_context, its
    positions with the new ones.
    """

    query_start: Tensor
    context: Tensor
    blocks: Tensor
    block_size: int
    longest_query: int
    longest_context: int
