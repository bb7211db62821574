"""What a request must be before it may wait in the queue: the drafter would refuse a whole round for one bad row."""

from __future__ import annotations

from outrider.errors import ContextLengthExceeded, InvalidRequest
from outrider.types import GenerationRequest

__all__ = ["check_request"]


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
    wanted = sampling.max_tokens
    if len(prompt) + wanted > room_tokens:
        raise ContextLengthExceeded(
            f"{len(prompt)} prompt tokens and {wanted} requested exceed the context of {room_tokens} tokens",
            param="max_tokens",
        )
