"""The peer every figure is held against: `transformers.generate` on the same weights.

The official loop as its documentation recommends it: sdpa attention, key/value cache, inference mode, a left-padded
batch with its attention mask. Shapes: V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.streamers import BaseStreamer

__all__ = ["Generated", "Reference", "until_end"]


@dataclass(frozen=True, slots=True)
class Generated:
    """Tokens per prompt, end token included; seconds to every stream's first tokens, and in all.

    first_tokens: how many came first; rounds: verifications of drafts, all streams together, 0 where nobody counts.
    """

    tokens: list[list[int]]
    first_s: float
    wall_s: float
    first_tokens: int
    rounds: int = 0


class _FirstToken(BaseStreamer):  # type: ignore[misc]
    """Notes when the first new tokens came and how many; the first `put` carries the prompt."""

    def __init__(self) -> None:
        self._puts = 0
        self.at_s = 0.0
        self.tokens = 0

    def put(self, value: Tensor) -> None:
        self._puts += 1
        if self._puts == 2:
            self.at_s = time.perf_counter()
            self.tokens = value.numel()

    def end(self) -> None:
        """Nothing to flush."""


class Reference:
    """A stock model and its generation settings."""

    def __init__(self, directory: Path, *, dtype: torch.dtype, device: str) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, attn_implementation="sdpa", local_files_only=True
        )
        self.model.to(device).eval()
        ends = self.model.generation_config.eos_token_id
        self.ends: tuple[int, ...] = () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)

    @torch.inference_mode()
    def greedy(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        *,
        ignore_eos: bool = False,
        assistant: Reference | None = None,
    ) -> Generated:
        """Greedy continuations, all prompts in one padded batch, up to an end token or `max_tokens`.

        `assistant` drafts for a single prompt, as `generate(assistant_model=…)` does by default.
        """
        ends = () if ignore_eos else self.ends
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        config = GenerationConfig(
            do_sample=False, max_new_tokens=max_tokens, use_cache=True, pad_token_id=0, eos_token_id=list(ends) or None
        )
        # generate() fills settings that are None from the model's own, which would bring the end tokens back.
        self.model.generation_config.eos_token_id = list(ends) or None
        device = self.model.device
        first = _FirstToken()
        started = time.perf_counter()
        output = self.model.generate(
            ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config,
            streamer=first,
            assistant_model=None if assistant is None else assistant.model,
        )
        wall_s = time.perf_counter() - started
        tokens = [until_end(row, ends) for row in output[:, longest:].tolist()]
        return Generated(tokens, first.at_s - started, wall_s, first.tokens)

    @torch.inference_mode()
    def next_logits(self, tokens: Sequence[int]) -> Tensor:
        """Logits fp32 [V] of the token after `tokens`, computed in one pass without a cache."""
        ids = torch.tensor([list(tokens)], device=self.model.device)
        logits: Tensor = self.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]
        return logits.float().cpu()


def until_end(row: list[int], ends: Sequence[int]) -> list[int]:
    """The row up to and with its first end token."""
    for place, token in enumerate(row):
        if token in ends:
            return row[: place + 1]
    return row
