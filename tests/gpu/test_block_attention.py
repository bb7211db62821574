"""Block attention: the reference is the draft backbone's eager attention, and the kernel is the reference."""

from __future__ import annotations

import pytest
import torch

from outrider.drafter.config import DSparkConfig
from outrider.drafter.model import DSparkModel
from outrider_kernels.block_attention import block_attention
from outrider_kernels.dispatch import UnsupportedArgument
from support.drafting import blocks
from support.kernels import DEVICE
from support.tiny import TinyPair


@torch.inference_mode()
def test_the_reference_agrees_with_the_backbone(pair: TinyPair) -> None:
    model = DSparkModel.load(pair.drafter).to(DEVICE)
    assert isinstance(model.config, DSparkConfig)
    gamma, geometry = model.config.block_size, model.geometry
    lengths = torch.tensor([63, 1, 0, 128], device=DEVICE)
    shape = (model.config.num_hidden_layers, 4, 128, geometry.groups, geometry.width)
    keys, values = torch.randn(shape, device=DEVICE), torch.randn(shape, device=DEVICE)
    ids = torch.randint(90, (4, gamma), device=DEVICE)
    positions = lengths[:, None] + torch.arange(gamma, device=DEVICE)
    slots = torch.arange(4, device=DEVICE)

    def attend(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        context = (keys[layer], values[layer], slots, lengths.int())
        return block_attention(query, key, value, *context, scaling=geometry.width**-0.5).flatten(2)

    expected = model.backbone(ids, positions, keys, values, lengths)
    torch.testing.assert_close(model.attended_backbone(ids, positions, attend), expected, rtol=0, atol=2e-5)


def test_a_window_hides_the_far_context() -> None:
    """Row k at position 20 + k sees positions above 20 + k − 4; the rest may be anything."""
    step = blocks([20], 3)
    windowed = block_attention(*step.all, scaling=0.25, window=4)
    for slot in range(3):
        first = max(20 + slot - 4 + 1, 0)
        cropped = blocks([20], 3)
        near = cropped.context_keys[:, first:20], cropped.context_values[:, first:20]
        alone = block_attention(
            step.query, step.key, step.value, *near, step.slots, (step.lengths - first).clamp(max=20 - first),
            scaling=0.25,
        )  # fmt: skip
        torch.testing.assert_close(windowed[:, slot], alone[:, slot], rtol=0, atol=2e-6)
    assert not torch.allclose(windowed, block_attention(*step.all, scaling=0.25), atol=1e-3)


def test_nothing_and_padding() -> None:
    assert block_attention(*blocks([], 4).all, scaling=1.0).shape == (0, 4, 4, 16)
    found = block_attention(*blocks([None, 5, None], 4).all, scaling=1.0)
    assert not found[[0, 2]].any()
    assert found[1].isfinite().all()


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("query", {"query": torch.zeros(2, 3, 4, 300)}),
        ("key", {"key": torch.zeros(2, 3, 3, 16)}),
        ("value", {"value": torch.zeros(2, 3, 2, 16, dtype=torch.float64)}),
        ("context_keys", {"context_keys": torch.zeros(0, 8, 2, 16), "context_values": torch.zeros(0, 8, 2, 16)}),
        ("context_values", {"context_values": torch.zeros(3, 64, 2, 16)}),
        ("slots", {"slots": torch.zeros(2, dtype=torch.int32)}),
        ("lengths", {"lengths": torch.zeros(2, dtype=torch.int64)}),
    ],
)
def test_what_it_refuses(argument: str, change: dict[str, torch.Tensor]) -> None:
    step = blocks([4, 7], 3)
    arguments = vars(step) | {name: tensor.to(DEVICE) for name, tensor in change.items()}
    with pytest.raises(UnsupportedArgument, match=f"argument {argument} "):
        block_attention(**arguments, scaling=1.0)
