"""Steps to be timed as serving runs them on a device: replayed, choosing included, the host waiting once."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from outrider.engine.cache import PagedCache
from outrider.engine.device.step import DeviceStep, Forward, StepShape

__all__ = ["DeviceStage"]

_REPEATS = 5
"""The first of a shape compile, one is captured, later ones are replayed."""


@dataclass(frozen=True, slots=True)
class DeviceStage:
    """A step's buffers over memory whose sequences, `distinct` of them, hold `blocks_each` blocks from 0 on."""

    step: DeviceStep
    verified: int
    distinct: int

    @classmethod
    def over(
        cls, forward: Forward, cache: PagedCache, *, verified: int, requests: int, distinct: int, blocks_each: int
    ) -> DeviceStage:
        """For steps of up to `requests` sequences that verify up to `verified` tokens; some share their memory."""
        device = cache.block_slots.device
        own = torch.arange(requests + 1, dtype=torch.int32, device=device) % distinct
        tables = own[:, None] * blocks_each + torch.arange(blocks_each, dtype=torch.int32, device=device)
        step = DeviceStep(
            forward, cache, requests=requests, tokens=requests * verified, gamma=verified - 1, tables=tables
        )
        return cls(step, verified, distinct)

    @torch.inference_mode()
    def timed(self, context: int, size: int) -> float:
        """Seconds of a step of `size` tokens, in sequences of `verified` and one of the rest, each at `context`."""
        shape = self._stage(context, size)
        best = float("inf")
        for _ in range(_REPEATS):
            started = time.perf_counter()
            self.step.stage.send()
            self.step.run(shape, self.step.told_depths(), key="profile")
            self.step.wait()
            best = min(best, time.perf_counter() - started)
        return best

    def _stage(self, context: int, size: int) -> StepShape:
        lengths = [self.verified] * (size // self.verified)
        lengths += [size % self.verified] if size % self.verified else []
        count, stage = len(lengths), self.step.stage.host
        for name in ("fixed", "told", "caps", "context", "temperature"):
            stage[name][:] = 0
        stage["fixed"][:count] = stage["told"][:count] = stage["temperature"][:count] = 1
        stage["caps"][:count] = np.array(lengths) - 1
        stage["context"][:count] = context
        stage["offset"][:count] = stage["drafted"][:count] = stage["lane"][:count] = np.arange(count)
        stage["top_p"][:], stage["rounds"][:], stage["drafted"][count:] = 1.0, -1, -1
        stage["carried"][:], stage["limit"][:], stage["room"][:] = -1, 1 << 30, 1 << 30
        longest = max(lengths)
        return StepShape(count, size, size, longest, random=True, cuts=False, rejects=False)
