"""The sizes of the demo models and of the effort spent on them; `scaled` shrinks both for tests."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from outrider.training.tokenizer import MASK

__all__ = ["FLASH", "PRO", "DrafterShape", "Effort", "TargetShape", "scaled"]


# Both targets see the same documents in the same order: what Pro does better, its size does.
PRETRAIN_TOKENS = 8_000_000


@dataclass(frozen=True, slots=True)
class DrafterShape:
    """A DSpark drafter for one target; heads and widths are the target's."""

    layers: int
    block_size: int
    target_layer_ids: tuple[int, ...]
    markov_rank: int


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work goes into a part; pretraining's schedule is a function of the share of its tokens that was seen.

    The last `final_share` of pretraining sees the corpus's final part: conversations with more sums and exact tasks.
    """

    pretrain_tokens: int
    drafter_steps: int
    regenerated: int
    final_share: float = 0.2
    answer_tokens: int = 200
    batch_windows: int = 8
    window_tokens: int = 512
    checkpoint_s: float = 120.0


@dataclass(frozen=True, slots=True)
class TargetShape:
    """A stock Qwen3 decoder with tied embeddings."""

    name: str
    vocab_size: int
    hidden_size: int
    layers: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int
    drafter: DrafterShape
    effort: Effort

    def target_settings(self) -> dict[str, Any]:
        """What the trained target depends on, and only that."""
        settings = asdict(self)
        effort = settings.pop("effort")
        del settings["drafter"]
        return settings | {k: effort[k] for k in ("pretrain_tokens", "final_share", "batch_windows", "window_tokens")}

    def recipe(self, target: str, prompts: str, output: str, plain: str | None = None) -> dict[str, Any]:
        """The drafter's recipe (see `outrider.training.recipe`); `plain` is a smaller model to measure it against."""
        plan, effort = self.drafter, self.effort
        return {
            "target": target,
            "output": output,
            "prompts": {"files": [prompts], "max_prompt_tokens": 400},
            "answers": {"max_new_tokens": effort.answer_tokens},
            "drafter": {
                "layers": plan.layers,
                "block_size": plan.block_size,
                "target_layer_ids": list(plan.target_layer_ids),
                "markov_rank": plan.markov_rank,
                "mask_token": MASK,
            },
            "training": {"steps": effort.drafter_steps},
            "evaluation": {"max_new_tokens": effort.answer_tokens} | ({"plain_model": plain} if plain else {}),
        }


FLASH = TargetShape(
    name="flash",
    vocab_size=2048,
    hidden_size=160,
    layers=4,
    intermediate_size=448,
    heads=4,
    kv_heads=2,
    head_dim=32,
    max_positions=2048,
    drafter=DrafterShape(layers=2, block_size=7, target_layer_ids=(0, 1, 2), markov_rank=64),
    effort=Effort(pretrain_tokens=PRETRAIN_TOKENS, drafter_steps=2000, regenerated=4000),
)
PRO = TargetShape(
    name="pro",
    vocab_size=2048,
    hidden_size=256,
    layers=6,
    intermediate_size=896,
    heads=4,
    kv_heads=2,
    head_dim=64,
    max_positions=2048,
    drafter=DrafterShape(layers=2, block_size=7, target_layer_ids=(0, 2, 4), markov_rank=128),
    effort=Effort(pretrain_tokens=PRETRAIN_TOKENS, drafter_steps=2500, regenerated=4000),
)


def scaled(shape: TargetShape, scale: float) -> TargetShape:
    """The same pipeline at a fraction of the effort; below a tenth the network shrinks too."""
    if scale >= 1.0:
        return shape
    effort = replace(
        shape.effort,
        pretrain_tokens=round(shape.effort.pretrain_tokens * scale),
        drafter_steps=max(4, round(shape.effort.drafter_steps * scale)),
        regenerated=max(24, round(shape.effort.regenerated * scale)),
    )
    if scale >= 0.1:
        return replace(shape, effort=effort)
    drafter = replace(shape.drafter, layers=1, target_layer_ids=(-1, 0), markov_rank=8)
    small = replace(effort, answer_tokens=24, batch_windows=2, window_tokens=192)
    return replace(
        shape, vocab_size=512, hidden_size=32, layers=2, intermediate_size=64, heads=2, kv_heads=1, head_dim=16,
        drafter=drafter, effort=small,
    )  # fmt: skip
