"""The drafter's optimisers and their schedule: Muon for the decoder's matrices, AdamW for the rest, cosine decay."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from outrider.training.recipe import TrainingSection

__all__ = ["cosine", "new_optimizers", "set_rates"]

FLOOR = 0.01


def new_optimizers(drafter: nn.Module, settings: TrainingSection) -> list[torch.optim.Optimizer]:
    """`learning_rate` is for the decoder's matrices, `head_learning_rate` for heads and norms.

    With `adamw` one optimiser has both groups. Frozen parameters are in none.
    """
    trained = [(name, p) for name, p in drafter.named_parameters() if p.requires_grad]
    inner = [p for name, p in trained if p.ndim == 2 and name.startswith(("layers.", "fc."))]
    chosen = {id(p) for p in inner}
    outer = [p for _, p in trained if id(p) not in chosen]
    heads = {"params": outer, "lr": settings.head_learning_rate, "weight_decay": 0.0}
    optimizers: list[torch.optim.Optimizer]
    if settings.optimizer == "muon":
        muon = torch.optim.Muon(inner, lr=settings.learning_rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
        optimizers = [muon, torch.optim.AdamW([heads], betas=(0.9, 0.95))]
    else:
        decoder = {"params": inner, "lr": settings.learning_rate, "weight_decay": 0.02}
        optimizers = [torch.optim.AdamW([decoder, heads], betas=(0.9, 0.95))]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def cosine(step: int, steps: int, warmup: float) -> float:
    """Factor of the peak rate at `step` of 0…steps−1: linear warm-up, then a half cosine to near zero."""
    done = (step + 1) / steps
    if done < warmup:
        return done / warmup
    rest = (done - warmup) / max(1e-9, 1 - warmup)
    return max(FLOOR, 0.5 * (1 + math.cos(math.pi * min(1.0, rest))))


def set_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Every group's rate as a share of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
