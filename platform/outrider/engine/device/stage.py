"""What a round tells the device, in one transfer: columns that share one pinned buffer and its twin on the device."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Stage"]

_ALIGNED = 16
"""Bytes a column begins at a multiple of: kernels read it in whole words."""


class Stage:
    """Columns by name. `host` are NumPy views to write to, `device` tensors at addresses that never change.

    `send` must not be followed by writes to `host` before the device has taken the copy: rounds end with a wait for
    their results, which come after it on the same stream.
    """

    def __init__(self, columns: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], device: torch.device) -> None:
        places: dict[str, tuple[int, int]] = {}
        end = 0
        for name, (dtype, shape) in columns.items():
            size = prod(shape) * dtype.itemsize
            places[name] = (end, end + size)
            end += -(-size // _ALIGNED) * _ALIGNED
        pinned = device.type == "cuda"
        self._host = torch.zeros(max(end, 1), dtype=torch.uint8, pin_memory=pinned)
        self._device = torch.zeros(max(end, 1), dtype=torch.uint8, device=device)
        self.host: dict[str, NDArray[Any]] = {}
        self.device: dict[str, Tensor] = {}
        for name, (dtype, shape) in columns.items():
            first, last = places[name]
            self.host[name] = self._host[first:last].view(dtype).view(shape).numpy()
            self.device[name] = self._device[first:last].view(dtype).view(shape)

    @property
    def nbytes(self) -> int:
        """What one transfer moves."""
        return self._host.nbytes

    def send(self) -> None:
        """All columns to the device, without waiting."""
        self._device.copy_(self._host, non_blocking=True)

    def fetch(self) -> None:
        """All columns back, without waiting: `host` holds them once the stream has got there."""
        self._host.copy_(self._device, non_blocking=True)
