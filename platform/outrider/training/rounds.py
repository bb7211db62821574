"""What a drafter would have done on answers that are already known: rounds, as the engine would play them.

What a target emits under coupled verification does not depend on the drafter. So answers are generated once, and every
drafter is led through them by the interface the draft server uses: append what was committed, propose a block, count
how far it agrees with the answer. Shapes: N rounds, γ block size, T tokens of a conversation, m·d width of tapped
states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outrider.drafter.dspark import DSparkProposer
from outrider.drafter.model import DSparkModel
from outrider.drafter.proposer import Proposer
from outrider.speculation.sampling import RowSampling
from outrider.training.features import tapped

__all__ = ["KnownAnswer", "Rounds", "play", "states_of"]

TOGETHER = 64
_COUNTS = ("prompt", "run", "left", "verified")
STATE_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """A prompt and the target's answer as token ids, with the seed that gave it; `limit` is what it might have been."""

    prompt: list[int]
    response: list[int]
    seed: int
    limit: int


@dataclass(frozen=True, slots=True)
class Rounds:
    """One row per round. prompt: whose; run: leading draft tokens equal to the answer's; left: tokens of the answer
    still to come, so that slots beyond it have nothing to be compared with; verified: draft tokens the engine would
    count as looked at, fewer at the end of a request.

    confidence: logits fp32 [N, γ], minus infinity where nothing was proposed.
    """

    prompt: NDArray[np.int64]
    run: NDArray[np.int64]
    left: NDArray[np.int64]
    verified: NDArray[np.int64]
    confidence: NDArray[np.float32]

    @property
    def emitted(self) -> NDArray[np.int64]:
        """Tokens of each round, the corrected or bonus token included."""
        return np.minimum(self.run + 1, self.left)

    @property
    def accepted(self) -> NDArray[np.int64]:
        """Draft tokens the engine would count as accepted."""
        return np.minimum(self.run, self.verified)

    @property
    def gamma(self) -> int:
        """Block size."""
        return int(self.confidence.shape[1])

    def save(self, path: Path) -> None:
        """One compressed file; confidences in fp16, which keeps logits to a thousandth."""
        small: dict[str, Any] = {name: getattr(self, name).astype(np.int32) for name in _COUNTS}
        partial = path.with_name(f"{path.name}.partial")
        with partial.open("wb") as stream:
            np.savez_compressed(stream, **small, confidence=self.confidence.astype(np.float16))
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Rounds:
        """What `save` wrote. Raises OSError, ValueError, KeyError."""
        with np.load(path, allow_pickle=False) as found:
            prompt, run, left, verified = (found[name].astype(np.int64) for name in _COUNTS)
            return cls(prompt, run, left, verified, found["confidence"].astype(np.float32))

    def of(self, prompts: Sequence[int]) -> Rounds:
        """The rounds of some prompts only."""
        chosen = np.isin(self.prompt, np.asarray(prompts, dtype=np.int64))
        prompt, run, left, verified = (getattr(self, name)[chosen] for name in _COUNTS)
        return Rounds(prompt, run, left, verified, self.confidence[chosen])

    @classmethod
    def joined(cls, parts: Sequence[Rounds], gamma: int) -> Rounds:
        """All rounds of several; without any, none of block size `gamma`."""
        if not parts:
            none = np.zeros(0, dtype=np.int64)
            return cls(none, none, none, none, np.zeros((0, gamma), dtype=np.float32))
        prompt, run, left, verified = (np.concatenate([getattr(each, name) for each in parts]) for name in _COUNTS)
        return cls(prompt, run, left, verified, np.concatenate([each.confidence for each in parts]))


@torch.inference_mode()
def states_of(model: Any, answers: Sequence[KnownAnswer], layer_ids: Sequence[int]) -> list[Tensor]:
    """Raw tapped states fp32 [T, m·d] of every conversation, from the stock `model`."""
    sizes = [len(answer.prompt) + len(answer.response) for answer in answers]
    found: dict[int, Tensor] = {}
    batch: list[int] = []

    def run() -> None:
        ids = torch.zeros(len(batch), max(sizes[i] for i in batch), dtype=torch.long)
        for row, i in enumerate(batch):
            ids[row, : sizes[i]] = torch.tensor(answers[i].prompt + answers[i].response)
        # right padding under a causal mask needs no attention mask: no kept row sees a pad
        output = model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
        states = tapped(output.hidden_states, layer_ids).float()
        for row, i in enumerate(batch):
            found[i] = states[row, : sizes[i]].clone()

    for index in sorted(range(len(answers)), key=sizes.__getitem__):
        if batch and sizes[index] * (len(batch) + 1) > STATE_TOKENS:
            run()
            batch = []
        batch.append(index)
    if batch:
        run()
    return [found[i] for i in range(len(answers))]


