"""Figures of rounds: acceptance length with intervals, and what becomes of each slot. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider.training.rounds import Rounds

__all__ = ["figures_by_domain", "slot_figures", "threshold_sweep"]

RESAMPLES = 2000


def figures_by_domain(rounds: Rounds, domains: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Per domain and over all: τ with its 95 % interval, rounds, prompts, accepted ÷ verified, slots; macro τ.

    τ is tokens per round after the first token, bonus included, pooled over a domain's prompts; intervals are
    percentiles of a bootstrap over prompts. `domains` [P] is the domain of every prompt.
    """
    rng = np.random.default_rng(seed)
    names = np.asarray(domains)
    found: dict[str, Any] = {}
    draws: list[NDArray[np.float64]] = []
    for domain in sorted(set(domains)):
        part = rounds.of(np.flatnonzero(names == domain).tolist())
        if len(part.run):
            figures, drawn = _figures(part, rng)
            found[domain] = figures
            draws.append(drawn)
    if not found:
        return {"domains": {}, "macro_tau": None}
    macro = np.mean(draws, axis=0)
    return {
        "domains": found,
        "macro_tau": float(np.mean([each["tau"] for each in found.values()])),
        "macro_tau_interval": _interval(macro),
        "all": _figures(rounds, rng)[0],
    }


def _figures(rounds: Rounds, rng: np.random.Generator) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """One domain's figures, and τ of every resample."""
    _, owner = np.unique(rounds.prompt, return_inverse=True)
    tokens = np.bincount(owner, weights=rounds.emitted)
    counts = np.bincount(owner).astype(np.float64)
    prompts = len(tokens)
    picks = rng.integers(0, prompts, (RESAMPLES, prompts))
    drawn = tokens[picks].sum(1) / counts[picks].sum(1)
    verified = int(rounds.verified.sum())
    figures = {
        "tau": float(tokens.sum() / counts.sum()),
        "tau_interval": _interval(drawn),
        "prompts": prompts,
        "rounds": len(rounds.run),
        "tokens": int(tokens.sum()),
        "verified": verified,
        "accepted": int(rounds.accepted.sum()),
        "accepted_per_verified": float(rounds.accepted.sum() / verified) if verified else None,
        **slot_figures(rounds),
    }
    return figures, drawn


def slot_figures(rounds: Rounds) -> dict[str, list[Any]]:
    """Per slot k: conditional acceptance given all before it, prefix survival, and how many rounds each rests on.

    Slots past the answer's end have nothing to be compared with and do not count.
    """
    slots = np.arange(1, rounds.gamma + 1)
    real = slots <= rounds.left[:, None]
    survived = rounds.run[:, None] >= slots
    reached = real & (rounds.run[:, None] >= slots - 1)
    tried, compared = reached.sum(0), real.sum(0)
    return {
        "conditional": _shares((reached & survived).sum(0), tried),
        "survival": _shares((real & survived).sum(0), compared),
        "conditional_rounds": tried.tolist(),
        "survival_rounds": compared.tolist(),
    }


def threshold_sweep(rounds: Rounds, thresholds: Sequence[float]) -> list[dict[str, float | None]]:
    """What each round would have come to with its block cut before the first slot that is less confident than that.

    Draft tokens per round that are accepted and rejected, and accepted ÷ verified. Rounds begin where they began at
    full depth; a real run with cut blocks has more of them.
    """
    with np.errstate(over="ignore"):
        confidence = 1.0 / (1.0 + np.exp(-rounds.confidence.astype(np.float64)))
    found: list[dict[str, float | None]] = []
    for threshold in thresholds:
        admitted = (confidence >= threshold).cumprod(1).sum(1)
        verified = np.minimum(rounds.verified, admitted)
        accepted = np.minimum(rounds.run, verified)
        share = float(accepted.sum() / verified.sum()) if verified.sum() else None
        found.append(
            {
                "threshold": threshold,
                "accepted": float(accepted.mean()),
                "rejected": float((verified - accepted).mean()),
                "accepted_per_verified": share,
            }
        )
    return found


def _shares(part: NDArray[np.int64], whole: NDArray[np.int64]) -> list[float | None]:
    return [float(p / w) if w else None for p, w in zip(part.tolist(), whole.tolist(), strict=True)]


def _interval(draws: NDArray[np.float64]) -> list[float]:
    low, high = np.percentile(draws, (2.5, 97.5))
    return [float(low), float(high)]
