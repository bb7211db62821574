"""Writing a round's columns: who takes part, and how each samples."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from outrider.engine.device.flight import Flight, carried_rows
from outrider.engine.device.step import DeviceStep, StepShape
from outrider.engine.device.tables import BlockTables
from outrider.engine.plan import Outline
from outrider.engine.sequence import Sequence
from outrider.speculation import RowSampling

__all__ = ["count_draws", "stage_members", "stage_sampling"]


def stage_members(
    step: DeviceStep, tables: BlockTables, outline: Outline, block_size: int, drafted_tokens: int, before: Flight | None
) -> StepShape:
    """Everything the step must know but blocks and caps; its shape with so many draft tokens at most."""
    stage, decoding, sampling = step.stage.host, outline.decoding, outline.sampling
    everyone = [*decoding, *(s for s, _ in outline.prefill)]
    first, count = len(decoding), len(everyone)
    stage["lane"][:count] = [tables.lane(s) for s in everyone]
    stage["context"][:count] = [s.num_computed for s in everyone]
    stage["limit"][:count] = [s.most_tokens for s in everyone]
    stage["room"][:count] = [len(s.blocks) * block_size for s in everyone]
    stage["carried"][:count] = carried_rows(everyone, before)
    stage["fixed"][:first] = 1
    stage["told"][:first] = 1
    stage["offset"][:first] = np.arange(first)
    stage["tokens"][:first] = [s.tokens[-1] for s in decoding]
    end = told = first
    for row, (sequence, length) in enumerate(outline.prefill, start=first):
        start = sequence.num_computed
        stage["tokens"][end : end + length] = sequence.tokens[start : start + length]
        stage["fixed"][row], stage["offset"][row] = length, end
        stage["told"][row] = start + length == len(sequence.tokens)
        told += int(stage["told"][row])
        end += length
    for name, value in (("caps", 0), ("drafted", -1), ("carried", -1)):
        stage[name][first:count] = value
    for name, value in (("fixed", 0), ("told", 0), ("caps", 0), ("drafted", -1), ("context", 0), ("carried", -1)):
        stage[name][count:] = value
    stage["lane"][count:] = len(tables.entries) - 1
    stage_sampling(stage, sampling, range(count), [s.draws if s.rejects else -1 for s in everyone])
    longest = max([1 + min(step.gamma, drafted_tokens), *(length for _, length in outline.prefill)])
    return StepShape(
        requests=count,
        tokens=end + drafted_tokens,
        rows=told + drafted_tokens,
        longest=longest,
        random=sampling.random,
        cuts=sampling.cuts,
        rejects=any(s.rejects for s in everyone),
    )


def count_draws(sequences: Iterable[Sequence]) -> None:
    """Each drew once under the rejection rule, whether or not anything comes of it."""
    for sequence in sequences:
        sequence.draws += sequence.rejects


def stage_sampling(stage: dict[str, np.ndarray], sampling: RowSampling, rows: Iterable[int], draws: list[int]) -> None:
    """How each of `rows` samples, and the numbers of its draws."""
    at = np.fromiter(rows, dtype=np.int64)
    count = len(at)
    for name in ("temperature", "top_p", "seeds", "choices"):
        stage[name][:count] = getattr(sampling, name).numpy()[at]
    stage["top_k"][:count] = 0 if sampling.top_k is None else sampling.top_k.numpy()[at]
    stage["min_p"][:count] = 0.0 if sampling.min_p is None else sampling.min_p.numpy()[at]
    stage["rounds"][:count] = draws
    stage["temperature"][count:], stage["top_p"][count:], stage["rounds"][count:] = 0.0, 1.0, -1
