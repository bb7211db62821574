"""What batch classes make of a round: who decodes in it, how large its step may be, how much of that is prompt."""

from __future__ import annotations

from outrider.engine.sequence import Sequence

__all__ = ["prompt_tokens", "seat"]


def seat(
    decoding: list[Sequence], willing: list[Sequence], most_tokens: int, prompt_block: int
) -> tuple[list[Sequence], int]:
    """Who of the willing decodes in this step, in the order given, and how many tokens it may have.

    Everybody, if the step then keeps to the co-batch cap of each. Else seats go by weight times rounds waited, so that
    who is worth an eighth sits out eight times as long and nobody for ever; a cap binds only the steps that decode for
    who has it. prompt_block: tokens left free for prompts as far as prefill shares allow, 0 without any.
    """
    seated, step_tokens, share = willing, most_tokens, 1.0
    for sequence in willing:
        step_tokens, share = _tightened(step_tokens, share, sequence)
    if len(willing) > _seats(step_tokens, share, prompt_block):
        seated, step_tokens = _by_turns(willing, most_tokens, prompt_block)
    taken = {s.key for s in seated}
    for sequence in decoding:
        sequence.sat_out = 0 if sequence.key in taken else sequence.sat_out + 1
    return seated, step_tokens


def prompt_tokens(decoding: list[Sequence], step_tokens: int, block_size: int) -> int:
    """Prompt tokens that a step of so many tolerates beside these requests: the smallest share of it, a block at least.

    Never beyond the step, but for one token: no prompt waits for ever.
    """
    if not decoding:
        return step_tokens
    share = min(s.request.batch_class.prefill_share for s in decoding)
    return max(min(max(int(share * step_tokens), block_size), step_tokens - len(decoding)), 1)


def _by_turns(willing: list[Sequence], most_tokens: int, prompt_block: int) -> tuple[list[Sequence], int]:
    step_tokens, share = most_tokens, 1.0
    taken: set[int] = set()
    for sequence in sorted(willing, key=lambda s: -s.request.batch_class.weight * (1 + s.sat_out)):
        tokens, least = _tightened(step_tokens, share, sequence)
        if not taken or len(taken) < _seats(tokens, least, prompt_block):
            step_tokens, share = tokens, least
            taken.add(sequence.key)
    return [s for s in willing if s.key in taken], step_tokens


def _tightened(step_tokens: int, share: float, sequence: Sequence) -> tuple[int, float]:
    batch_class = sequence.request.batch_class
    return min(step_tokens, batch_class.co_batch_tokens), min(share, batch_class.prefill_share)


def _seats(step_tokens: int, share: float, prompt_block: int) -> int:
    return step_tokens - min(prompt_block, max(int(share * step_tokens), 1))
