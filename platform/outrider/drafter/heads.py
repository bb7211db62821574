"""The sequential heads: what a slot's logits owe to the tokens drafted before it, and the confidence in the slot.

Shapes: d hidden size, r Markov rank, γ block size, V vocabulary. Every head maps the previous token's embedding
W1[x_{k−1}] to a latent [r] that W2 turns into a bias over the vocabulary; the kinds differ in that map
(arXiv 2607.05147, section 3; parameter names are DeepSpec's).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outrider.drafter.config import DSparkConfig

__all__ = ["ConfidenceHead", "GatedHead", "MarkovHead", "RnnHead", "markov_head"]


class MarkovHead(nn.Module):
    """`vanilla`: the latent is the embedding itself."""

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(config.vocab_size, config.markov_rank)
        self.markov_w2 = nn.Linear(config.markov_rank, config.vocab_size, bias=False)

    def step(self, hidden: Tensor, embedding: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Latent [..., r] of one slot, and the state for the next; hidden [..., d], state None at the first slot."""
        del hidden, state
        return embedding, None

    def block(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """Latents [..., γ, r] of whole blocks whose previous tokens are known: hidden [..., γ, d]."""
        del hidden
        return embedding


class GatedHead(MarkovHead):
    """`gated`: the latent is σ(gate_proj[h_k; W1[x]]) times the embedding."""

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__(config)
        self.gate_proj = nn.Linear(config.hidden_size + config.markov_rank, config.markov_rank)

    def step(self, hidden: Tensor, embedding: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.block(hidden, embedding), None

    def block(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        gate: Tensor = torch.sigmoid(self.gate_proj(torch.cat((hidden, embedding), dim=-1)))
        return gate * embedding


class RnnHead(MarkovHead):
    """`rnn`: [g, c, o] = joint_proj[s; W1[x]; h_k], s ← σ(g)s + (1−σ(g))tanh(c), the latent is tanh(o); s starts at 0.

    The part of joint_proj that reads the embedding and the hidden state does not wait for s, so a whole block takes
    one product for it, and only the product with s [r → 3r] runs slot after slot.
    """

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__(config)
        self.joint_proj = nn.Linear(2 * config.markov_rank + config.hidden_size, 3 * config.markov_rank)

    def step(self, hidden: Tensor, embedding: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self._advance(self._given(hidden, embedding), state)

    def block(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        state: Tensor | None = None
        latents: list[Tensor] = []
        for given in self._given(hidden, embedding).unbind(-2):
            latent, state = self._advance(given, state)
            latents.append(latent)
        return torch.stack(latents, dim=-2)

    def _given(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """What W1[x] and h contribute to gate, candidate and output [..., 3r]."""
        rank, projection = embedding.shape[-1], self.joint_proj
        return F.linear(torch.cat((embedding, hidden), dim=-1), projection.weight[:, rank:], projection.bias)

    def _advance(self, given: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latent and next state [..., r] from the state before; None is zero."""
        rank = given.shape[-1] // 3
        mixed = given if state is None else given + F.linear(state, self.joint_proj.weight[:, :rank])
        gate, candidate, output = mixed.chunk(3, dim=-1)
        kept = torch.sigmoid(gate)
        fresh = (1 - kept) * torch.tanh(candidate)
        return torch.tanh(output), fresh if state is None else kept * state + fresh


class ConfidenceHead(nn.Module):
    """w·[h_k; W1[x_{k−1}]] + b, or of h_k alone: the logit of a slot's conditional survival."""

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        self.with_markov = config.confidence_head_with_markov
        self.proj = nn.Linear(config.hidden_size + (config.markov_rank if self.with_markov else 0), 1)

    def forward(self, hidden: Tensor, embedding: Tensor | None) -> Tensor:
        """fp32 [...] from hidden [..., d] and the previous tokens' embeddings [..., r], unused where not read."""
        joined = hidden
        if self.with_markov:
            if embedding is None:
                raise ValueError("this confidence head reads the previous token's embedding")
            joined = torch.cat((hidden, embedding), dim=-1)
        return F.linear(joined, self.proj.weight, self.proj.bias).squeeze(-1).float()


_KINDS: dict[str, type[MarkovHead]] = {"vanilla": MarkovHead, "gated": GatedHead, "rnn": RnnHead}


def markov_head(config: DSparkConfig) -> MarkovHead | None:
    """The sequential head a configuration asks for; None at rank 0."""
    return _KINDS[config.markov_head_type](config) if config.markov_rank else None