def play(
    drafter: DSparkModel | Proposer,
    answers: Sequence[KnownAnswer],
    states: Sequence[Tensor] | None,
    temperature: float,
    on_progress: Callable[[int], None] | None = None,
) -> Rounds:
    """Every round of every answer at full depth; `states` are the tapped states where the drafter reads them."""
    proposer = DSparkProposer(drafter) if isinstance(drafter, DSparkModel) else drafter
    order = sorted(range(len(answers)), key=lambda i: len(answers[i].prompt) + len(answers[i].response))
    order = [index for index in order if len(answers[index].response) >= 2]
    parts: list[Rounds] = []
    with torch.inference_mode():
        for start in range(0, len(order), TOGETHER):
            table = _Table(proposer, temperature)
            for index in order[start : start + TOGETHER]:
                rows = torch.zeros(len(answers[index].prompt) + len(answers[index].response), 0)
                if isinstance(drafter, DSparkModel):
                    assert states is not None
                    rows = drafter.project(states[index].to(drafter.fc.weight.dtype))
                table.seat(index, answers[index], rows)
            parts.append(table.play())
            if on_progress is not None:
                on_progress(min(len(order), start + TOGETHER))
    return Rounds.joined(parts, proposer.block_size)


@dataclass(slots=True)
class _Player:
    """A conversation on its way: `at` is the anchor's position."""

    number: int
    answer: KnownAnswer
    tokens: list[int]
    rows: Tensor
    slot: int
    at: int


class _Table:
    """Conversations that draft in the same rounds."""

    def __init__(self, proposer: Proposer, temperature: float) -> None:
        self._proposer = proposer
        self._temperature = temperature
        self._players: list[_Player] = []
        self._log: list[tuple[int, int, int, int]] = []
        self._confidence: list[NDArray[np.float32]] = []

    def seat(self, number: int, answer: KnownAnswer, rows: Tensor) -> None:
        """Let a conversation in: its anchor is the first token of the answer."""
        slot, at = self._proposer.acquire(), len(answer.prompt)
        self._players.append(_Player(number, answer, answer.prompt + answer.response, rows, slot, at))

    def play(self) -> Rounds:
        """Rounds until every answer is out; empties the proposer again."""
        while self._players:
            self._round()
        log = np.array(self._log, dtype=np.int64).reshape(-1, 4)
        return Rounds(log[:, 0], log[:, 1], log[:, 2], log[:, 3], np.stack(self._confidence))

    def _round(self) -> None:
        players = sorted(self._players, key=lambda player: player.slot)
        self._append(players)
        positions = torch.tensor([player.at for player in players])
        anchors = torch.tensor([player.tokens[player.at] for player in players])
        seeds = [player.answer.seed for player in players]
        count = len(players)
        sampling = RowSampling.of([self._temperature] * count, [1.0] * count, seeds, [0] * count)
        tokens, confidence = self._proposer.propose([player.slot for player in players], anchors, positions, sampling)
        logits = confidence.float().cpu()
        proposed = torch.isfinite(logits).long().cumprod(1).sum(1).tolist()
        for player, block, size, row in zip(players, tokens.tolist(), proposed, logits.numpy(), strict=True):
            self._count(player, block[:size], row)
        for player in [player for player in players if player.at >= len(player.tokens) - 1]:
            self._proposer.release(player.slot)
            self._players.remove(player)

    def _append(self, players: Sequence[_Player]) -> None:
        """Give the proposer every position before the anchors that it lacks."""
        spans = [(player, self._proposer.length(player.slot), player.at) for player in players]
        self._proposer.append(
            [(player.slot, end - start) for player, start, end in spans],
            torch.cat([torch.arange(start, end) for _, start, end in spans]),
            torch.cat([player.rows[start:end] for player, start, end in spans]),
            torch.tensor([token for player, start, end in spans for token in player.tokens[start:end]]),
        )

    def _count(self, player: _Player, block: list[int], confidence: NDArray[np.float32]) -> None:
        left = len(player.tokens) - 1 - player.at
        room = player.answer.limit - (player.at + 1 - len(player.answer.prompt))  # tokens the engine may still emit
        run = 0
        while run < min(len(block), left) and block[run] == player.tokens[player.at + 1 + run]:
            run += 1
        emitted = min(run + 1, left)
        verified = min(len(block), room - 1)
        if emitted == left:
            verified = min(verified, emitted)  # as the engine counts a last round
        self._log.append((player.number, run, left, verified))
        self._confidence.append(confidence)
        player.at += emitted
