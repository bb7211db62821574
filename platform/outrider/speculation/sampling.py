"""Choosing a token from logits under a row's temperature, top-k, nucleus and min-p, by exponential race.

Names of shapes: n rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from outrider.speculation.fused import fused_choose
from outrider.speculation.noise import race_noise
from outrider_kernels import loaded, native_choose

__all__ = ["RowSampling", "choose", "race", "token_probs"]

_COLDEST = 1e-5
"""Below this logits leave fp32 when divided, and a token that cannot be chosen would win."""


@dataclass(frozen=True, slots=True)
class RowSampling:
    """Per-row sampling parameters: temperature and top_p fp32 [n], seeds and choices int64 [n].

    `random` and `nucleus` say whether any row needs noise or a top-p cut, so that greedy batches skip both. top_k
    int64 [n] (0 keeps all) and min_p fp32 [n] (0 keeps all) are None when no sampled row has such a cut. rounds int64
    [n] is None unless some row is verified by the rejection rule: what numbers that row's draws, −1 for the others.
    """

    temperature: Tensor
    top_p: Tensor
    seeds: Tensor
    choices: Tensor
    random: bool = field(default=True)
    nucleus: bool = field(default=True)
    top_k: Tensor | None = None
    min_p: Tensor | None = None
    rounds: Tensor | None = None

    @classmethod
    def of(
        cls,
        temperature: Sequence[float],
        top_p: Sequence[float],
        seeds: Sequence[int],
        choices: Sequence[int],
        top_k: Sequence[int] = (),
        min_p: Sequence[float] = (),
    ) -> RowSampling:
        """Build from Python numbers; seeds are taken modulo 2⁶⁴, an empty top_k or min_p cuts nowhere."""
        wrapped = [(s + (1 << 63)) % (1 << 64) - (1 << 63) for s in seeds]
        cut_k = any(top_k) and any(t > 0 and k > 0 for t, k in zip(temperature, top_k, strict=True))
        cut_p = any(min_p) and any(t > 0 and p > 0 for t, p in zip(temperature, min_p, strict=True))
        return cls(
            torch.tensor([max(t, _COLDEST) if t > 0 else 0.0 for t in temperature], dtype=torch.float32),
            torch.tensor(top_p, dtype=torch.float32),
            torch.tensor(wrapped, dtype=torch.int64),
            torch.tensor(choices, dtype=torch.int64),
            random=any(t > 0 for t in temperature),
            nucleus=any(t > 0 and p < 1 for t, p in zip(temperature, top_p, strict=True)),
            top_k=torch.tensor(top_k, dtype=torch.int64) if cut_k else None,
            min_p=torch.tensor(min_p, dtype=torch.float32) if cut_p else None,
        )

    @property
    def cuts(self) -> bool:
        """Whether any row samples from less than the whole softmax."""
        return self.nucleus or self.top_k is not None or self.min_p is not None

    def index(self, rows: Tensor) -> RowSampling:
        """The same parameters for the given row numbers (int64 [m]); repeats are allowed."""
        return RowSampling(
            self.temperature[rows],
            self.top_p[rows],
            self.seeds[rows],
            self.choices[rows],
            self.random,
            self.nucleus,
            None if self.top_k is None else self.top_k[rows],
            None if self.min_p is None else self.min_p[rows],
            None if self.rounds is None else self.rounds[rows],
        )

    def to(self, device: torch.device) -> RowSampling:
        """The same parameters on a device."""
        return RowSampling(
            self.temperature.to(device),
            self.top_p.to(device),
            self.seeds.to(device),
            self.choices.to(device),
            self.random,
            self.nucleus,
            None if self.top_k is None else self.top_k.to(device),
            None if self.min_p is None else self.min_p.to(device),
            None if self.rounds is None else self.rounds.to(device),
        )

    def __len__(self) -> int:
        return int(self.temperature.shape[0])


def token_probs(logits: Tensor, rows: RowSampling) -> Tensor:
    """The distribution a row samples from, fp32 [n, V]: softmax(logits / T), then top-k, nucleus, min-p, renormalised.

    The nucleus is the smallest set of most probable tokens whose share of what top-k kept reaches top_p; min-p drops
    tokens below that share of the most probable one's. Greedy rows (T = 0) come out as a softmax at T = 1, uncut:
    callers take their argmax.
    """
    temperature = torch.where(rows.temperature > 0, rows.temperature, 1.0)
    probs = torch.softmax(logits.float() / temperature[:, None], dim=-1)
    if not rows.cuts:
        return probs
    hot = (rows.temperature > 0)[:, None]
    if rows.nucleus or rows.top_k is not None:
        probs = _cut_ranks(probs, rows, hot)
    if rows.min_p is not None:
        least = probs.amax(dim=-1, keepdim=True) * rows.min_p[:, None]
        probs = probs.masked_fill((probs < least) & hot, 0.0)
    return probs / probs.sum(dim=-1, keepdim=True)


def _cut_ranks(probs: Tensor, rows: RowSampling, hot: Tensor) -> Tensor:
    """Probabilities outside of top-k and nucleus set to zero, where the row has such a cut."""
    vocab = probs.shape[-1]
    limit = torch.where(rows.top_p < 1, rows.top_p.clamp(min=1e-9), torch.inf)[:, None]
    cut = limit < 1
    kept_ranks: Tensor | None = None
    if rows.top_k is not None:
        kept_ranks = torch.where(rows.top_k > 0, rows.top_k, vocab)[:, None]
        cut = cut | (kept_ranks < vocab)
    ordered, order = _most_probable(probs, limit, kept_ranks)
    if kept_ranks is not None:
        ranks = torch.arange(ordered.shape[-1], device=probs.device)
        ordered = ordered.masked_fill(ranks >= kept_ranks, 0.0)
        limit = torch.where(kept_ranks < vocab, limit * ordered.sum(dim=-1, keepdim=True), limit)
    mass_before = ordered.cumsum(dim=-1) - ordered
    kept = torch.zeros_like(probs).scatter_(1, order, ordered.masked_fill(mass_before >= limit, 0.0))
    return torch.where(hot & cut, kept, probs)


def _most_probable(probs: Tensor, limit: Tensor, kept_ranks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Probabilities in descending order with their ids, enough of them to hold every row's nucleus and top-k.

    A full sort of 128 rows of 2,048 costs 12 ms on two cores, top-128 1 ms; peaked rows need no more than that. Rows
    without a cut are not waited for.
    """
    vocab = probs.shape[-1]
    width = min(128, vocab)
    ordered, order = probs.topk(width, dim=-1)
    short = (ordered.sum(dim=-1, keepdim=True) < limit) & (limit < 1)
    if kept_ranks is not None:
        short = torch.where(kept_ranks < vocab, kept_ranks > width, short)
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
    if logits.device.type == "cuda":
        return fused_choose(logits, rows, positions)
    compiled = loaded()
    if compiled is not None and not rows.cuts and logits.device.type == "cpu" and logits.dtype == torch.float32:
        racers = (rows.temperature, rows.seeds, rows.choices)
        return native_choose(compiled, logits.contiguous(), racers, positions.contiguous())
    return race(logits, rows, race_noise(rows.seeds, rows.choices, positions, logits.shape[-1]))
