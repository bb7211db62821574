"""Engines and requests for tests. The curve makes verification nearly free, so that depth does not depend on timing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from outrider.drafter.dspark import DSparkProposer
from outrider.drafter.model import DSparkModel
from outrider.drafter.server import DraftServer
from outrider.engine import Engine, EngineSettings, TargetModel
from outrider.link import InProcessLink, TargetHello
from outrider.local import LinkKind, LocalEngine, open_engine
from outrider.scheduling import StepCostCurve
from outrider.speculation import CoupledRule, RejectionRule
from outrider.types import BatchClass, GenerationRequest, SamplingParams, TokenChunk

__all__ = [
    "CURVE",
    "in_process_link",
    "make_engine",
    "open_tiny",
    "prompts",
    "request",
    "run",
    "settings",
]

CURVE = StepCostCurve((1, 100_000), (1.0, 1.03), "nearly-free")
"""Admits every draft token whose survival exceeds about 3e-7 of the round's expected tokens, at any speed."""


def settings(**overrides: Any) -> EngineSettings:
    defaults = {"model": "tiny", "kv_blocks": 256, "block_size": 16, "draft_timeout_s": 60.0}
    return EngineSettings(**{**defaults, **overrides})


def make_engine(
    target: Path,
    drafter: Path | None = None,
    *,
    rule: CoupledRule | None = None,
    rejection: RejectionRule | None = None,
    curve: StepCostCurve = CURVE,
    device_draft: bool | None = None,
    **overrides: Any,
) -> Engine:
    """An engine, with its drafter in this process if one is given."""
    model = TargetModel.load(target, drafter=drafter)
    engine = Engine(model, settings(**overrides), curve, rule, rejection=rejection)
    if drafter is not None:
        engine.attach_drafter(in_process_link(engine, drafter, device_draft=device_draft))
    return engine


def in_process_link(engine: Engine, drafter: Path, *, device_draft: bool | None = None) -> InProcessLink:
    """A fresh incarnation of the drafter beside the engine."""
    target = engine.target
    assert target.projection is not None
    hello = TargetHello("tiny", target.vocab_size, target.hidden_size, target.projection.fingerprint)
    proposer = DSparkProposer(DSparkModel.load(drafter), device_draft=device_draft)
    return InProcessLink(DraftServer(proposer, drafter.name), hello)


def open_tiny(
    target: Path, drafter: Path | None, link: LinkKind = LinkKind.IN_PROCESS, **overrides: Any
) -> LocalEngine:
    """`open_engine` with the test's settings and curve."""
    return open_engine(target, drafter, link=link, settings=settings(**overrides), curve=CURVE)


def prompts(count: int, vocab: int, lengths: Sequence[int], seed: int = 5) -> list[tuple[int, ...]]:
    """Random prompts whose lengths cycle through `lengths`."""
    generator = torch.Generator().manual_seed(seed)
    return [
        tuple(torch.randint(vocab, (lengths[i % len(lengths)],), generator=generator).tolist()) for i in range(count)
    ]


def request(
    name: str | int,
    prompt: Sequence[int],
    max_tokens: int = 8,
    *,
    depth_cap: int | None = None,
    batch_class: BatchClass | None = None,
    choice_index: int = 0,
    salt: str = "",
    **sampling: Any,
) -> GenerationRequest:
    """A request; greedy and blind to end tokens unless told otherwise."""
    made = GenerationRequest(
        str(name),
        tuple(prompt),
        SamplingParams(max_tokens, **{"temperature": 0.0, "ignore_eos": True, **sampling}),
        depth_cap=depth_cap,
        choice_index=choice_index,
        cache_salt=salt,
    )
    return made if batch_class is None else replace(made, batch_class=batch_class)


def run(engine: Engine, requests: Sequence[GenerationRequest]) -> dict[str, list[TokenChunk]]:
    """Submit everything and step to the end; the chunks of each request, of those already waiting too."""
    chunks: dict[str, list[TokenChunk]] = {r.request_id: [] for r in requests}
    for one in requests:
        engine.submit(one)
    while not engine.idle:
        for request_id, chunk in engine.step():
            chunks.setdefault(request_id, []).append(chunk)
    engine.check_integrity()
    return chunks
