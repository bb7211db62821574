"""What a prompt is about and which models would get it right: what the router is told of a prompt's text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from outrider.quality.domains import OTHER, DomainClassifier
from outrider.quality.features import features
from outrider.quality.sufficiency import Sufficiency

__all__ = ["Assessment", "Assessor", "by_tags", "prompt_text"]


@dataclass(frozen=True, slots=True)
class Assessment:
    """A prompt's domain and, by model, the probability that its answer is right.

    domain: the request's tag, else the classifier's guess, else `other`. domain_probability: 1 for a tag; else the
    classifier's for the domain that it finds likeliest, also where that was too unsure to be named; 0 for a prompt of
    unknown words. success: empty where nothing was measured that is like this prompt; the average that the policy
    states is then the better guess.
    """

    domain: str = OTHER
    domain_probability: float = 0.0
    success: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Assessor:
    """Assesses prompts with what was fitted on the outcomes of an evaluation; immutable, safe for many threads.

    fitted_on: what the outcomes were of, for people and for `fingerprint`: models as their results describe them, the
    suites' hashes, counts of items.
    """

    domains: DomainClassifier
    sufficiency: Sufficiency
    fitted_on: Mapping[str, Any]

    def assess(self, text: str, tags: Sequence[str] = (), known: Collection[str] = ()) -> Assessment:
        """Assess a prompt (`prompt_text` of a conversation); any text will do.

        The first tag that is a domain here or in `known` (those of the policy's scores) is the domain.
        """
        tagged = next((tag for tag in tags if tag in self._numbers or tag in known), None)
        if tagged is not None and tagged not in self._numbers:
            return Assessment(tagged, 1.0)
        hashed = features(text)
        coverage = self.domains.vocabulary.coverage(hashed)
        if tagged is None:
            guess = self.domains.guess(hashed, coverage)
            number, probabilities = guess.domain, guess.probabilities
        else:
            number = self._numbers[tagged]
            probabilities = np.eye(len(self._numbers))[number]
        if number is None:
            return Assessment(OTHER, float(probabilities.max()))
        name, probability = self.domains.names[number], float(probabilities[number])
        if coverage < self.domains.usual_coverage[number]:
            return Assessment(name, probability)
        success = self.sufficiency.probabilities(hashed, probabilities)
        estimates = dict(zip(self.sufficiency.models, success.tolist(), strict=True))
        return Assessment(name, probability, estimates)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.domains.names)}


def by_tags(text: str, tags: Sequence[str] = (), known: Collection[str] = ()) -> Assessment:
    """What is known without anything fitted: the first tag in `known`, else `other`; no estimates."""
    tagged = next((tag for tag in tags if tag in known), None)
    return Assessment() if tagged is None else Assessment(tagged, 1.0)


def prompt_text(messages: Sequence[Mapping[str, object]]) -> str:
    """What is assessed of a conversation: the text of its last message of the user, '' without one.

    A system prompt says what a tenant always wants, not what this request is about. Of content in parts, the text.
    """
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            parts = content if isinstance(content, list | tuple) else ()
            texts = (part.get("text") for part in parts if isinstance(part, Mapping))
            return "\n".join(text for text in texts if isinstance(text, str))
    return ""
