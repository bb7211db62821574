"""Token windows for pretraining: whole documents packed from a window's first position."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["WindowStream", "pack_epoch"]


class WindowStream:
    """Endless windows over `documents`, epoch after epoch; `consumed` is all a checkpoint needs to go on."""

    def __init__(self, documents: Sequence[Sequence[int]], window: int, seed: int, consumed: int = 0) -> None:
        self._documents, self._window, self._seed = documents, window, seed
        self._epoch, self._offset = -1, 0
        self._rows = torch.empty(0, 0, dtype=torch.long)
        self.consumed = consumed

    def take(self, count: int) -> Tensor:
        """The next windows [count, window + 1]."""
        rows = []
        for _ in range(count):
            while self.consumed - self._offset >= len(self._rows):
                self._offset += len(self._rows)
                self._epoch += 1
                self._rows = pack_epoch(self._documents, self._window, 1000 * self._seed + self._epoch)
            rows.append(self._rows[self.consumed - self._offset])
            self.consumed += 1
        return torch.stack(rows)


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
