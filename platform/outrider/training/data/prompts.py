"""The corpus's questions as prompt records for `outrider draft prepare`: what the demo drafters are trained on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from outrider.training.data.corpus import Corpus, held_out_prompts
from outrider.training.data.document import Document

__all__ = ["prompt_records"]

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
        yield {
            "id": f"{document.domain}-{number}",
            "messages": list(document.prompt),
            "source": document.source,
            "domain": document.domain,
            "license": "PSF-2.0" if document.kind in LIBRARY_KINDS else "Apache-2.0",
        }
