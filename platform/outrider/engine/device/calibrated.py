"""The observer's calibrations as a device reads them."""

from __future__ import annotations

import numpy as np
import torch

from outrider.engine.device.cutting import Calibrations
from outrider.engine.observing import KINDS, Observer
from outrider.engine.sequence import Sequence
from outrider.scheduling import traffic_class

__all__ = ["Calibrated", "class_of"]


class Calibrated:
    """A copy on the device, sent again where the observer's have changed. It keeps its place, which graphs read, while
    its shape stays the same.
    """

    def __init__(self, gamma: int, device: torch.device) -> None:
        self._gamma, self._device = gamma, device
        self._revision = -1
        self.known = Calibrations(torch.ones(len(KINDS), gamma, device=device))

    def follow(self, observer: Observer) -> bool:
        """Hold what the observer says now; whether that lies elsewhere than before."""
        if self._revision == observer.revision:
            return False
        self._revision = observer.revision
        found = _tables(observer, self._gamma, self._device)
        if self.known.take(found):
            return False
        self.known = found
        return True


def class_of(sequence: Sequence) -> int:
    """Which calibration is a sequence's."""
    rule = "rejection" if sequence.rejects else "coupled"
    return KINDS.index((rule, traffic_class(sequence.request.sampling.temperature)))


def _tables(observer: Observer, gamma: int, device: torch.device) -> Calibrations:
    """Every class's temperatures and maps as tensors; a class without maps gets the identity."""
    told = observer.calibrations()
    temperatures = np.ones((len(told), gamma), dtype=np.float32)
    for row, (own, _) in enumerate(told):
        if own is not None and len(own) == gamma:
            temperatures[row] = own
    scaled = torch.from_numpy(temperatures).to(device)
    maps = [found for _, found in told if found is not None]
    if not maps:
        return Calibrations(scaled)
    points = max(2, max(len(each.inputs) for found in maps for each in found))
    inputs = np.tile(np.linspace(0.0, 1.0, points, dtype=np.float32), (len(told), gamma, 1))
    outputs = inputs.copy()
    for row, (_, found) in enumerate(told):
        for slot, each in enumerate((found or ())[:gamma]):
            size = len(each.inputs)
            inputs[row, slot, :size], outputs[row, slot, :size] = each.inputs, each.outputs
            inputs[row, slot, size:], outputs[row, slot, size:] = each.inputs[-1] + 1.0, each.outputs[-1]
    return Calibrations(scaled, torch.from_numpy(inputs).to(device), torch.from_numpy(outputs).to(device))
