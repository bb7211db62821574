"""How a step's attention is divided among programs: from static sizes alone, so that a captured graph stays valid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from outrider_kernels.ragged_attention.rows import RaggedRows

__all__ = ["Plan", "plan_of"]

_MULTIPROCESSORS: Final = 132
_PROGRAMS_EACH: Final = 7
"""At least, of every multiprocessor: three of decoding run at once; more, so that unequal ones even out."""
_LEAST_POSITIONS: Final = 256
_POSITIONS_PER_ROW: Final = 8
"""Of a split. To leave and join a row's sums moves as many bytes as reading the keys and values of two positions."""
_MOST_SPLITS: Final = 64
_LEAST_ROWS: Final = 16
_MOST_ROWS: Final = 128
_STAGES: Final = 5
"""The compiler spends every other one on the step through the table: with five, keys and values are buffered twice, and
the next tile's are on their way while one is attended. With three or four they are buffered once and nothing overlaps.
"""
_SHARED_BYTES: Final = 227 << 10
_ROOMY_BYTES: Final = 160 << 10
"""What the largest tiles take, 128 rows of 256 elements. GPUs with less get smaller ones, buffered once."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of tiles and grid, as `triton.py` names them: tiles of the flat tokens, tokens and rows of one of them,
    columns (positions read at a time), width (D up to a power of two), splits and the least tiles of columns of one;
    one_tile: no request has more than one tile, and tile r is request r's.
    """

    tiles: int
    tokens: int
    rows: int
    columns: int
    width: int
    splits: int
    least_tiles: int
    one_tile: bool
    warps: int
    stages: int


def plan_of(
    rows: RaggedRows,
    *,
    tokens: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    window: int | None = None,
    multiprocessors: int = _MULTIPROCESSORS,
    shared_bytes: int = _SHARED_BYTES,
) -> Plan:
    """Tiles that hold every request's tokens where those are few, and as many splits as keep the whole GPU reading:
    a power of two, as every number of them is compiled for itself. The GPU is an H100 or H200 unless told.
    """
    roomy = shared_bytes >= _ROOMY_BYTES
    group = heads // kv_heads
    requests = len(rows.context)
    longest = min(rows.longest_query, tokens)
    width = max(_power_of_2(head_dim), 16)
    most_rows, columns, least_warps = _largest(width, dtype, roomy=roomy)
    most_rows = max(most_rows, _power_of_2(group))
    tile_rows = min(max(_power_of_2(longest * group), _LEAST_ROWS), most_rows)
    tile_tokens = tile_rows // group
    one_tile = longest <= tile_tokens
    tiles = requests if one_tile else tokens // tile_tokens + requests
    positions = rows.longest_context if window is None else min(rows.longest_context, window + longest + columns)
    wanted = -(-_PROGRAMS_EACH * multiprocessors // (tiles * kv_heads))
    least = max(_LEAST_POSITIONS, _POSITIONS_PER_ROW * tile_rows)
    splits = min(_power_of_2(wanted), _power_of_2(max(positions // least, 1)), _MOST_SPLITS)
    return Plan(
        tiles=tiles,
        tokens=tile_tokens,
        rows=tile_rows,
        columns=columns,
        width=width,
        splits=splits,
        least_tiles=least // columns,
        one_tile=one_tile,
        warps=max(least_warps, tile_rows // 16),
        stages=_STAGES if roomy else 3,
    )


def _largest(width: int, dtype: torch.dtype, *, roomy: bool) -> tuple[int, int, int]:
    """Most rows, columns and least warps that leave no value without a register.

    fp32 products in full run on plain lanes, whose operands are all in registers.
    """
    wide = width * dtype.itemsize > 256
    if dtype.itemsize > 2:
        return (_LEAST_ROWS, 16, 8) if wide else (_LEAST_ROWS, 64, 4)
    most_rows = _MOST_ROWS if roomy else _MOST_ROWS // (4 if wide else 2)
    return (most_rows, 32, 4) if wide else (most_rows, 64, 4)


def _power_of_2(least: int) -> int:
    return 1 << (least - 1).bit_length()
