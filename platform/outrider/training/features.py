"""Hidden states of the tapped target layers over finished conversations, kept in bf16.

Shapes: T tokens of a conversation, m tapped layers, d hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from outrider.errors import ModelDirectoryError

__all__ = ["BATCH_TOKENS", "Conversation", "Extractor", "Featured", "Features", "check_finite", "tapped"]

BATCH_TOKENS = 4096

Conversation = tuple[str, list[int], list[int]]
"""Domain, prompt token ids, response token ids."""


@dataclass(frozen=True, slots=True)
class Featured:
    """A conversation with what the target said inside: `features` [T, m·d] raw, `last` [T, d] post-norm, both bf16."""

    domain: str
    tokens: Tensor
    prompt_tokens: int
    features: Tensor
    last: Tensor


class Features(Protocol):
    """What training reads: a sequence of conversations whose lengths are known without touching their states."""

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """Tokens of each conversation, prompt included, and tokens of its prompt."""
        ...

    @property
    def domains(self) -> Sequence[str]:
        """The domain of each conversation."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Featured: ...

    def rows(self, indices: Sequence[int]) -> list[Featured]:
        """Several conversations at once, in the order asked for: the batch of a training step."""
        ...


def tapped(hidden_states: Sequence[Tensor], layer_ids: Sequence[int]) -> Tensor:
    """Concatenate `hidden_states[L + 1]`: index 0 is the embedding output, which L = −1 names."""
    return torch.cat([hidden_states[layer + 1] for layer in layer_ids], dim=-1)


class Extractor:
    """A target that is only run over whole conversations.

    On a CPU conversations run one by one: without padding a batch gains nothing there, and states are the same bit for
    bit whatever else is asked for. On a GPU those of similar length share a forward, so bf16 states may differ in the
    last bit from batch to batch.
    """

    def __init__(self, model: Any, layer_ids: Sequence[int], batch_tokens: int | None = None) -> None:
        self._model = model
        self._layer_ids = tuple(layer_ids)
        self._device = next(model.parameters()).device
        self._batch_tokens = batch_tokens or (1 if self._device.type == "cpu" else 4 * BATCH_TOKENS)

    @classmethod
    def load(cls, directory: Path, layer_ids: Sequence[int], device: str | None = None) -> Extractor:
        """The stock model of a directory, fp32 on a CPU and bf16 on a GPU. Raises ModelDirectoryError."""
        from transformers import AutoModelForCausalLM

        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float32 if place == "cpu" else torch.bfloat16
        try:
            model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, dtype=dtype)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelDirectoryError(f"model {directory.name}: weights do not load: {reason}") from error
        return cls(model.to(place).eval(), layer_ids)

    def run(
        self, conversations: Sequence[Conversation], on_progress: Callable[[int], None] | None = None
    ) -> list[Featured]:
        """States of every conversation, in the order given; `on_progress` hears how many are done."""
        found: dict[int, Featured] = {}
        with torch.no_grad():
            for batch in _batches([len(p) + len(r) for _, p, r in conversations], self._batch_tokens):
                for index, featured in zip(batch, self._forward([conversations[i] for i in batch]), strict=True):
                    found[index] = featured
                if on_progress is not None:
                    on_progress(len(found))
        return [found[i] for i in range(len(conversations))]

    def _forward(self, batch: Sequence[Conversation]) -> Iterator[Featured]:
        """One forward. Right padding under a causal mask needs no attention mask: no kept row sees a pad."""
        longest = max(len(prompt) + len(response) for _, prompt, response in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, (_, prompt, response) in enumerate(batch):
            ids[row, : len(prompt) + len(response)] = torch.tensor(prompt + response)
        output = self._model.model(input_ids=ids.to(self._device), use_cache=False, output_hidden_states=True)
        features = tapped(output.hidden_states, self._layer_ids).to(torch.bfloat16).cpu()
        last = output.last_hidden_state.to(torch.bfloat16).cpu()
        for row, (domain, prompt, response) in enumerate(batch):
            size = len(prompt) + len(response)
            yield Featured(
                domain, ids[row, :size].clone(), len(prompt), features[row, :size].clone(), last[row, :size].clone()
            )


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices by ascending length, as many together as padded fit `batch_tokens`, one at least."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[index] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def check_finite(rows: Sequence[Featured], target: Path) -> None:
    """States that are no numbers would only show as a loss that is none. Raises ModelDirectoryError."""
    for row in rows:
        if not (torch.isfinite(row.features).all() and torch.isfinite(row.last).all()):
            answer = row.tokens[row.prompt_tokens :][:8].tolist()
            raise ModelDirectoryError(
                f"{target}: the states over an answer that begins with tokens {answer} are not finite numbers; the "
                "weights are damaged, or their activations overflow bf16"
            )
