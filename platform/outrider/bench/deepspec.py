"""The peer whose checkpoints these are: DeepSpec's evaluator loop, over `transformers` and an eager drafter.

Written after `deepspec/eval/base_evaluator.py` and `eval/dspark/` (commit afda7fc): one prompt at a time, a stock
target with a DynamicCache that returns every hidden state, whole blocks drafted and verified by rejection sampling over
full distributions, one-hot at temperature 0. The drafter's context keys grow by concatenation, as in its DynamicCache;
its products read packed weights, which the original's do not. Shapes: γ block size, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from outrider.bench.reference import Generated, Reference, until_end
from outrider.drafter.model import DSparkModel

__all__ = ["DeepSpecLoop"]


class DeepSpecLoop:
    """A drafter in the reference's loop, around a target that is already loaded."""

    def __init__(self, target: Reference, drafter: Path, *, dtype: torch.dtype) -> None:
        self._target = target
        self._drafter = DSparkModel.load(drafter, dtype).to(target.model.device)

    @torch.inference_mode()
    def greedy(self, prompt: Sequence[int], max_tokens: int) -> Generated:
        """The greedy continuation up to an end token or `max_tokens`; blocks beyond either are cut."""
        model, ends, gamma = self._target.model, self._target.ends, self._drafter.config.block_size
        started = time.perf_counter()
        cache, context = DynamicCache(), _Context(self._drafter)
        ids = torch.tensor([list(prompt)], device=model.device)
        places = torch.arange(len(prompt) + max_tokens + gamma + 1, device=model.device)[None]
        output = model(
            ids, position_ids=places[:, : len(prompt)], past_key_values=cache, use_cache=True,
            output_hidden_states=True, logits_to_keep=1,
        )  # fmt: skip
        context.add(output.hidden_states, len(prompt))
        new = [int(_drawn(_distribution(output.logits))[0, 0])]
        first_s, rounds = time.perf_counter() - started, 0
        while len(new) < max_tokens and new[-1] not in ends:
            at, rounds = len(prompt) + len(new) - 1, rounds + 1
            block, draft_probs = self._block(new[-1], at, context)
            output = model(
                block, position_ids=places[:, at : at + gamma + 1], past_key_values=cache, use_cache=True,
                output_hidden_states=True,
            )  # fmt: skip
            accepted, following = _verified(block, draft_probs, _distribution(output.logits))
            committed = until_end([*block[0, 1 : accepted + 1].tolist(), following], ends)
            new += committed
            if accepted < gamma:
                cache.crop(accepted - gamma)  # a count to drop: transformers 5.24 refuses a length to keep
            context.add(output.hidden_states, accepted + 1)
        return Generated([new[:max_tokens]], first_s, time.perf_counter() - started, 1, rounds)

    def _block(self, anchor: int, at: int, context: _Context) -> tuple[Tensor, Tensor]:
        """The anchor with γ drafted tokens int64 [1, γ + 1], and the distributions they were drawn from [1, γ, V]."""
        drafter, gamma = self._drafter, self._drafter.config.block_size
        device = drafter.fc.weight.device
        ids = torch.full((1, gamma), drafter.config.mask_token_id, device=device)
        ids[:, 0] = anchor
        hidden = drafter.backbone(ids, torch.arange(at, at + gamma, device=device)[None], *context.held())
        base, state = drafter.base_logits(hidden), None
        tokens, logits, embeddings = [ids[:, 0]], [], []
        for slot in range(gamma):
            bias, embedding, state = drafter.head_step(hidden[:, slot], tokens[-1], state)
            logits.append(base[:, slot] if bias is None else base[:, slot] + bias)
            tokens.append(logits[-1].argmax(-1))
            if embedding is not None:
                embeddings.append(embedding)
        if drafter.confidence_head is not None:  # computed for its threshold, which is 0 unless asked for
            drafter.confidence_logit(hidden, torch.stack(embeddings, 1) if embeddings else None).sigmoid()
        return torch.stack(tokens, 1), _distribution(torch.stack(logits, 1))


class _Context:
    """The drafter's keys and values of the committed positions."""

    def __init__(self, drafter: DSparkModel) -> None:
        self._drafter = drafter
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def add(self, states: Any, count: int) -> None:
        """Project the first `count` of the forward's positions, `hidden_states` of all layers, and append them."""
        drafter = self._drafter
        features = torch.cat([states[layer + 1][0, :count] for layer in drafter.config.target_layer_ids], dim=-1)
        had = 0 if self._keys is None else self._keys.shape[2]
        places = torch.arange(had, had + count, device=features.device)
        keys, values = (each[:, None] for each in drafter.context_kv(drafter.project(features), places))
        self._keys = keys if self._keys is None else torch.cat((self._keys, keys), dim=2)
        self._values = values if self._values is None else torch.cat((self._values, values), dim=2)

    def held(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values [L, 1, T, K, D] and the length [1]."""
        assert self._keys is not None
        assert self._values is not None
        return self._keys, self._values, torch.tensor([self._keys.shape[2]], device=self._keys.device)


def _distribution(logits: Tensor) -> Tensor:
    """One-hot fp32 at the largest logit [..., V]: temperature 0 as a distribution."""
    return torch.zeros_like(logits, dtype=torch.float32).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)


def _drawn(probs: Tensor) -> Tensor:
    """A token of each row [..., V]."""
    return torch.multinomial(probs.flatten(0, -2), 1).view(probs.shape[:-1])


def _verified(block: Tensor, draft_probs: Tensor, target_probs: Tensor) -> tuple[int, int]:
    """How many drafts survive rejection sampling, and the residual's or the bonus token after them."""
    drafts = block[:, 1:, None]
    ratio = target_probs[:, :-1].gather(-1, drafts) / draft_probs.gather(-1, drafts).clamp_min(1e-8)
    survive = (torch.rand_like(ratio) < ratio.clamp(max=1.0)).long().cumprod(1)
    accepted = int(survive.sum())
    if accepted == drafts.shape[1]:
        return accepted, int(_drawn(target_probs[:, -1:])[0, 0])
    mine = target_probs[:, accepted]
    left = (mine - draft_probs[:, accepted]).clamp(min=0.0)
    mass = left.sum(-1, keepdim=True)
    return accepted, int(_drawn(torch.where(mass <= 1e-8, mine, left / mass.clamp_min(1e-8))[None])[0, 0])
