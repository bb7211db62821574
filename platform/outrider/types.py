"""Frozen values that cross package boundaries.

Units live in names: `_s` seconds, `_tokens` counts, `_usd` dollars. Nothing here imports torch, Ray or a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

__all__ = [
    "AnswerClass",
    "BatchClass",
    "Budgets",
    "CalibrationReport",
    "Candidates",
    "Constraint",
    "Decision",
    "FinishReason",
    "GenerationRequest",
    "LoadSnapshot",
    "PredictionBasis",
    "RequestSummary",
    "SamplingParams",
    "TokenChunk",
    "TokenLogprob",
    "Verification",
]

Verification = Literal["coupled", "rejection"]
"""How drafts of a sampled request are verified; greedy ones need no rule."""

AnswerClass = Literal["distribution-lossless", "model-substituted"]
"""Whether an answer has the distribution of the model it stands for, whatever the depth.

That is the model the tenant named, or for `auto` the best for the request's domain among those granted. An answer by
one of equal quality or better is lossless in this sense; by a lesser one, or by another than was named, it is
substituted.
"""


class FinishReason(StrEnum):
    """Why a stream ended. The first two are OpenAI's; `CANCELLED` and `ERROR` never reach a tenant's body."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class BatchClass:
    """A set of numbers, not a label: how a request shares the engine's rounds.

    weight: the request's weight w in the prefix scheduler; times how long it has waited, who is admitted first, whose
        prompt is computed first, and who decodes where a step has no room for all.
    prefill_share: largest share of a step's token cap that may be prefill while this request decodes, in (0, 1]; one KV
        block at least, as far as the cap has room for it.
    co_batch_tokens: cap on tokens in one step in which this request decodes. Who weighs less takes turns in it, who
        weighs as much or more is not admitted beyond it.
    admission_wait_s: how long a request may wait for company while nobody runs.
    preemption_order: larger is preempted first, for who grows and, once, for a newcomer of a smaller one.
    """

    name: str
    weight: float = 1.0
    prefill_share: float = 0.5
    co_batch_tokens: int = 512
    admission_wait_s: float = 0.0
    preemption_order: int = 0


