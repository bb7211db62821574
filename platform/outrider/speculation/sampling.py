"""Choosing a token from logits under a row's temperature and nucleus, by exponential race.

Names of shapes: n rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from outrider.speculation.noise import race_noise

__all__ = ["RowSampling", "choose", "race", "token_probs"]


@dataclass(frozen=True, slots=True)
class RowSampling:
    """Per-row sampling parameters: temperature and top_p fp32 [n], seeds and choices int64 [n].

    `random` and `nucleus` say whether any row needs noise or a top-p cut, so that greedy batches skip both.
    """

    temperature: Tensor
    top_p: Tensor
    seeds: Tensor
    choices: Tensor
    random: bool = field(default=True)
    nucleus: bool = field(default=True)

    @classmethod
    def of(
        cls,
        temperature: Sequence[float],
        top_p: Sequence[float],
        seeds: Sequence[int],
        choices: Sequence[int],
    ) -> RowSampling:
        """Build from Python numbers; seeds are taken modulo 2⁶⁴."""
        wrapped = [(s + (1 << 63)) % (1 << 64) - (1 << 63) for s in seeds]
        return cls(
            torch.tensor(temperature, dtype=torch.float32),
            torch.tensor(top_p, dtype=torch.float32),
            torch.tensor(wrapped, dtype=torch.int64),
            torch.tensor(choices, dtype=torch.int64),
            random=any(t > 0 for t in temperature),
            nucleus=any(t > 0 and p < 1 for t, p in zip(temperature, top_p, strict=True)),
        )

    def index(self, rows: Tensor) -> RowSampling:
        """The same parameters for the given row numbers (int64 [m]); repeats are allowed."""
        return RowSampling(
            self.temperature[rows],
            self.top_p[rows],
            self.seeds[rows],
            self.choices[rows],
            self.random,
            self.nucleus,
        )

    def __len__(self) -> int:
        return int(self.temperature.shape[0])


def token_probs(logits: Tensor, rows: RowSampling) -> Tensor:
    """The distribution a row samples from, fp32 [n, V]: softmax(logits / T), cut to the nucleus, renormalised.

    The nucleus is the smallest set of most probable tokens whose mass reaches top_p. Greedy rows (T = 0) come out as
    a softmax at T = 1: callers take their argmax.
    """
    temperature = torch.where(rows.temperature > 0, rows.temperature, 1.0)
    probs = torch.softmax(logits.float() / temperature[:, None], dim=-1)
    if not rows.nucleus:
        return probs
    limit = rows.top_p[:, None].clamp(min=1e-9)
    ordered, order = _most_probable(probs, limit)
    mass_before = ordered.cumsum(dim=-1) - ordered
    kept = torch.zeros_like(probs).scatter_(1, order, ordered.masked_fill(mass_before >= limit, 0.0))
    cut = torch.where(((rows.temperature > 0) & (rows.top_p < 1))[:, None], kept, probs)
    return cut / cut.sum(dim=-1, keepdim=True)


def _most_probable(probs: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities in descending order with their ids, enough of them to hold every row's nucleus.

    A full sort of 128 rows of 2,048 costs 12 ms on two cores, top-128 1 ms; peaked rows need no more than that. Rows
    without a cut (top_p = 1) are not waited for.
    """
    vocab = probs.shape[-1]
    width = min(128, vocab)
    ordered, order = probs.topk(width, dim=-1)
    short = (ordered.sum(dim=-1, keepdim=True) < limit) & (limit < 1)
    if width < vocab and bool(short.any()):
        return probs.sort(dim=-1, descending=True)
    return ordered, order


def race(logits: Tensor, rows: RowSampling, noise: Tensor | None) -> Tensor:
    """argmin E/prob per row, int64 [n]; `noise` is E [n, V], or None when every row is greedy."""
    if noise is None or not rows.random:
        return logits.argmax(dim=-1)
    winners = (noise / token_probs(logits, rows)).argmin(dim=-1)
    return torch.where(rows.temperature > 0, winners, logits.argmax(dim=-1))


def choose(logits: Tensor, rows: RowSampling, positions: Tensor) -> Tensor:
    """Token ids [n] chosen from logits [n, V] for the absolute positions int64 [n] they will stand at."""
    if not rows.random:
        return logits.argmax(dim=-1)
    return race(logits, rows, race_noise(rows.seeds, rows.choices, positions, logits.shape[-1]))
