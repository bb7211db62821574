"""What a request must be before it may wait in the queue: the drafter would refuse a whole round for one bad row."""

from __future__ import annotations

from typing import Final, get_args

from outrider.errors import ContextLengthExceeded, InvalidRequest
from outrider.types import GenerationRequest, SamplingParams, Verification

__all__ = ["MAX_LOGPROBS", "check_request"]

MAX_LOGPROBS: Final = 20
"""Most alternatives that come with a token."""
_LARGEST_BIAS: Final = 100.0
_LARGEST_PENALTY: Final = 2.0
_REPETITION: Final = (1e-3, 1e3)
"""Beyond, logits leave fp32."""


def check_request(request: GenerationRequest, vocab_size: int, room_tokens: int) -> None:
    """Raises InvalidRequest for an empty prompt, a token outside the vocabulary or a sampling parameter out of range,
    ContextLengthExceeded when prompt and output need more than `room_tokens` positions.
    """
    prompt, sampling = request.prompt_token_ids, request.sampling
    if not prompt:
        raise InvalidRequest("the prompt has no tokens", param="prompt")
    if sampling.max_tokens < 1:
        raise InvalidRequest(f"max_tokens must be 1 or more, not {sampling.max_tokens}", param="max_tokens")
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        raise InvalidRequest(f"a prompt token is outside the vocabulary of {vocab_size}", param="prompt")
    if not 0.0 <= sampling.temperature < float("inf"):
        raise InvalidRequest("temperature must be 0 or more, and finite", param="temperature")
    if not 0.0 <= sampling.top_p <= 1.0:
        raise InvalidRequest("top_p must be within 0 and 1", param="top_p")
    if sampling.verification not in get_args(Verification):
        raise InvalidRequest("verification must be coupled or rejection", param="verification")
    _check_cuts(sampling)
    _check_penalties(sampling)
    _check_tokens(sampling, vocab_size)
    _check_extras(sampling)
    wanted = sampling.max_tokens
    if len(prompt) + wanted > room_tokens:
        raise ContextLengthExceeded(
            f"{len(prompt)} prompt tokens and {wanted} requested exceed the context of {room_tokens} tokens",
            param="max_tokens",
        )


def _check_cuts(sampling: SamplingParams) -> None:
    if not 0 <= sampling.top_k < 2**63:
        raise InvalidRequest("top_k must be 0 (all tokens) or more", param="top_k")
    if not 0.0 <= sampling.min_p <= 1.0:
        raise InvalidRequest("min_p must be within 0 and 1", param="min_p")


def _check_penalties(sampling: SamplingParams) -> None:
    low, high = _REPETITION
    if not low <= sampling.repetition_penalty <= high:
        raise InvalidRequest(f"repetition_penalty must be within {low:g} and {high:g}", param="repetition_penalty")
    for name in ("presence_penalty", "frequency_penalty"):
        if not abs(getattr(sampling, name)) <= _LARGEST_PENALTY:
            raise InvalidRequest(f"{name} must be within -{_LARGEST_PENALTY:g} and {_LARGEST_PENALTY:g}", param=name)


def _check_tokens(sampling: SamplingParams, vocab_size: int) -> None:
    biased = [token for token, _ in sampling.logit_bias]
    for name, tokens in (("logit_bias", biased), ("stop_token_ids", sampling.stop_token_ids)):
        if not all(0 <= token < vocab_size for token in tokens):
            raise InvalidRequest(f"{name} names a token outside the vocabulary of {vocab_size}", param=name)
    if len(set(biased)) != len(biased):
        raise InvalidRequest("logit_bias names a token twice", param="logit_bias")
    if not all(abs(addend) <= _LARGEST_BIAS for _, addend in sampling.logit_bias):
        raise InvalidRequest(f"logit_bias must be within -{_LARGEST_BIAS:g} and {_LARGEST_BIAS:g}", param="logit_bias")


def _check_extras(sampling: SamplingParams) -> None:
    for name, count in (("logprobs", sampling.logprobs), ("prompt_logprobs", sampling.prompt_logprobs)):
        if count is not None and not 0 <= count <= MAX_LOGPROBS:
            raise InvalidRequest(f"{name} must be within 0 and {MAX_LOGPROBS}", param=name)
    if not 0 <= sampling.min_tokens <= sampling.max_tokens:
        raise InvalidRequest(f"min_tokens must be within 0 and max_tokens ({sampling.max_tokens})", param="min_tokens")
    if sampling.constraint is not None and sampling.ignore_eos:
        raise InvalidRequest(
            "ignore_eos and a constraint contradict each other: an output that matches has an end", param="ignore_eos"
        )