@dataclass(frozen=True, slots=True)
class Budgets:
    """What a tenant asks one request to keep. None means no limit of its own."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    deadline_s: float | None = None
    max_cost_usd: float | None = None
    quality: float | None = None


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the whole output text must match: a JSON schema (as JSON text) or a regular expression."""

    kind: Literal["json_schema", "regex"]
    source: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. temperature 0 is greedy; `seed` is always resolved (the gateway draws one if absent).

    A row's logits are changed in this order: penalties, bias, end tokens withheld below `min_tokens`, constraint; then
    temperature, top_k, top_p, min_p. Every one of them sees the tokens before the row, drafted ones included.

    top_k: tokens kept, 0 for all. min_p: tokens below this share of the most probable one's probability are dropped.
    repetition_penalty divides positive logits (multiplies negative ones) of tokens in prompt or output;
    presence_penalty and frequency_penalty are subtracted from logits of output tokens, once and per occurrence.
    logit_bias: (token id, addend). stop_token_ids end the stream and are not part of the text; `ignore_eos`
    disregards the model's own.
    logprobs: how many of the most probable tokens come with each output token's own log-probability, None for neither.
    prompt_logprobs: the same for the prompt's tokens.
    verification: "coupled" makes the answer a function of the seed; "rejection" accepts more of a draft, and uses the
        seed as a nonce: the answer has the same distribution and depends on how rounds fell.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None
    verification: Verification = "coupled"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One choice to generate, as the engine sees it: token ids only, never text."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    batch_class: BatchClass = BatchClass("balanced")
    depth_cap: int | None = None
    """Largest number of draft tokens a round may verify for this request; None is the drafter's γ, 0 turns it off."""
    tpot_target_s: float | None = None
    choice_index: int = 0
    cache_salt: str = ""
    """Prefixes are reused only between requests of equal salt: the tenant's name, unless it shares with nobody."""


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What a drafter's confidences were lately worth for one verification rule and class of traffic.

    Slot by slot over rounds that were verified whole, as predicted before their outcome was known: samples, expected
    calibration error and Brier score (None without samples), AUC (None without both outcomes).
    trusted: whether depths follow the confidences; else they follow measured acceptance. breaks: how often trust was
    lost, refits: how often the calibration was replaced, since the drafter was attached.
    """

    rule: str
    traffic: str
    samples: tuple[int, ...]
    ece: tuple[float | None, ...]
    auc: tuple[float | None, ...]
    brier: tuple[float | None, ...]
    trusted: bool = True
    breaks: int = 0
    refits: int = 0


@dataclass(frozen=True, slots=True)
class LoadSnapshot:
    """One target replica's load, published on change and at 10 Hz, and riding on every round's message.

    step_curve: ((tokens, seconds), …) of one target step, ascending; draft_s: seconds one draft call adds at
    the present number of running requests; acceptance_tokens: recent mean acceptance length τ (bonus included) per
    request and round at the depth in use, by depth cap: index ℓ holds the expected emitted tokens at cap ℓ.
    """

    model: str
    replica: str
    epoch: int
    time_s: float
    queued_requests: int = 0
    queued_tokens: int = 0
    running_requests: int = 0
    kv_blocks_used: int = 0
    """Blocks that running requests hold."""
    kv_blocks_cached: int = 0
    """Blocks nobody holds whose content can still be reused; they count as free."""
    kv_blocks_total: int = 0
    price_s: float = 0.0
    """λ: the live price of one verified token, in expected emitted tokens per second times seconds per token."""
    curve_version: str = ""
    step_curve: tuple[tuple[int, float], ...] = ()
    draft_s: float = 0.0
    round_s: float = 0.0
    """Smoothed duration of a whole round (draft, verification, transfer), seconds; 0 before the first."""
    pace_s: float = 0.0
    """Seconds per token of a running request over the last second or so of decoding, whatever rounds held beside it; 0
    before the first."""
    pace_requests: float = 0.0
    """How many ran then, on average."""
    hopeless_requests: int = 0
    """Running requests that will miss their TPOT target whatever is verified for them; nothing is asked of rounds for
    them any more."""
    prediction_bias: float = 0.0
    """Mean of (predicted − real) ÷ real duration of recent rounds: below 0 the costs known are too low."""
    prediction_error: float = 0.0
    """Mean of |predicted − real| ÷ real."""
    acceptance_tokens: tuple[float, ...] = (1.0,)
    drafter_ready: bool = False
    context_tokens: int = 0
    """Largest prompt plus output the replica takes."""
    max_running_requests: int = 0
    calibration: tuple[CalibrationReport, ...] = ()
    warm_s: float = 0.0
    """How long it has run with its present step and drafter; what it does before some seconds proves nothing."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Every candidate of a decision, packed by column: hundreds of them must cost neither the decision nor its event.

    Of R roads (model, replica), C batch classes and D depth caps, the candidate (r, c, d) is at (r·C + c)·D + d of
    every column. columns: little-endian float32 by name. flags: one byte each, 1 for a candidate that does not exist (a
    depth without a drafter), 2, 4, 8 for the limits on TTFT, TPOT and whole answer that it breaks. cost_usd and quality
    are by road; closed: models that could not take the request, and why. `outrider.routing.records` unpacks it.
    """

    roads: tuple[tuple[str, str], ...] = ()
    classes: tuple[str, ...] = ()
    depths: tuple[int, ...] = ()
    winner: int = 0
    cost_usd: tuple[float, ...] = ()
    quality: tuple[float, ...] = ()
    columns: dict[str, bytes] = field(default_factory=dict)
    flags: bytes = b""
    misses: tuple[str, ...] = ()
    """The columns of missed promises, the most important first; after them `score` ranks, the least is best."""
    closed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PredictionBasis:
    """What a prediction was made from, for pairing it with what happened. Times are raw: before any correction.

    running, queued: requests on the replica, work credited to it included; queued_tokens are theirs. warm_s: how long
    the replica had run its present step; less than some seconds proves nothing. accepted: tokens a round was expected
    to emit, by depth cap. pace_s, pace_requests: of the load report.
    """

    model: str
    replica: str
    epoch: int
    tenant: str
    domain: str
    prompt_tokens: int
    cached_tokens: int
    running: int
    queued: int
    queued_tokens: int
    places: int
    ttft_s: float
    tpot_s: float
    accepted: tuple[float, ...] = (1.0,)
    warm_s: float = 0.0
    age_s: float = 0.0
    choices: int = 1
    pace_s: float = 0.0
    pace_requests: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What the router chose for one request, with what is needed to explain and replay it.

    predicted_*: medians. quantile_*: the same at `quantile` of the policy, widened by the load report's age; promises
    are judged by these.
    """

    decision_id: str
    model: str
    replica: str
    depth_cap: int
    batch_class: BatchClass
    policy_version: str
    objective: str
    predicted_ttft_s: float
    predicted_tpot_s: float
    predicted_cost_usd: float
    """List price at the expected length of the answer."""
    tpot_target_s: float | None
    max_tokens: int
    """Output limit after context and money budgets; `limited_by_cost` says that money set it."""
    limited_by_cost: bool = False
    lossless: Verification = "coupled"
    reasons: tuple[str, ...] = ()
    candidates: Candidates = field(default=Candidates(), repr=False)
    predicted_e2e_s: float = 0.0
    quantile: float = 0.9
    quantile_ttft_s: float = 0.0
    quantile_tpot_s: float = 0.0
    quantile_e2e_s: float = 0.0
    reserve_usd: float = 0.0
    """List price at the policy's `reserve_quantile` of the answer's length, nothing of the prompt cached."""
    expected_output_tokens: int = 0
    """Of each choice."""
    quality: float = 0.0
    """Probability that the answer is right: this request's where it was estimated, else the policy's for the domain."""
    domain: str = "other"
    routes: tuple[str, ...] = ()
    """`layer/name` of the policy's routes that the request took."""
    propensity: float = 1.0
    """Probability over seeds that this model and replica, class and depth are chosen."""
    explored: bool = False
    answer_class: AnswerClass = "distribution-lossless"
    stale: bool = False
    """The chosen replica's load report was so old that its age widened the quantiles notably."""
    predictor_version: str = ""
    basis: PredictionBasis | None = None


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """What really happened to one request in the engine; rides on its last chunk."""

    prompt_tokens: int
    completion_tokens: int
    rounds: int
    drafted_tokens: int
    admitted_tokens: int
    accepted_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    round_records: tuple[tuple[int, int], ...] = ()
    """(admitted ℓ, accepted a) of each decode round, for replay and calibration."""
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were there already."""
    preemptions: int = 0
    """How often its memory was taken away and computed again."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token's log-probability (nats) and the most probable (token id, log-probability) pairs, best first.

    Of the model's distribution before temperature and cuts, after penalties, bias and constraint.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """What one request gained in one round. `text` is None when the upstream speaks token ids only.

    logprobs: one per token where asked for. prompt_logprobs: with the first token where asked for, one per prompt
    token; the first has none before it and is None. cached_tokens: with the first token, how many of the prompt's were
    there already; the summary says it again, but an answer that is cut off has none.
    """

    tokens: tuple[int, ...]
    text: str | None = None
    finish: FinishReason | None = None
    summary: RequestSummary | None = None
    error: str | None = None
    """`code: message` when finish is ERROR."""
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    cached_tokens: int = 0
