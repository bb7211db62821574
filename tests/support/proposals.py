"""What a drafter proposed, and what it should have: the same draft computed from nothing with stock features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from outrider.drafter.model import DSparkModel
from outrider.drafter.projection import projection_fingerprint
from outrider.drafter.server import DraftServer
from outrider.engine import Engine
from outrider.engine.drafting import Proposals
from outrider.engine.sequence import Sequence
from outrider.link import DraftRound, TargetHello
from outrider.speculation import RowSampling

__all__ = ["Proposal", "Recorder", "check_proposals", "from_nothing"]

_CLIENT = b"reference"


@dataclass(frozen=True)
class Proposal:
    """One block: the sequence's tokens up to the anchor, the drafted tokens and their survival."""

    request_id: str
    prefix: tuple[int, ...]
    tokens: tuple[int, ...]
    survival: NDArray[np.float64]

    @property
    def missing(self) -> bool:
        """Whether the drafter had lost the context and the block means nothing."""
        return not self.survival.any()


class Recorder:
    """Listens to an engine's drafting."""

    def __init__(self, engine: Engine, monkeypatch: Any) -> None:
        self.seen: list[Proposal] = []
        self.asked = 0
        self._propose = engine.drafting.propose
        monkeypatch.setattr(engine.drafting, "propose", self._listen)

    def _listen(self, sequences: list[Sequence], sampling: RowSampling) -> Proposals | None:
        self.asked += 1
        prefixes = [tuple(s.tokens) for s in sequences]
        proposals = self._propose(sequences, sampling)
        if proposals is not None:
            for row, sequence in enumerate(sequences):
                found = (tuple(proposals.tokens[row]), proposals.survival[row].copy())
                self.seen.append(Proposal(sequence.request.request_id, prefixes[row], *found))
        return proposals


@torch.inference_mode()
def from_nothing(
    stock: Any, model: DSparkModel, prefix: tuple[int, ...], sampling: RowSampling
) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Tokens and survival [γ] that a fresh drafter proposes after `prefix`, whose last token is the anchor."""
    server = DraftServer(model, "reference")
    fingerprint = projection_fingerprint(model.fc.weight, model.hidden_norm.weight)
    hello = TargetHello("tiny", model.config.vocab_size, model.config.hidden_size, fingerprint)
    epoch = server.hello(hello).epoch
    states = stock(torch.tensor([prefix[:-1]]), output_hidden_states=True).hidden_states
    rows = model.project(torch.cat([states[layer + 1][0] for layer in model.config.target_layer_ids], dim=-1))
    length = len(prefix) - 1
    one, start, count, anchor = (torch.tensor([n]) for n in (1, 0, length, prefix[-1]))
    block = server.handle(
        _CLIENT,
        DraftRound(
            epoch, 1, (), one, start, count, rows, torch.tensor(prefix[:-1]), one, anchor, count,
            sampling.temperature, sampling.top_p, sampling.seeds, sampling.choices,
        ),
    )  # fmt: skip
    survival = torch.sigmoid(block.confidence_logits[0]).double().cumprod(0).numpy()
    return tuple(block.tokens[0].tolist()), survival


def check_proposals(seen: list[Proposal], stock: Any, model: DSparkModel, sampling: dict[str, RowSampling]) -> None:
    """Every recorded block equals the one computed from nothing."""
    for proposal in seen:
        tokens, survival = from_nothing(stock, model, proposal.prefix, sampling[proposal.request_id])
        assert proposal.tokens == tokens, f"request {proposal.request_id} at {len(proposal.prefix) - 1}"
        np.testing.assert_allclose(proposal.survival, survival, rtol=2e-3, atol=1e-6)
