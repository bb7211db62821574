"""Pretraining resumes after an interruption, exports whole directories, and its attention is causal attention."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from outrider.training.attention import chunked_causal_attention
from outrider.training.pretrain import new_target, pretrain
from outrider.training.shapes import FLASH, TargetShape, scaled
from outrider.training.storage import load_checkpoint, replace_directory, save_checkpoint


class NoTokenizer:
    def save_pretrained(self, directory: Path) -> None:
        (directory / "tokenizer.json").write_text("{}")


def tiny(tokens: int) -> TargetShape:
    shape = replace(scaled(FLASH, 0.001), vocab_size=64)
    return replace(shape, effort=replace(shape.effort, pretrain_tokens=tokens, window_tokens=32))


@pytest.mark.parametrize("length", [1, 63, 128, 300])
def test_chunked_attention_equals_the_reference(length: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, length, 16), torch.randn(2, 2, length, 16), torch.randn(2, 2, length, 16)
    expected = F.scaled_dot_product_attention(
        q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), is_causal=True, scale=0.3
    )
    torch.testing.assert_close(chunked_causal_attention(q, k, v, 0.3), expected, atol=1e-5, rtol=1e-5)


def test_training_learns_and_resumes(tmp_path: Path) -> None:
    documents = [[i % 50 for i in range(start, start + 40)] for start in range(50)]
    checkpoint, out = tmp_path / "c.ckpt", tmp_path / "out"

    def train(tokens: int) -> dict[str, float]:
        model = new_target(tiny(tokens), seed=1, eos_token_ids=[2, 0], pad_token_id=0)
        return pretrain(model, NoTokenizer(), documents, documents[:9], tiny(tokens), checkpoint, out)

    first = train(1_000)
    assert (out / "model.safetensors").exists()
    assert (out / "tokenizer.json").exists()
    assert first["tokens"] == 1_024  # whole steps of two windows of 32
    second = train(8_000)
    assert second["tokens"] == 8_000
    assert second["train_loss"] < first["train_loss"]
    third = train(8_000)
    assert third["steps"] == second["steps"]


def test_checkpoints_survive_a_crash_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, {"step": 1})
    path.with_suffix(".partial").write_bytes(b"half")
    assert load_checkpoint(path) == {"step": 1}
    assert load_checkpoint(tmp_path / "none.ckpt") is None

    target = tmp_path / "model"
    replace_directory(target, lambda to: (to / "a").write_text("1") and None)
    with pytest.raises(RuntimeError):
        replace_directory(target, failing)
    assert (target / "a").read_text() == "1"


def failing(directory: Path) -> None:
    (directory / "b").write_text("2")
    raise RuntimeError
