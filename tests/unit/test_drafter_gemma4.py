"""Gemma4 drafters: from a target's configuration, in training and inference, as files, and behind the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from outrider.drafter.config import DSparkConfig, Gemma4DSparkConfig
from outrider.drafter.model import DSparkModel
from outrider.drafter.server import DraftServer
from outrider.errors import DrafterMismatch
from outrider.link import DraftRound

gemma4 = pytest.importorskip("transformers.models.gemma4.configuration_gemma4")

GAMMA, WIDTH = 4, 16


def target(**changes: Any) -> dict[str, Any]:
    """A Gemma4 target's text configuration as transformers writes it."""
    values: dict[str, Any] = {
        "vocab_size": 37, "hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 12,
        "num_global_key_value_heads": 1, "attention_k_eq_v": True, "hidden_size_per_layer_input": 0,
        "max_position_embeddings": 64, "layer_types": ["sliding_attention", "full_attention"] * 2,
        "final_logit_softcapping": 5.0,
    }  # fmt: skip
    written: dict[str, Any] = gemma4.Gemma4TextConfig(**values | changes).to_dict()
    return written


def config(target_values: dict[str, Any], **drafter: Any) -> DSparkConfig:
    settings = {"num_hidden_layers": 2, "block_size": GAMMA, "mask_token_id": 4, "target_layer_ids": [-1, 2]}
    return DSparkConfig.for_target(target_values, **settings | {"markov_rank": 6} | drafter)


def model(**changes: Any) -> DSparkModel:
    torch.manual_seed(3)
    made = DSparkModel(config(target(**changes)))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def test_a_targets_configuration_becomes_its_drafters() -> None:
    for values in (target(), {"model_type": "gemma4", "text_config": target(), "vision_config": {}}):
        made = config(values)
        assert isinstance(made, Gemma4DSparkConfig)
        assert (made.geometry.width, made.geometry.groups, made.geometry.rotary_share) == (12, 1, 0.25)
        assert (made.num_target_layers, made.num_hidden_layers, made.rope_theta) == (4, 2, 1e6)
    apart = config(target(attention_k_eq_v=False)).geometry
    assert (apart.width, apart.groups, apart.keys_are_values) == (12, 2, False)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"enable_moe_block": True}, "enable_moe_block"),
        ({"hidden_size_per_layer_input": 8}, "hidden_size_per_layer_input"),
        ({"num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ({"rope_parameters": None}, "rope_parameters"),
    ],
)
def test_what_the_family_has_and_drafters_have_not_is_refused(
    tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    model().save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(DrafterMismatch, match=field):
        DSparkModel.load(tmp_path)


def test_a_family_without_drafters_is_refused_by_name() -> None:
    with pytest.raises(DrafterMismatch, match="'llama' has no DSpark drafters"):
        config(target() | {"model_type": "llama"})


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_saved_is_deepspecs_format_and_comes_back(tmp_path: Path, shared: bool) -> None:
    made = model(attention_k_eq_v=shared)
    made.save(tmp_path, torch.float32)
    groups = 1 if shared else 2
    layer = {
        "self_attn.q_proj.weight": [48, WIDTH], "self_attn.k_proj.weight": [12 * groups, WIDTH],
        "self_attn.o_proj.weight": [WIDTH, 48], "self_attn.q_norm.weight": [12], "self_attn.k_norm.weight": [12],
        "mlp.gate_proj.weight": [24, WIDTH], "mlp.up_proj.weight": [24, WIDTH], "mlp.down_proj.weight": [WIDTH, 24],
        "input_layernorm.weight": [WIDTH], "post_attention_layernorm.weight": [WIDTH],
        "pre_feedforward_layernorm.weight": [WIDTH], "post_feedforward_layernorm.weight": [WIDTH], "layer_scalar": [1],
    }  # fmt: skip
    if not shared:
        layer["self_attn.v_proj.weight"] = [24, WIDTH]
    expected = {f"layers.{index}.{name}": shape for index in range(2) for name, shape in layer.items()} | {
        "embed_tokens.weight": [37, WIDTH], "lm_head.weight": [37, WIDTH], "norm.weight": [WIDTH],
        "hidden_norm.weight": [WIDTH], "fc.weight": [WIDTH, 2 * WIDTH], "markov_head.markov_w1.weight": [37, 6],
        "markov_head.markov_w2.weight": [37, 6], "confidence_head.proj.weight": [1, WIDTH + 6],
        "confidence_head.proj.bias": [1],
    }  # fmt: skip
    saved = load_file(tmp_path / "model.safetensors")
    assert {name: list(value.shape) for name, value in saved.items()} == expected
    loaded = DSparkModel.load(tmp_path)
    assert loaded.geometry == made.geometry
    for name, value in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_transformers_reads_the_sizes_from_what_is_saved(tmp_path: Path) -> None:
    model().save(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["architectures"] == ["Gemma4DSparkModel"]
    assert "per_layer_config" not in values
    read = gemma4.Gemma4TextConfig(**values)
    sizes = {(layer.head_dim, layer.num_key_value_heads) for layer in (read.per_layer_config[i] for i in range(2))}
    assert sizes == {(12, 1)}


@pytest.mark.parametrize("shared", [True, False])
def test_teacher_forced_training_equals_inference(shared: bool) -> None:
    made = model(attention_k_eq_v=shared)
    features, anchors = torch.randn(12, 2 * WIDTH), torch.tensor([3, 9])
    positions = anchors[:, None] + torch.arange(GAMMA)
    block = torch.randint(0, 37, positions.shape)
    made.train()
    rows = made.project(features)
    trained = made.training_backbone(block[None], positions[None], rows[None], anchors[None])[0]
    made.eval()
    with torch.inference_mode():
        keys, values = made.context_kv(rows, torch.arange(12))
        many = (2, 2, *keys.shape[1:])
        served = made.backbone(block, positions, keys[:, None].expand(many), values[:, None].expand(many), anchors)
    torch.testing.assert_close(served, trained, atol=1e-4, rtol=1e-4)
    assert float(made.base_logits(served * 100).abs().max()) <= 5.0  # the soft-cap


def test_the_server_holds_contexts_of_the_familys_shape() -> None:
    """Appended at once or in pieces, the block is the same."""
    made, rows = model().eval().requires_grad_(False), torch.randn(9, WIDTH)
    blocks = []
    for pieces in ([9], [4, 1, 4]):
        server, start = DraftServer(made, "gemma4"), 0
        for piece in pieces:
            one = torch.tensor([1])
            server.handle(
                b"t",
                DraftRound(
                    server.welcome.epoch, 1, (), one, torch.tensor([start]), torch.tensor([piece]),
                    rows[start : start + piece], torch.zeros(piece, dtype=torch.int64),
                ),
            )  # fmt: skip
            start += piece
        asked = DraftRound(
            server.welcome.epoch, 2, propose_keys=one, anchors=one + 6, positions=torch.tensor([9]),
            temperature=torch.ones(1), top_p=torch.ones(1), seeds=one, choices=one,
        )  # fmt: skip
        blocks.append(server.handle(b"t", asked))
    assert blocks[0].missing == blocks[1].missing == ()
    assert blocks[0].tokens.tolist() == blocks[1].tokens.tolist()
    torch.testing.assert_close(blocks[0].confidence_logits, blocks[1].confidence_logits, atol=1e-4, rtol=1e-4)
