"""How much of a prompt each replica should hold already, judged by what this gateway sent there before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from outrider.types import LoadSnapshot

__all__ = ["Prefixes"]

GRAIN_TOKENS = 16
"""Prefixes are told apart in steps of so many tokens: an estimate needs no more."""
MOST_GRAINS = 16_384
"""Kept per replica; the least recently sent are forgotten first."""
_LEARNING = 0.1
_LEAST_SHARE = 0.1
"""Who expects nothing learns nothing more."""


@dataclass(slots=True)
class _Held:
    """One replica's: grains in the order in which they were sent last. share: of what was expected, what was there."""

    grains: OrderedDict[int, None] = field(default_factory=OrderedDict)
    share: float = 1.0


class Prefixes:
    """Prompts and answers are kept as chains of hashes, by tenant: prefixes are reused within a tenant only.

    What a replica evicted, or got from another gateway, is not known here. So expectations are scaled by how true they
    lately were. A replica that starts anew has another name and holds nothing.
    """

    def __init__(self) -> None:
        self._replicas: dict[str, _Held] = {}

    def expected(
        self, tenant: str, prompts: Mapping[str, Sequence[Sequence[int]]], loads: Mapping[str, Sequence[LoadSnapshot]]
    ) -> dict[str, int]:
        """Tokens of each model's prompts, by replica; those that hold none are left out.

        loads: of every replica that is alive; what the others held is forgotten.
        """
        alive = {load.replica for snapshots in loads.values() for load in snapshots}
        for gone in self._replicas.keys() - alive:
            del self._replicas[gone]
        found = {}
        for model, batch in prompts.items():
            held = {each.replica: self._replicas.get(each.replica) for each in loads.get(model, ())}
            chains = [list(_chain(tenant, prompt)) for prompt in batch] if any(held.values()) else []
            for replica, mine in held.items():
                tokens = mine and int(mine.share * GRAIN_TOKENS * sum(_length(each, mine.grains) for each in chains))
                if tokens:
                    found[replica] = tokens
        return found

    def sent(self, replica: str, tenant: str, tokens: Sequence[int]) -> None:
        """A prompt, or a prompt with its answer, is on that replica or will be before anything sent later."""
        grains = self._replicas.setdefault(replica, _Held()).grains
        for grain in _chain(tenant, tokens):
            grains[grain] = None
            grains.move_to_end(grain)
        while len(grains) > MOST_GRAINS:
            grains.popitem(last=False)

    def happened(self, replica: str, expected_tokens: int, cached_tokens: int) -> None:
        """What became of an expectation."""
        held = self._replicas.get(replica)
        if held is not None and expected_tokens > 0:
            # What was expected was scaled already: found whole, it says that the share may grow.
            true = min(1.0, held.share * cached_tokens / expected_tokens)
            held.share = max(_LEAST_SHARE, held.share + _LEARNING * (true - held.share))


def _chain(tenant: str, tokens: Sequence[int]) -> Iterator[int]:
    """A number for every whole grain, which stands for it and all before it; of this process only."""
    before = hash(tenant)
    for at in range(GRAIN_TOKENS, len(tokens) + 1, GRAIN_TOKENS):
        before = hash((before, *tokens[at - GRAIN_TOKENS : at]))
        yield before


def _length(chain: Sequence[int], grains: Mapping[int, None]) -> int:
    """How many of the first grains are there."""
    return next((at for at, grain in enumerate(chain) if grain not in grains), len(chain))
