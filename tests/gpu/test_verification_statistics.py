"""What the verification kernels emit is distributed as the target is, and controls that are not.

As many samples as a GPU draws in a moment, or Triton's interpreter in half a minute. What a control changes is computed
by the dispatched op: by the kernels on a GPU, by the reference they equal elsewhere.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import outrider_kernels.verification as op
from outrider.speculation.noise import Stream, stream_noise
from outrider_kernels.verification import Drafted, VerifyRows
from outrider_kernels.verification import triton as kernels
from support.kernels import DEVICE
from support.statistics import chi_square
from support.verification import moved

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, of infinities that are meant

SAMPLES = 20_000 if DEVICE.type == "cuda" else 200
FIRST, SECOND = [0.5, 0.2, 0.3], [0.1, 0.3, 0.6]


def _rounds(p: list[list[float]], count: int) -> tuple[Tensor, VerifyRows, Tensor]:
    """Logits, rows and query_start of `count` requests under the rejection rule with a draft of one token."""
    n = 2 * count
    places = torch.arange(n)
    ones, zeros = torch.ones(n), torch.zeros(n, dtype=torch.int64)
    request, slot = (places // 2).int(), (places % 2).int()
    rows = VerifyRows(request, slot, ones, ones, zeros, ones * 0, places // 2, zeros, places, zeros + 5)
    return torch.tensor(p).log().repeat(count, 1), rows, torch.arange(0, n + 1, 2, dtype=torch.int32)


def _drafted(q: list[float], count: int, stream: Stream) -> Drafted:
    """Tokens drawn from q by a stream of slot 0's noise."""
    every, zeros = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    noise = stream_noise(every, zeros, zeros + 5, zeros, stream, len(q))
    tokens = torch.stack([(noise / torch.tensor(q)).argmin(dim=-1), zeros - 1], dim=1).flatten()
    probs = torch.tensor([q, [0.0] * len(q)]).repeat(count, 1)
    return Drafted(tokens, torch.arange(len(q)).expand(2 * count, -1).contiguous(), probs)


def _outputs(drafted: Drafted, accepted: Tensor, last: Tensor, second: list[float]) -> NDArray[np.int64]:
    """The first two tokens of every request; where the round ends after one, the second is another round's."""
    draft = drafted.tokens[::2]
    later = np.random.default_rng(1).choice(len(second), len(draft), p=second)
    kept = accepted.cpu() == 1
    first = torch.where(kept, draft, last.cpu())
    return np.stack([first.numpy(), np.where(kept.numpy(), last.cpu().numpy(), later)], axis=1)


def test_rejection_emits_the_target_and_not_with_a_residual_that_is_p() -> None:
    q = [0.95, 0.05, 0.0]
    logits, rows, starts = _rounds([FIRST, SECOND], SAMPLES)
    drafted = _drafted(q, SAMPLES, Stream.DRAFT)
    batch = moved(logits), moved(rows)
    flags = {"random": True, "cuts": False, "rejects": True}
    found = kernels.verify(*batch, moved(drafted), moved(starts), **flags)
    joint = np.outer(FIRST, SECOND)
    assert 0.4 < found.accepted.double().mean() < 0.7
    assert chi_square(_outputs(drafted, found.accepted, found.last, SECOND), joint) > 1e-3
    nothing = Drafted(drafted.tokens * 0 - 1, drafted.q_tokens, torch.zeros(2 * SAMPLES, 3))
    plain = op.verify(*batch, moved(nothing), moved(starts), **flags)
    last = torch.where(found.accepted == 1, found.last, plain.last)
    assert chi_square(_outputs(drafted, found.accepted, last, SECOND), joint) < 1e-6


def test_noise_that_draft_and_residual_share_is_told_apart() -> None:
    """Of 20,000 samples: dispatched to the kernels on a GPU, to the reference they equal elsewhere."""
    count, first = 20_000, [0.02, 0.68, 0.3]
    logits, rows, starts = _rounds([first, SECOND], count)
    values = []
    for stream in (Stream.DRAFT, Stream.FINAL):
        drafted = _drafted([0.6, 0.4, 0.0], count, stream)
        arguments = moved(logits), moved(rows), moved(drafted), moved(starts)
        found = op.verify(*arguments, random=True, cuts=False, rejects=True)
        outputs = _outputs(drafted, found.accepted, found.last, SECOND)
        values.append(chi_square(outputs, np.outer(first, SECOND)))
    assert values[0] > 1e-3
    assert values[1] < 1e-6


def test_coupled_choices_are_the_target_and_not_with_noise_of_one_position() -> None:
    count = SAMPLES // 2
    places = torch.arange(2 * count)
    ones, zeros = torch.ones(2 * count), torch.zeros(2 * count, dtype=torch.int64)
    logits = torch.tensor([FIRST, SECOND]).log().repeat(count, 1)
    rows = [moved(x) for x in (logits, ones, ones, zeros, ones * 0, places // 2, zeros)]
    joint = np.outer(FIRST, SECOND)
    found = kernels.choose(*rows, moved(places % 2), random=True, cuts=False)
    assert chi_square(found.cpu().numpy().reshape(-1, 2), joint) > 1e-3
    found = op.choose(*rows, moved(places * 0), random=True, cuts=False)
    assert chi_square(found.cpu().numpy().reshape(-1, 2), joint) < 1e-6
