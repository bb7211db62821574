"""Exact joint distributions of the first output tokens, and a chi-square of counts against them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2
from torch import Tensor

from outrider.types import SamplingParams
from support.surface import row_probs, shaped

__all__ = ["chi_square", "exact_joint"]


@torch.inference_mode()
def exact_joint(model: Any, prompt: Sequence[int], length: int, sampling: SamplingParams) -> NDArray[np.float64]:
    """P(t₁…t_length | prompt) by enumeration, float64 [V]·length: stock transformers logits, processors and warpers."""
    vocab = model.config.vocab_size
    joint = torch.ones(1, dtype=torch.float64)
    for depth in range(length):
        outputs = list(itertools.product(range(vocab), repeat=depth))
        logits = _logits(model, [[*prompt, *output] for output in outputs])
        rows = [
            row_probs(shaped(row, prompt, out, sampling), sampling) for row, out in zip(logits, outputs, strict=True)
        ]
        joint = (joint[:, None] * torch.stack(rows).double()).reshape(-1)
    return joint.reshape((vocab,) * length).numpy()


def _logits(model: Any, histories: list[list[int]]) -> Tensor:
    logits: Tensor = model(torch.tensor(histories)).logits[:, -1].float()
    return logits


def chi_square(samples: NDArray[np.int64], joint: NDArray[np.float64], *, least: float = 5.0) -> float:
    """p-value of samples [N, length] against a joint distribution; cells expected less than `least` times are merged.

    A sample where the joint has no mass at all gives 0.
    """
    count = len(samples)
    observed = np.zeros(joint.shape)
    np.add.at(observed, tuple(samples.T), 1)
    expected = joint * count
    if observed[joint == 0].any():
        return 0.0
    big = expected >= least
    seen = [*observed[big], observed[~big].sum()]
    wanted = [*expected[big], expected[~big].sum()]
    if wanted[-1] < least:  # what is left over is too rare for a cell of its own
        seen[-2:], wanted[-2:] = [sum(seen[-2:])], [sum(wanted[-2:])]
    statistic = float(((np.array(seen) - wanted) ** 2 / np.array(wanted)).sum())
    return float(chi2.sf(statistic, len(seen) - 1))
