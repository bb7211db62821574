"""Pretraining of a demo target: packed windows, Muon for matrices and AdamW for the rest, bf16 autocast.

The schedule is a function of the share of the token budget already seen, so that targets of different sizes see the
same data under the same schedule on any machine. A checkpoint every two minutes makes `kill -9` cost at most that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from outrider.training import attention
from outrider.training.packing import WindowStream
from outrider.training.progress import Progress
from outrider.training.shapes import TargetShape
from outrider.training.storage import load_checkpoint, replace_directory, save_checkpoint

__all__ = ["export_target", "load_target", "new_target", "pretrain"]

MUON_LR = 6e-3
ADAM_LR = 4e-3
WEIGHT_DECAY = 0.05
WARMUP = 0.03
GRADIENT_CLIP = 1.0
# Each worker computes a part of the batch on one core. On a shared machine that is far better than one worker with two
# OpenMP threads, which meet at a barrier in every operator: 2 steps in 45 s against 2 in 6 s at a load of eight.
WORKERS = 2


class _FusedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy whose gradient is computed with the loss: one pass over [N, V] instead of three."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        scores = logits.float()
        log_norm = scores.logsumexp(dim=-1, keepdim=True)
        loss = (log_norm - scores.gather(1, targets[:, None])).mean()
        gradient = scores.sub_(log_norm).exp_()
        gradient.scatter_add_(1, targets[:, None], gradient.new_full((len(targets), 1), -1.0))
        ctx.save_for_backward(gradient.mul_(1.0 / len(targets)).to(logits.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), None


def new_target(shape: TargetShape, seed: int, eos_token_ids: Sequence[int], pad_token_id: int) -> nn.Module:
    """A freshly initialised stock `Qwen3ForCausalLM`."""
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.intermediate_size,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=list(eos_token_ids),
        pad_token_id=pad_token_id,
    )
    config._attn_implementation = attention.register()
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=list(eos_token_ids), pad_token_id=pad_token_id, do_sample=True, temperature=1.0
    )
    made: nn.Module = model
    return made


def load_target(directory: Path) -> nn.Module:
    """A saved target in fp32, ready for inference."""
    from transformers import Qwen3ForCausalLM

    model: nn.Module = Qwen3ForCausalLM.from_pretrained(directory, local_files_only=True, dtype=torch.float32)
    return model.eval()


def export_target(model: Any, tokenizer: Any, directory: Path) -> None:
    """Weights in bf16, configuration and tokenizer, swapped into `directory` at once."""
    from transformers import Qwen3ForCausalLM

    def fill(partial: Path) -> None:
        copy = Qwen3ForCausalLM(model.config).to(torch.bfloat16)
        copy.load_state_dict(model.state_dict())
        copy.generation_config = model.generation_config
        copy.save_pretrained(partial)
        tokenizer.save_pretrained(partial)

    replace_directory(directory, fill)


def pretrain(
    model: nn.Module,
    tokenizer: Any,
    documents: Sequence[Sequence[int]],
    final_documents: Sequence[Sequence[int]],
    shape: TargetShape,
    checkpoint: Path,
    directory: Path,
    seed: int = 1,
) -> dict[str, float]:
    """Train on the tokens of `shape.effort`; resumes from `checkpoint`; exports at each checkpoint.

    `documents` are token ids; `final_documents` replace them for the effort's final share. Returns the run's figures.
    """
    effort = shape.effort
    step_tokens = effort.batch_windows * effort.window_tokens
    steps = math.ceil(effort.pretrain_tokens / step_tokens)
    optimizers = _optimizers(model)
    step, elapsed_s, smoothed, consumed = 0, 0.0, math.nan, [0, 0]
    saved = load_checkpoint(checkpoint)
    if saved is not None:
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step, elapsed_s, smoothed = saved["step"], saved["elapsed_s"], saved["loss"]
        consumed = saved["consumed"]
    model.train()
    streams = [
        WindowStream(part, effort.window_tokens, seed + number, consumed[number])
        for number, part in enumerate((documents, final_documents))
    ]
    resumed_at_s, started_s, saved_s, first_step = elapsed_s, time.monotonic(), time.monotonic(), step

    def save() -> None:
        states = [optimizer.state_dict() for optimizer in optimizers]
        state = {"model": model.state_dict(), "optimizers": states, "step": step, "elapsed_s": elapsed_s}
        save_checkpoint(checkpoint, state | {"loss": smoothed, "consumed": [s.consumed for s in streams]})
        export_target(model, tokenizer, directory)

    with _one_thread_each(), Progress(f"pretrain {shape.name}") as progress, ThreadPoolExecutor(WORKERS) as pool:
        while step < steps:
            spent = step / steps
            final = spent >= 1 - effort.final_share
            loss = _step(model, optimizers, streams[final].take(effort.batch_windows), spent, pool)
            step += 1
            smoothed = loss if math.isnan(smoothed) else 0.98 * smoothed + 0.02 * loss
            elapsed_s = resumed_at_s + time.monotonic() - started_s
            speed = (step - first_step) * step_tokens / (elapsed_s - resumed_at_s)
            progress.update(step / steps, step=step, final=str(final), loss=smoothed, tok_per_s=speed)
            if time.monotonic() - saved_s > effort.checkpoint_s:
                save()
                saved_s = time.monotonic()
    save()
    return {"steps": step, "tokens": step * step_tokens, "train_loss": smoothed, "train_s": elapsed_s}


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """No OpenMP team inside a worker, for as long as this lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _optimizers(model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the projection matrices, AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0)
    for group in (*muon.param_groups, *adam.param_groups):
        group["peak_lr"] = group["lr"]
    return muon, adam


def _step(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    windows: Tensor,
    spent: float,
    pool: ThreadPoolExecutor,
) -> float:
    """One optimisation step on `windows` [B, T + 1]; `spent` in [0, 1] drives warm-up, then decay to zero."""
    factor = spent / WARMUP if spent < WARMUP else max(0.0, (1 - spent) / (1 - WARMUP))
    parameters = list(model.parameters())
    parts = list(pool.map(lambda part: _gradients(model, parameters, part), windows.chunk(WORKERS)))
    share = 1 / len(parts)
    for parameter, *gradients in zip(parameters, *(gradients for _, gradients in parts), strict=True):
        parameter.grad = torch.stack(gradients).sum(0).mul_(share)
    nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * max(factor, 0.01)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return sum(loss for loss, _ in parts) * share


def _gradients(model: nn.Module, parameters: Sequence[Tensor], windows: Tensor) -> tuple[float, tuple[Tensor, ...]]:
    """Loss and gradients of one worker's part of the batch."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    targets = windows[:, 1:].reshape(-1)
    loss: Tensor = _FusedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits.reshape(len(targets), -1), targets
    )
    return float(loss.detach()), torch.autograd.grad(loss, parameters)
