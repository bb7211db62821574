"""What an evaluation asks: anything that answers a conversation and says what that took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from outrider.evals.suite import Sampling

__all__ = ["Answer", "AnswerFailed", "Model", "Prices"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and what it took.

    Token counts and cost are None where the model does not say. first_s: seconds to the first text (None without
    any); total_s: to the end. served_by: the model that answered, where that is not the one that was asked.
    """

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    first_s: float | None
    total_s: float
    cost_usd: float | None = None
    finish: str | None = None
    served_by: str | None = None


class AnswerFailed(Exception):
    """One question got no answer. It counts as wrong; `gone` says that the model could not be reached at all."""

    def __init__(self, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.gone = gone


class Model(Protocol):
    """Asked concurrently; an endpoint over HTTP, or an engine in this process."""

    name: str

    async def answer(self, messages: Sequence[Mapping[str, str]], sampling: Sampling, seed: int, domain: str) -> Answer:
        """One answer. Raises AnswerFailed for this question, EndpointError when no question can be answered."""

    def about(self) -> dict[str, object]:
        """What the result's configuration says of the model; no secrets."""


@dataclass(frozen=True, slots=True)
class Prices:
    """List prices in dollars per token, for answers whose cost the endpoint does not say."""

    input_usd: float
    output_usd: float

    def cost_usd(self, answer: Answer) -> float | None:
        """What an answer costs; None without token counts."""
        if answer.cost_usd is not None:
            return answer.cost_usd
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            return None
        return answer.prompt_tokens * self.input_usd + answer.completion_tokens * self.output_usd
