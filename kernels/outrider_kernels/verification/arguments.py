"""What verification takes and gives.

Shapes: n logit rows, R requests, w width of the drafts' sparse distributions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Drafted", "Verified", "VerifyRows"]


@dataclass(frozen=True, slots=True, eq=False)
class VerifyRows:
    """What is asked of each of n rows; all [n].

    request int32: whose row it is, −1 for padding; slot int32: 0…ℓ inside the request. temperature fp32 (0: greedy),
    top_p fp32 (1 and more keep all), top_k int64 (0 keeps all), min_p fp32 (0 keeps all). seeds, choices and positions
    int64 (of the token being chosen) key the coupled race; rounds int64 numbers a rejection round, −1 for coupled rows.
    Greedy rows are judged by their argmax under either rule. All rows of a request share everything but slot, position.
    """

    request: Tensor
    slot: Tensor
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor
    seeds: Tensor
    choices: Tensor
    positions: Tensor
    rounds: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Drafted:
    """Drafts: tokens int64 [n] that the rows judge, −1 where there is none (a request's last row, padding) or where the
    token must not be accepted; q_tokens int64 and q_probs fp32 [n, w] they were drawn from, a place of probability
    0 is empty. A rejection row without a token ends its round: from p where q has no mass, else from the residual.
    """

    tokens: Tensor
    q_tokens: Tensor | None = None
    q_probs: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Verified:
    """Outcome: accepted int32 [R] drafted tokens, last int64 [R] the token after them (0 and −1 without rows).

    chosen int64 [n]: the target's own token of a coupled or greedy row; of a rejection row its drafted token, or what
    ended the round there. logprobs fp32 [n]: log softmax of the row's logits at T = 1, uncut, of that token. Padding
    rows, and rows beyond a round's end without a token, have −1 and 0.
    """

    accepted: Tensor
    last: Tensor
    chosen: Tensor
    logprobs: Tensor
