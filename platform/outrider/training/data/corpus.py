"""The corpus: every kind of document in stated shares, shuffled with a fixed seed and split by source."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from outrider.training.data.document import Document, split_of
from outrider.training.data.library import library_documents
from outrider.training.data.maths import maths_documents
from outrider.training.data.reading import reading_documents
from outrider.training.data.snippets import snippet_documents
from outrider.training.data.stories import story_documents
from outrider.training.data.tasks import greeting_documents, task_documents

__all__ = ["Corpus", "build_corpus", "held_out_prompts"]

SYSTEM_SHARE = 0.1
SYSTEM_PROMPTS = ("You are a helpful assistant.", "You are a helpful assistant. Answer briefly.", "Be brief.")


@dataclass(frozen=True, slots=True)
class Corpus:
    """Training documents in a fixed shuffled order, and the documents no model may see in training.

    `final` is for the last part of pretraining: conversations, with more sums and exact tasks than before.
    """

    train: tuple[Document, ...]
    final: tuple[Document, ...]
    heldout: tuple[Document, ...]

    def summary(self) -> dict[str, int]:
        """Training documents per domain and kind."""
        counts = Counter(f"{d.domain}/{d.kind}{'' if d.messages else ' (plain text)'}" for d in self.train)
        return dict(sorted(counts.items()))


def build_corpus(scale: float = 1.0, seed: int = 20260101) -> Corpus:
    """All documents; `scale` shrinks every part alike, down to a few dozen documents each."""
    rng = random.Random(seed)
    parts = [
        *(library_documents(domain, rng, max(0.02, scale)) for domain in ("code", "prose")),
        snippet_documents(_scaled(9_000, scale), rng),
        maths_documents(_scaled(16_000, scale), rng),
        story_documents(_scaled(9_000, scale), rng),
        task_documents(_scaled(6_000, scale), rng),
        greeting_documents(_scaled(700, scale), rng),
        reading_documents(_scaled(6_000, scale), rng, max(1, round(1 / max(0.02, scale)))),
    ]
    documents = [_with_system(document, rng) for part in parts for document in part]
    rng.shuffle(documents)
    train = tuple(d for d in documents if split_of(d.source) == "train" or d.source == "greetings")
    heldout = tuple(d for d in documents if split_of(d.source) == "heldout" and d.source != "greetings")
    return Corpus(train, _final_documents(train, scale, rng), heldout)


def _final_documents(train: Sequence[Document], scale: float, rng: random.Random) -> tuple[Document, ...]:
    """Fresh exercises and a sample of the conversations already in `train`."""
    fresh = [
        *maths_documents(_scaled(14_000, scale), rng, drill=True),
        *snippet_documents(_scaled(4_000, scale), rng, unnamed_share=0.4),
        *task_documents(_scaled(3_000, scale), rng),
        *greeting_documents(_scaled(700, scale), rng),
    ]
    chosen = [d for d in fresh if split_of(d.source) == "train" or d.source == "greetings"]
    for kind, count in (("completion", 2_500), ("story", 2_500), ("docstring", 1_500), ("library", 300)):
        of_kind = [d for d in train if d.kind == kind]
        chosen.extend(rng.sample(of_kind, min(len(of_kind), _scaled(count, scale))))
    rng.shuffle(chosen)
    return tuple(chosen)


def held_out_prompts(corpus: Corpus, per_domain: int, max_prompt_chars: int = 420) -> list[Document]:
    """Held-out conversations for evaluation: per domain, kinds in turn, no question twice."""
    chosen: list[Document] = []
    for domain in ("code", "maths", "prose"):
        by_kind: dict[str, list[Document]] = {}
        seen: set[str] = set()
        for document in corpus.heldout:
            question = document.messages[-2]["content"] if document.messages else ""
            if document.domain != domain or not question or question in seen or len(question) > max_prompt_chars:
                continue
            seen.add(question)
            by_kind.setdefault("library" if document.kind in ("docstring", "topic") else document.kind, []).append(
                document
            )
        picked: list[Document] = []
        for rank in range(per_domain):
            for kind in sorted(by_kind):
                if rank < len(by_kind[kind]) and len(picked) < per_domain:
                    picked.append(replace(by_kind[kind][rank], messages=by_kind[kind][rank].messages))
        chosen.extend(picked)
    return chosen


def _scaled(count: int, scale: float) -> int:
    return max(60, round(count * scale))


def _with_system(document: Document, rng: random.Random) -> Document:
    if not document.messages or rng.random() >= SYSTEM_SHARE:
        return document
    return replace(document, messages=({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}, *document.messages))
