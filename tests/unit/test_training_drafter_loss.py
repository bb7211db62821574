"""The drafter's loss and the probability that two exponential races agree."""

from __future__ import annotations

import torch

from outrider.speculation.noise import race_noise
from outrider.training.drafter_loss import drafter_loss, match_probability, slot_weights


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
