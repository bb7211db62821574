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

    There are two host buffers, so that a round can be staged, or read, while the device is busy with the one before:
    `flip` turns to the other one, whose last round must have been waited for.
    """

    def __init__(self, columns: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], device: torch.device) -> None:
        places: dict[str, tuple[int, int]] = {}
        end = 0
        for name, (dtype, shape) in columns.items():
            size = prod(shape) * dtype.itemsize
            places[name] = (end, end + size)
            end += -(-size // _ALIGNED) * _ALIGNED
        pinned = device.type == "cuda"
        self._hosts = [torch.zeros(max(end, 1), dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self._device = torch.zeros(max(end, 1), dtype=torch.uint8, device=device)
        self._views: list[dict[str, NDArray[Any]]] = [{}, {}]
        self.device: dict[str, Tensor] = {}
        for name, (dtype, shape) in columns.items():
            first, last = places[name]
            for host, views in zip(self._hosts, self._views, strict=True):
                views[name] = host[first:last].view(dtype).view(shape).numpy()
            self.device[name] = self._device[first:last].view(dtype).view(shape)

        self._turn = 0

    @property
    def host(self) -> dict[str, NDArray[Any]]:
        """The host's columns of this turn."""
        return self._views[self._turn]

    def flip(self) -> None:
        """Turn to the other host buffer."""
        self._turn = 1 - self._turn

    def send(self) -> None:
        """All columns to the device, without waiting."""
        self._device.copy_(self._hosts[self._turn], non_blocking=True)

    def fetch(self) -> None:
        """All columns back, without waiting: `host` holds them once the stream has got there."""
        self._hosts[self._turn].copy_(self._device, non_blocking=True)
