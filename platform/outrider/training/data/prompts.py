"""The corpus's questions as prompt records for `outrider draft prepare`: what the demo drafters are trained on."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

from outrider.training.data.corpus import Corpus, held_out_prompts
from outrider.training.data.document import Document

__all__ = ["calibration_records", "prompt_records"]

SHARES = {"code": 0.35, "prose": 0.35, "maths": 0.20, "tasks": 0.10}
LIBRARY_KINDS = frozenset(("library", "completion", "docstring", "topic", "reading"))


def prompt_records(corpus: Corpus, count: int, held_out_per_domain: int, seed: int = 7) -> Iterator[dict[str, Any]]:
    """About `count` distinct training questions in the domains' shares, then held-out ones.

    Records carry the source that decided the corpus's own split, so that `prepare` splits them the same way.
    """
    rng = random.Random(seed)
    picked: list[Document] = []
    for domain, share in SHARES.items():
        distinct = {d.prompt[-1]["content"]: d for d in corpus.train if d.messages and d.domain == domain}
        candidates = list(distinct.values())
        picked.extend(rng.sample(candidates, min(len(candidates), max(4, round(count * share)))))
    rng.shuffle(picked)
    for number, document in enumerate([*picked, *held_out_prompts(corpus, held_out_per_domain)]):
        yield _record(f"{document.domain}-{number}", document)


def calibration_records(
    corpora: Iterable[Corpus], per_domain: int, skipped_per_domain: int
) -> Iterator[dict[str, Any]]:
    """Up to `per_domain` questions of each domain, from held-out sources, that no figure of τ uses.

    The first corpus is the one that is trained on: its first `skipped_per_domain` held-out questions measure τ. Further
    ones, of other seeds, add what it lacks: the hash of a source decides alike in all of them what is held out.
    """
    used: set[str] | None = None
    found: dict[str, dict[str, Document]] = {domain: {} for domain in SHARES}
    for corpus in corpora:
        if used is None:
            used = {document.prompt[-1]["content"] for document in held_out_prompts(corpus, skipped_per_domain)}
        distinct = {document.prompt[-1]["content"]: document for document in corpus.heldout if document.messages}
        for question, document in distinct.items():
            if question not in used:
                found[document.domain].setdefault(question, document)
    for domain, documents in found.items():
        for number, document in enumerate([*documents.values()][:per_domain]):
            yield _record(f"calibration-{domain}-{number}", document)


def _record(record_id: str, document: Document) -> dict[str, Any]:
    return {
        "id": record_id,
        "messages": list(document.prompt),
        "source": document.source,
        "domain": document.domain,
        "license": "PSF-2.0" if document.kind in LIBRARY_KINDS else "Apache-2.0",
    }
