"""Answers that are given again: exact, deterministic ones only, within a time and two bounds."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from outrider.gateway.asks import Ask
from outrider.gateway.choice import Piece
from outrider.policy import AUTO, Cache, Policy, Tenant, effective_route
from outrider.types import Candidates, Decision

__all__ = ["Answers", "Kept", "answer_key", "may_answer", "whole"]


@dataclass(frozen=True, slots=True)
class Kept:
    """A complete answer. pieces: one per choice; fingerprint: of the model when it answered.

    longest_tokens: of the prompts, which together have prompt_tokens.
    """

    decision: Decision
    fingerprint: str
    pieces: tuple[Piece, ...]
    prompt_tokens: int
    longest_tokens: int
    completion_tokens: int


class Answers:
    """Those one gateway keeps, the least recently used last out. They lie encoded: their bytes are counted exactly."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        """By key: when it was put in, and the answer."""
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, now_s: float, rules: Cache) -> Kept | None:
        """The answer, unless it is older than the rules of this moment allow."""
        found = self._kept.get(key)
        if found is None:
            return None
        put_s, encoded = found
        if now_s - put_s > rules.ttl_s:
            self.drop(key)
            return None
        self._kept.move_to_end(key)
        return _decode(encoded)

    def put(self, key: bytes, answer: Kept, now_s: float, rules: Cache) -> None:
        """Keep an answer, and of all that are kept no more than the rules allow; one too large for them is not."""
        encoded = _encode(replace(answer, decision=replace(answer.decision, candidates=Candidates(), reasons=())))
        self.drop(key)
        if len(key) + len(encoded) <= rules.max_bytes:
            self._kept[key] = now_s, encoded
            self.size_bytes += len(key) + len(encoded)
        while len(self._kept) > rules.max_entries or self.size_bytes > rules.max_bytes:
            self.drop(next(iter(self._kept)))

    def drop(self, key: bytes) -> None:
        """Forget an answer, if it is there."""
        _, encoded = self._kept.pop(key, (0.0, None))
        if encoded is not None:
            self.size_bytes -= len(key) + len(encoded)


def answer_key(ask: Ask, tenant: Tenant, policy: Policy) -> bytes | None:
    """What two requests must have in common to have one answer; None for one whose answer must not be kept.

    What a model says is a function of the prompts, the limits and the sampling, as long as its fingerprint holds.
    Which model answers `auto` is the tenant's and the policy's business: such answers are kept per tenant and version,
    with all that the router is told.
    """
    greedy = ask.sampling.temperature == 0
    if not policy.cache.enabled or tenant.cache == "off" or not (greedy or ask.seeded):
        return None
    sampling = replace(ask.sampling, seed=0) if greedy else ask.sampling
    chosen = (tenant.name, policy.version, ask.budgets, ask.workflow, ask.tags) if ask.model == AUTO else ()
    parts = (ask.endpoint, ask.model, ask.prompts, ask.n, ask.max_tokens, ask.stop, ask.echo, sampling, chosen)
    owner = "" if tenant.cache == "shared" else tenant.name
    return hashlib.sha256(_encode((tenant.cache, owner, parts))).digest()


def may_answer(kept: Kept, ask: Ask, tenant: Tenant, policy: Policy) -> bool:
    """Whether the policy of this moment would let that model answer the tenant's request."""
    model = kept.decision.model
    route = effective_route(tenant, kept.longest_tokens, ask.tags, ask.workflow)
    if model not in policy.models or model not in route.models:
        return False
    floor = max(route.quality or 0.0, ask.budgets.quality or 0.0)
    return ask.model == AUTO or policy.models[model].quality_for(ask.tags) >= floor


def whole(index: int, pieces: Sequence[Piece]) -> Piece:
    """All pieces of a choice as one."""
    return Piece(
        index,
        "".join(piece.text for piece in pieces),
        pieces[-1].finish,
        tuple(delta for piece in pieces for delta in piece.calls),
        None if pieces[0].logprobs is None else [place for piece in pieces for place in piece.logprobs or ()],
    )


_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(Kept).decode
