"""Token windows for pretraining: whole documents packed from a window's first position."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["pack_epoch"]


def pack_epoch(documents: Sequence[Sequence[int]], window: int, seed: int) -> Tensor:
    """Shuffle, then fill windows [N, window + 1] so that each starts with the start of a document.

    A document that does not fit is cut at the window's end (requests start at position 0, so windows must too);
    the next epoch's shuffle cuts others.
    """
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    rows: list[list[int]] = []
    row: list[int] = []
    for index in order:
        row.extend(documents[index])
        if len(row) >= window + 1:
            rows.append(row[: window + 1])
            row = []
    if not rows:
        rows.append((row * (window + 1))[: window + 1])
    return torch.tensor(rows, dtype=torch.long)
