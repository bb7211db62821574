"""Which blocks a training step sees: anchors drawn from responses, packed so that no step exceeds its bound.

Everything is a pure function of (seed, place in the run), so a resumed run goes on with the very blocks that an
uninterrupted one would have seen. Shapes: B conversations of a pack, A anchors of each (padded), γ block size,
T context rows, N real blocks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from outrider.training.features import Featured

__all__ = ["Block", "Pack", "PackStream", "draw_anchors", "load_pack", "pack_epoch", "split_pack"]

Sizes = Sequence[tuple[int, int]]
"""(tokens, prompt tokens) of every conversation."""

Block = tuple[int, Tensor]
"""A conversation's number and the positions of its anchors, int64 ascending."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Tensors of one forward. `features` [B, T, m·d] are cut at the last anchor; `keep` [B, A] marks real anchors.

    block, positions [B, A, γ]; anchors [B, A]. Per real block: previous, following [N, γ] are the tokens before and in
    a slot, last [N, γ, d] the target's post-norm states that predict them, supervised [N, γ] says which exist.
    """

    features: Tensor
    block: Tensor
    positions: Tensor
    anchors: Tensor
    keep: Tensor
    previous: Tensor
    following: Tensor
    last: Tensor
    supervised: Tensor

    def to(self, device: torch.device) -> Pack:
        """The same pack on a device."""
        return Pack(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def draw_anchors(tokens: int, prompt_tokens: int, count: int, generator: torch.Generator) -> Tensor:
    """Up to `count` distinct positions among the response tokens that have one after them, int64 ascending."""
    places = tokens - 1 - prompt_tokens
    return (torch.randperm(places, generator=generator)[:count] + prompt_tokens).sort().values


def pack_epoch(sizes: Sizes, per_conversation: int, per_pack: int, rng: random.Random) -> list[list[int]]:
    """Every usable conversation once, in packs of at most `per_pack` anchors, neighbours alike in length.

    A conversation brings min(per_conversation, per_pack, response − 1) anchors; one with a response under two tokens
    has nothing to predict and is left out.
    """
    usable = [number for number, (tokens, prompt) in enumerate(sizes) if tokens - prompt >= 2]
    usable.sort(key=lambda number: (sizes[number][0] - sizes[number][1]) * rng.uniform(0.8, 1.25))
    packs: list[list[int]] = []
    room = 0
    for number in usable:
        tokens, prompt = sizes[number]
        anchors = min(per_conversation, per_pack, tokens - prompt - 1)
        if anchors > room or not packs:
            packs.append([])
            room = per_pack
        packs[-1].append(number)
        room -= anchors
    rng.shuffle(packs)
    return packs


class PackStream:
    """Endless packs over conversations of the given sizes, epoch after epoch; the n-th is a function of seed and n."""

    def __init__(self, sizes: Sizes, per_conversation: int, per_pack: int, seed: int) -> None:
        if not any(tokens - prompt >= 2 for tokens, prompt in sizes):
            raise ValueError("no conversation has a response of two tokens or more")
        self._sizes, self._seed = sizes, seed
        self._per_conversation, self._per_pack = min(per_conversation, per_pack), per_pack
        self._epoch, self._start = -1, 0
        self._packs: list[list[int]] = []

    @property
    def epoch(self) -> int:
        """Epochs finished before the pack that was asked for last."""
        return max(0, self._epoch)

    def pack(self, number: int) -> list[Block]:
        """The conversations and anchors of pack `number` (0, 1, …); asking backwards starts over."""
        if number < self._start:
            self._epoch, self._start, self._packs = -1, 0, []
        while number - self._start >= len(self._packs):
            self._start += len(self._packs)
            self._epoch += 1
            rng = random.Random(f"{self._seed}/{self._epoch}")
            self._packs = pack_epoch(self._sizes, self._per_conversation, self._per_pack, rng)
        generator = torch.Generator().manual_seed(random.Random(f"{self._seed}:{number}").getrandbits(63))
        chosen = self._packs[number - self._start]
        return [(each, draw_anchors(*self._sizes[each], self._per_conversation, generator)) for each in chosen]


def split_pack(blocks: Sequence[Block], parts: int) -> list[list[Block]]:
    """Up to `parts` groups of conversations with about equal numbers of anchors, neighbours together."""
    total = sum(len(anchors) for _, anchors in blocks)
    groups: list[list[Block]] = [[] for _ in range(parts)]
    before = 0
    for block in blocks:
        middle = before + len(block[1]) / 2
        groups[min(parts - 1, int(middle * parts / total))].append(block)
        before += len(block[1])
    return [group for group in groups if group]


def load_pack(conversations: Sequence[Featured], blocks: Sequence[Block], slots: int, mask_token_id: int) -> Pack:
    """Read what the blocks need of their conversations: context up to the last anchor, and the slots' own states."""
    width = max(len(anchors) for _, anchors in blocks)
    span = max(1, *(int(anchors[-1]) for _, anchors in blocks))
    steps = torch.arange(slots)
    anchors = torch.zeros(len(blocks), width, dtype=torch.long)
    keep = torch.zeros(len(blocks), width, dtype=torch.bool)
    features: Tensor | None = None
    previous, following, last, supervised = [], [], [], []
    for row, (conversation, (_, chosen)) in enumerate(zip(_rows(conversations, blocks), blocks, strict=True)):
        if features is None:
            features = torch.zeros(len(blocks), span, conversation.features.shape[1], dtype=torch.bfloat16)
        anchors[row, : len(chosen)], keep[row, : len(chosen)] = chosen, True
        seen, end = int(chosen[-1]), len(conversation.tokens)
        features[row, :seen] = conversation.features[:seen]
        places = chosen[:, None] + steps
        inside = places.clamp(max=end - 1)
        previous.append(conversation.tokens[inside].long())
        following.append(conversation.tokens[(places + 1).clamp(max=end - 1)].long())
        last.append(conversation.last[inside])
        supervised.append(places + 1 < end)
    assert features is not None
    joined = torch.cat(previous)
    block = torch.full((len(blocks), width, slots), mask_token_id)
    block[..., 0][keep] = joined[:, 0]
    return Pack(
        features=features,
        block=block,
        positions=anchors[..., None] + steps,
        anchors=anchors,
        keep=keep,
        previous=joined,
        following=torch.cat(following),
        last=torch.cat(last),
        supervised=torch.cat(supervised),
    )


def _rows(conversations: Sequence[Featured], blocks: Sequence[Block]) -> Sequence[Featured]:
    """The blocks' conversations; features that are computed as needed are asked for together."""
    numbers = [number for number, _ in blocks]
    together = getattr(conversations, "rows", None)
    found: Sequence[Featured] = together(numbers) if together else [conversations[number] for number in numbers]
    return found
