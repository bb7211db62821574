"""The DSpark drafter: the draft backbone with its output matrix, its sequential head and its confidence head.

Shapes: d hidden size, γ block size, V vocabulary, r Markov rank. Slot k (1-based) has the logits U_k plus a bias that
the sequential head derives from the tokens before it (arXiv 2607.05147). DFlash is the same without either head.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import LongTensor, Tensor, nn

from outrider.drafter.backbone import DraftBackbone
from outrider.drafter.config import DSparkConfig
from outrider.drafter.heads import ConfidenceHead, markov_head
from outrider.drafter.loading import check_shapes, read_tensors, write_tensors
from outrider.errors import DrafterMismatch
from outrider_kernels import Linear, packed_linear, plain_linear

__all__ = ["DSparkModel"]


class HeadWeights(NamedTuple):
    """The two products over the vocabulary: lm_head, and W2 where there is a sequential head."""

    base: Linear
    markov: Linear | None


class DSparkModel(DraftBackbone):
    """A drafter that samples a block left to right; `config` says which heads it has."""

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.markov_head = markov_head(config)
        self.confidence_head = ConfidenceHead(config) if config.enable_confidence_head else None
        self._packed_heads: HeadWeights | None = None

    @classmethod
    def load(cls, directory: Path | str, dtype: torch.dtype = torch.float32) -> DSparkModel:
        """Read a DeepSpec drafter directory, ready for inference.

        Raises ModelDirectoryError when a file is missing or unreadable, DrafterMismatch when a field or a tensor's
        shape does not fit; both name the file and the field.
        """
        directory = Path(directory)
        config = DSparkConfig.load(directory)
        tensors = read_tensors(directory)
        with torch.device("meta"):
            expected = {name: tuple(value.shape) for name, value in cls(config).state_dict().items()}
        check_shapes(directory, tensors, expected)
        model = cls(config).to(dtype)
        model.load_state_dict(tensors)
        return model.eval().requires_grad_(False)

    def save(self, directory: Path | str, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write config.json and model.safetensors in DeepSpec's layout."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.config.model_copy(update={"dtype": str(dtype).removeprefix("torch.")}).save(directory)
        write_tensors(directory, self.state_dict(), dtype)

    def _forget_packed(self) -> None:
        super()._forget_packed()
        self._packed_heads = None

    # -- logits ----------------------------------------------------------------------------------------------------

    def base_logits(self, hidden: Tensor) -> Tensor:
        """U = lm_head(h), squashed where the family does, fp32: [..., V]."""
        logits, cap = self._heads().base(hidden).float(), self.geometry.logit_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def raw_logits(self, hidden: Tensor) -> Tensor:
        """lm_head(h) as the product rounds it, in the weights' dtype and not squashed: [..., V]."""
        return self._heads().base(hidden)

    def block_head(self, hidden: Tensor, previous: LongTensor | Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Bias fp32 [..., γ, V] and embeddings [..., γ, r] of whole blocks, teacher-forced; None without a head.

        `hidden` [..., γ, d]; `previous` [..., γ] is the token before each slot, the anchor first.
        """
        latent, embedding = self.block_latent(hidden, previous)
        return (None if latent is None else self.latent_bias(latent)), embedding

    def block_latent(self, hidden: Tensor, previous: LongTensor | Tensor) -> tuple[Tensor | None, Tensor | None]:
        """As `block_head` before the product with W2: latents and embeddings [..., γ, r].

        Who needs only some slots' biases picks their rows, and passes those to `latent_bias`.
        """
        if self.markov_head is None:
            return None, None
        embedding = self.markov_head.markov_w1(previous)
        return self.markov_head.block(hidden, embedding), embedding

    def head_step(
        self, hidden_k: Tensor, previous: LongTensor | Tensor, state: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Bias fp32 [..., V], embedding [..., r] and state of one slot, for sampling left to right.

        `hidden_k` [..., d]; `previous` [...] is the token before the slot; `state` is what the slot before returned,
        None at the first. All three are None without a sequential head.
        """
        if self.markov_head is None:
            return None, None, None
        embedding = self.markov_head.markov_w1(previous)
        latent, state = self.markov_head.step(hidden_k, embedding, state)
        return self.latent_bias(latent), embedding, state

    def latent_bias(self, latent: Tensor) -> Tensor:
        """W2·latent, fp32: [..., V] from [..., r]. Raises DrafterMismatch without a sequential head."""
        product = self._heads().markov
        if product is None:
            raise DrafterMismatch("this drafter has no Markov head: its markov_rank is 0", param="markov_rank")
        return product(latent).float()

    def confidence_logit(self, hidden: Tensor, embedding: Tensor | None = None) -> Tensor:
        """w·[h_k; W1[x_{k−1}]] + b, fp32: [...]; its sigmoid is the slot's conditional survival.

        `embedding` may be None for a head that reads h_k alone. Raises DrafterMismatch without a confidence head.
        """
        if self.confidence_head is None:
            raise DrafterMismatch("this drafter has no confidence head", param="enable_confidence_head")
        logit: Tensor = self.confidence_head(hidden, embedding)
        return logit

    def _heads(self) -> HeadWeights:
        """As the layers' weights: packed once in inference."""
        base, markov = self.lm_head.weight, self.markov_head.markov_w2.weight if self.markov_head else None
        if self.training:
            return HeadWeights(plain_linear(base), None if markov is None else plain_linear(markov))
        if self._packed_heads is None:
            with torch.no_grad():
                packed = None if markov is None else packed_linear(markov)
                self._packed_heads = HeadWeights(packed_linear(base), packed)
        return self._packed_heads
