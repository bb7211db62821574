"""Training of a drafter on regenerated answers: a budget of steps, many blocks in one forward, exact resumption.

What step n sees is a function of the seed and n, and a checkpoint holds weights and optimisers, so a run that was
killed and resumed ends with the weights of one that was not. On a CPU each step is split over workers of one
thread each: two OpenMP threads meet at a barrier in every operator and collapse on a shared machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from outrider.drafter.model import DSparkModel
from outrider.errors import TrainingDiverged
from outrider.training.anchors import Block, Pack, PackStream, load_pack, split_pack
from outrider.training.drafter_loss import DrafterLoss, drafter_loss, slot_weights
from outrider.training.features import Featured
from outrider.training.journal import Journal
from outrider.training.optimizers import cosine, new_optimizers, set_rates
from outrider.training.progress import Progress
from outrider.training.recipe import TrainingSection
from outrider.training.storage import load_checkpoint, save_checkpoint

__all__ = ["Trainer", "bf16_is_native", "conversation_sizes", "one_thread_each", "train"]

GRADIENT_CLIP = 1.0
CPU_WORKERS = 2
SMOOTHING = 0.98


@dataclass(frozen=True, slots=True)
class _Part:
    """What one worker brings to a step: gradients of the trained parameters, and sums over its slots."""

    gradients: tuple[Tensor, ...]
    total: float
    sums: dict[str, float]
    slots: int


class Trainer:
    """One run: the drafter, its optimisers and its place in the data. Steps count from 1."""

    def __init__(
        self,
        drafter: DSparkModel,
        conversations: Sequence[Featured],
        settings: TrainingSection,
        *,
        seed: int = 11,
        device: str = "auto",
    ) -> None:
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.drafter = drafter.to(self.device).train()
        self.settings = settings
        self.optimizers = new_optimizers(drafter, settings)
        self.trained = [(name, p) for name, p in drafter.named_parameters() if p.requires_grad]
        self.step = 0
        self.elapsed_s = 0.0
        self.smoothed: dict[str, float] = {}
        self._conversations = conversations
        self._sizes = conversation_sizes(conversations)
        self._stream = PackStream(self._sizes, settings.anchors_per_conversation, settings.anchors_per_step, seed)
        self._workers = CPU_WORKERS if self.device.type == "cpu" else 1
        self._bf16 = settings.precision == "bf16" or (settings.precision == "auto" and bf16_is_native(self.device))
        self._weights = slot_weights(drafter.config.block_size, settings.loss.decay)

    @property
    def finished(self) -> bool:
        """Whether the budget of steps is spent."""
        return self.step >= self.settings.steps

    def take_step(self, pool: ThreadPoolExecutor) -> dict[str, float]:
        """One update; returns its figures. Raises TrainingDiverged, with the weights unchanged, at a loss or gradient
        that is no number."""
        accumulation = self.settings.accumulation
        first = self.step * accumulation
        packs = [self._stream.pack(first + number) for number in range(accumulation)]
        total_weight = sum(self._weight_of(block) for pack in packs for block in pack)
        summed: list[Tensor] | None = None
        total, slots = 0.0, 0
        sums: dict[str, float] = {}
        for pack in packs:
            groups = split_pack(pack, self._workers)
            for part in pool.map(partial(self._part, total_weight=total_weight), groups):
                if summed is None:
                    summed = list(part.gradients)
                else:
                    torch._foreach_add_(summed, part.gradients)
                total, slots = total + part.total, slots + part.slots
                for name, each in part.sums.items():
                    sums[name] = sums.get(name, 0.0) + each
        assert summed is not None
        parameters = [p for _, p in self.trained]
        for parameter, gradient in zip(parameters, summed, strict=True):
            parameter.grad = gradient
        norm = float(nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP))
        self._check(total, norm)
        factor = cosine(self.step, self.settings.steps, self.settings.warmup)
        set_rates(self.optimizers, factor)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        means = {name: each / slots for name, each in sums.items()}
        return {"loss": total, **means, "gradient_norm": norm, "rate": factor, "slots": slots}

    def state(self) -> dict[str, Any]:
        """All that another process needs to go on."""
        weights = {name: p.detach() for name, p in self.trained}
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        place = {"step": self.step, "elapsed_s": self.elapsed_s, "smoothed": self.smoothed}
        return {"weights": weights, "optimizers": states, **place}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        with torch.no_grad():
            for name, parameter in self.trained:
                parameter.copy_(state["weights"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.elapsed_s, self.smoothed = state["step"], state["elapsed_s"], state["smoothed"]

    def _weight_of(self, block: Block) -> float:
        """Σ of the slot weights of a conversation's blocks; the last blocks reach past the answer's end."""
        number, anchors = block
        left = self._sizes[number][0] - 1 - anchors
        sums = self._weights.cumsum(0)
        return float(sums[left.clamp(max=len(sums)) - 1].sum())

    def _part(self, blocks: list[Block], total_weight: float) -> _Part:
        config = self.drafter.config
        pack = load_pack(self._conversations, blocks, config.block_size, config.mask_token_id).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16) if self._bf16 else nullcontext():
            loss = self._loss(pack, total_weight)
        gradients = torch.autograd.grad(loss.total, [p for _, p in self.trained])
        sums = {
            "surprise": float(loss.surprise.sum()),
            "overlap": float(loss.overlap.sum()),
            "match": float(loss.match.sum()),
        }
        if loss.confidence is not None:
            sums["confidence"] = float(loss.confidence.sum())
        return _Part(gradients, float(loss.total.detach()), sums, len(loss.match))

    def _loss(self, pack: Pack, total_weight: float) -> DrafterLoss:
        drafter, limit = self.drafter, self.drafter.config.max_position_embeddings - 1
        supervised, states = pack.supervised, pack.features if self._bf16 else pack.features.float()
        rows = drafter.project(states)
        positions = pack.positions.clamp(max=limit)
        whole = drafter.training_backbone(pack.block, positions, rows, pack.anchors)[pack.keep]
        latent, embedding = drafter.block_latent(whole, pack.previous)
        hidden = whole[supervised]
        logits = drafter.base_logits(hidden)
        if latent is not None:
            logits = logits + drafter.latent_bias(latent[supervised])
        confidence = None
        if drafter.confidence_head is not None:
            seen = None if embedding is None else embedding[supervised].detach()
            confidence = drafter.confidence_logit(hidden.detach(), seen)
        with torch.no_grad():
            last = pack.last[supervised]
            target_logits = drafter.base_logits(last if self._bf16 else last.float())
        weights = self._weights.to(self.device).expand_as(pack.previous)[supervised]
        return drafter_loss(
            logits, target_logits, pack.following[supervised], confidence, weights,
            self.settings.loss, self.settings.label, total_weight,
        )  # fmt: skip

    def _check(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        raise TrainingDiverged(
            f"step {self.step + 1}: {what}. The last checkpoint is from before and is kept; start over with a lower "
            f"training.learning_rate (now {self.settings.learning_rate:g}), a lower training.head_learning_rate (now "
            f"{self.settings.head_learning_rate:g}) or a longer training.warmup (now {self.settings.warmup:g})",
            param="training.learning_rate",
        )


def train(trainer: Trainer, checkpoint: Path, directory: Path, label: str = "drafter") -> dict[str, float]:
    """Spend what is left of the budget; returns the run's figures.

    Resumes from `checkpoint` and renews it every `checkpoint_s` seconds and when interrupted; `directory` gets the
    losses as they come. Raises TrainingDiverged.
    """
    settings = trainer.settings
    saved = load_checkpoint(checkpoint)
    if saved is not None:
        trainer.restore(saved)
    journal = Journal(directory, trainer.step)
    resumed_s, started_s, saved_s, first = trainer.elapsed_s, time.monotonic(), time.monotonic(), trainer.step
    whole = True  # no update is half done

    def save() -> None:
        journal.flush()
        save_checkpoint(checkpoint, trainer.state())

    try:
        with one_thread_each(trainer.device), Progress(label) as progress, ThreadPoolExecutor(CPU_WORKERS) as pool:
            while not trainer.finished:
                whole = False
                figures = trainer.take_step(pool)
                trainer.elapsed_s = resumed_s + time.monotonic() - started_s
                trainer.smoothed = _smoothed(trainer.smoothed, figures)
                journal.write(trainer.step, figures)
                whole = True
                shown = {name: trainer.smoothed[name] for name in ("loss", "overlap", "match")}
                pace_s = (trainer.elapsed_s - resumed_s) / (trainer.step - first)
                progress.update(trainer.step / settings.steps, step=trainer.step, **shown, s_per_step=pace_s)
                if time.monotonic() - saved_s > settings.checkpoint_s:
                    save()
                    saved_s = time.monotonic()
        save()
    except KeyboardInterrupt:
        if whole:
            save()
        raise
    finally:
        journal.close()
    trainer.drafter.eval()
    return {"steps": trainer.step, "train_s": round(trainer.elapsed_s, 1), **trainer.smoothed}


def conversation_sizes(conversations: Sequence[Featured]) -> Sequence[tuple[int, int]]:
    """(tokens, prompt tokens) of each: what a cache knows without reading states, and a list is asked for."""
    sizes: Sequence[tuple[int, int]] | None = getattr(conversations, "sizes", None)
    return sizes if sizes is not None else [(len(c.tokens), c.prompt_tokens) for c in conversations]


def bf16_is_native(device: torch.device) -> bool:
    """Whether the device multiplies bf16 itself; elsewhere it would be emulated, slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, flag, bool)()) for flag in flags)


@contextmanager
def one_thread_each(device: torch.device) -> Iterator[None]:
    """No OpenMP team inside a worker, for as long as this lasts."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _smoothed(before: dict[str, float], latest: dict[str, float]) -> dict[str, float]:
    kept = ("loss", "surprise", "overlap", "match", "confidence")
    return {
        name: SMOOTHING * before.get(name, latest[name]) + (1 - SMOOTHING) * latest[name]
        for name in kept if name in latest
    }  # fmt: skip
