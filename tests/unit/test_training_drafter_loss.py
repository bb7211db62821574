"""The drafter's loss and the probability that two exponential races agree."""

from __future__ import annotations

import pytest
import torch

from outrider.speculation.noise import race_noise
from outrider.training.drafter_loss import drafter_loss, match_probability, slot_weights
from outrider.training.recipe import LossSection


def test_match_probability_equals_its_formula_and_a_real_race() -> None:
    torch.manual_seed(0)
    p, q = torch.softmax(torch.randn(3, 9), -1), torch.softmax(torch.randn(3, 9), -1)
    found = match_probability(p, q)
    for row in range(3):
        naive = sum(
            1 / sum(max(float(p[row, j] / p[row, i]), float(q[row, j] / q[row, i])) for j in range(9)) for i in range(9)
        )
        assert abs(float(found[row]) - naive) < 1e-5
        trials = torch.arange(40_000)
        noise = race_noise(trials, torch.zeros_like(trials), torch.full_like(trials, row), 9)
        agreed = ((noise / p[row]).argmin(-1) == (noise / q[row]).argmin(-1)).float().mean()
        assert abs(float(agreed) - naive) < 0.012


def test_match_probability_is_near_the_truth_when_the_tail_is_lumped() -> None:
    torch.manual_seed(1)
    base = 3 * torch.randn(20, 500)
    p, q = torch.softmax(base, -1), torch.softmax(base + 0.5 * torch.randn(20, 500), -1)
    exact, lumped = match_probability(p, q, top=500), match_probability(p, q, top=32)
    assert float((exact - lumped).abs().max()) < 0.05
    assert torch.all(match_probability(p, p) > 0.9)


def test_loss_falls_to_the_confidence_floor_when_draft_equals_target() -> None:
    torch.manual_seed(2)
    target = torch.randn(14, 30) * 4
    tokens = target.argmax(-1)
    weights = slot_weights(7).repeat(2)
    same = drafter_loss(target, target, tokens, torch.full((14,), 9.0), weights)
    other = drafter_loss(torch.randn(14, 30) * 4, target, tokens, torch.full((14,), 9.0), weights)
    assert float(same.total) < float(other.total)
    torch.testing.assert_close(same.overlap, torch.ones(14))
    torch.testing.assert_close(same.match, torch.ones(14), atol=1e-4, rtol=0)


def test_slot_weights_decay_as_released() -> None:
    weights = slot_weights(7)
    assert float(weights[0]) == 1.0
    torch.testing.assert_close(weights[4], torch.tensor(-1.0).exp())


def test_the_fused_gradient_is_autograds() -> None:
    torch.manual_seed(3)
    logits, target = torch.randn(11, 13, dtype=torch.float64), 2 * torch.randn(11, 13)
    tokens, weights = torch.randint(13, (11,)), slot_weights(11)
    ours = logits.float().requires_grad_()
    shares = LossSection(ce=0.3, tv=0.7)
    loss = drafter_loss(ours, target, tokens, None, weights, shares)
    loss.total.backward()  # type: ignore[no-untyped-call]
    plain = logits.clone().requires_grad_()
    q, p = torch.softmax(plain, -1), torch.softmax(target.double(), -1)
    share = (weights / weights.sum()).double()
    surprise = -q.gather(1, tokens[:, None]).squeeze(1).log()
    total = (share * (0.3 * surprise + 0.7 * (q - p).abs().sum(-1))).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert float(loss.total.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    assert ours.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(ours.grad.double(), plain.grad, atol=1e-7, rtol=1e-4)


def test_labels_are_the_match_probability_or_one_minus_tv() -> None:
    torch.manual_seed(4)
    logits, target = 2 * torch.randn(6, 5), 2 * torch.randn(6, 5)
    p, q = torch.softmax(target.double(), -1), torch.softmax(logits.double(), -1)
    match = torch.tensor([[1 / max_ratio(p[r], q[r], i) for i in range(5)] for r in range(6)]).sum(-1)
    overlap = 1 - 0.5 * (p - q).abs().sum(-1)
    tokens, weights = torch.zeros(6, dtype=torch.long), torch.ones(6)
    confidence = torch.randn(6)
    for label, truth in (("coupled", match), ("rejection", overlap)):
        loss = drafter_loss(logits, target, tokens, confidence, weights, label=label)
        expected = -(truth * torch.sigmoid(confidence).log() + (1 - truth) * torch.sigmoid(-confidence).log())
        torch.testing.assert_close(loss.confidence, expected.float(), atol=1e-5, rtol=1e-4)
    assert torch.all(match >= overlap / (2 - overlap) - 1e-9)  # (1 − TV)/(1 + TV)


def max_ratio(p: torch.Tensor, q: torch.Tensor, i: int) -> float:
    return sum(max(float(p[j] / p[i]), float(q[j] / q[i])) for j in range(len(p)))


def test_parts_of_a_step_add_up_to_the_whole() -> None:
    torch.manual_seed(5)
    logits, target, tokens = torch.randn(8, 9), torch.randn(8, 9), torch.randint(9, (8,))
    weights, confidence = slot_weights(8), torch.randn(8)
    whole = drafter_loss(logits, target, tokens, confidence, weights).total
    total = float(weights.sum())
    parts = [
        drafter_loss(logits[s], target[s], tokens[s], confidence[s], weights[s], total_weight=total).total
        for s in (slice(0, 3), slice(3, 8))
    ]
    torch.testing.assert_close(sum(parts, torch.zeros(())), whole)
