"""The DSpark drafter: training and inference agree, files round-trip, and bad files are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from outrider.drafter.config import DSparkConfig
from outrider.drafter.model import DSparkModel
from outrider.errors import DrafterMismatch, ModelDirectoryError

GAMMA = 5


def tiny_config(**changes: object) -> DSparkConfig:
    values: dict[str, object] = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "num_target_layers": 3,
        "block_size": GAMMA,
        "mask_token_id": 3,
        "target_layer_ids": [-1, 1],
        "markov_rank": 6,
    }
    return DSparkConfig.model_validate(values | changes)


HEADS: dict[str, dict[str, object]] = {
    "vanilla": {},
    "gated": {"markov_head_type": "gated"},
    "rnn": {"markov_head_type": "rnn"},
    "none": {"markov_rank": 0, "confidence_head_with_markov": False},
    "rnn, confidence without it": {"markov_head_type": "rnn", "confidence_head_with_markov": False},
    "dflash": {"markov_rank": 0, "enable_confidence_head": False},
}


def tiny_model(**changes: object) -> DSparkModel:
    torch.manual_seed(0)
    made = DSparkModel(tiny_config(**changes))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture
def model() -> DSparkModel:
    return tiny_model()


def padded_context(model: DSparkModel, rows: torch.Tensor, anchors: list[int]) -> tuple[torch.Tensor, ...]:
    """Context keys and values for blocks of one sequence, padded to the longest with large finite rubbish."""
    keys, values = model.context_kv(rows, torch.arange(len(rows)))
    span = max(anchors) + 2
    ctx_k = torch.full((keys.shape[0], len(anchors), span, *keys.shape[2:]), 1e3)
    ctx_v = torch.full_like(ctx_k, -1e3)
    for row, anchor in enumerate(anchors):
        ctx_k[:, row, :anchor], ctx_v[:, row, :anchor] = keys[:, :anchor], values[:, :anchor]
    return ctx_k, ctx_v, torch.tensor(anchors)


@pytest.mark.parametrize("anchors", [[1, 4, 9], [0], [12]])
@pytest.mark.parametrize("head", HEADS)
def test_teacher_forced_training_equals_inference(head: str, anchors: list[int]) -> None:
    model = tiny_model(**HEADS[head])
    features = torch.randn(20, 48)
    tokens = torch.randint(0, 61, (20 + GAMMA,))
    starts = torch.tensor(anchors)
    positions = starts[:, None] + torch.arange(GAMMA)
    block = torch.full((len(anchors), GAMMA), 3)
    block[:, 0] = tokens[starts]

    model.train()
    hidden = model.training_backbone(block[None], positions[None], model.project(features)[None], starts[None])[0]
    previous = tokens[positions]
    bias, embedded = model.block_head(hidden, previous)
    trained = model.base_logits(hidden) if bias is None else model.base_logits(hidden) + bias
    assert (bias is None) == (embedded is None) == (model.config.markov_rank == 0)

    model.eval()
    with torch.inference_mode():
        ctx_k, ctx_v, ctx_len = padded_context(model, model.project(features), anchors)
        served_hidden = model.backbone(block, positions, ctx_k, ctx_v, ctx_len)
        base = model.base_logits(served_hidden)
        state = None
        for slot in range(GAMMA):
            slot_bias, slot_embedded, state = model.head_step(served_hidden[:, slot], previous[:, slot], state)
            served = base[:, slot] if slot_bias is None else base[:, slot] + slot_bias
            torch.testing.assert_close(served, trained[:, slot], atol=1e-4, rtol=1e-4)
            if model.confidence_head is not None:
                confidence = model.confidence_logit(served_hidden[:, slot], slot_embedded)
                trained_confidence = model.confidence_logit(hidden, embedded)[:, slot]
                torch.testing.assert_close(confidence, trained_confidence, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gated", "rnn"])
def test_heads_equal_their_formulas(kind: str) -> None:
    """One block, slot after slot, with the formulas spelled out: gates scale, and the state decides what is kept."""
    model = tiny_model(markov_head_type=kind).eval()
    hidden, previous = torch.randn(GAMMA, 24), torch.tensor([4, 8, 15, 16, 23])
    found, _ = model.block_head(hidden, previous)
    assert found is not None
    weights = dict(model.markov_head.named_parameters())  # type: ignore[union-attr]
    state = torch.zeros(6)
    for slot in range(GAMMA):
        embedded = weights["markov_w1.weight"][previous[slot]]
        if kind == "gated":
            read = torch.cat((hidden[slot], embedded))
            latent = torch.sigmoid(weights["gate_proj.weight"] @ read + weights["gate_proj.bias"]) * embedded
        else:
            read = torch.cat((state, embedded, hidden[slot]))
            mixed = weights["joint_proj.weight"] @ read + weights["joint_proj.bias"]
            keep = torch.sigmoid(mixed[:6])
            state = keep * state + (1 - keep) * torch.tanh(mixed[6:12])
            latent = torch.tanh(mixed[12:])
        torch.testing.assert_close(found[slot], weights["markov_w2.weight"] @ latent, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_of_a_head_learns_in_bf16(head: str) -> None:
    model = tiny_model(**HEADS[head]).train()
    features, anchors = torch.randn(1, 9, 48), torch.tensor([[2, 6]])
    positions = anchors[..., None] + torch.arange(GAMMA)
    previous = torch.randint(0, 61, positions.shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.training_backbone(previous, positions, model.project(features), anchors)
        bias, embedded = model.block_head(hidden, previous)
        loss = (model.base_logits(hidden) + (0 if bias is None else bias)).logsumexp(-1).sum()
        if model.confidence_head is not None:
            loss = loss + model.confidence_logit(hidden, embedded).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


def test_a_missing_head_is_said_to_be_missing() -> None:
    model = tiny_model(**HEADS["dflash"])
    with pytest.raises(DrafterMismatch, match="confidence head"):
        model.confidence_logit(torch.zeros(24))
    with pytest.raises(DrafterMismatch, match="markov_rank"):
        model.latent_bias(torch.zeros(6))


def test_backbone_equals_a_naive_reading_of_the_paper(model: DSparkModel) -> None:
    """One block, no batching, heads one by one, rotate_half spelled out."""
    model.eval()
    start, config = 7, model.config
    features = torch.randn(start, 48)
    block = torch.tensor([[11, 3, 3, 3, 3]])
    positions = torch.arange(start, start + GAMMA)[None]

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weight

    def rope(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        frequency = config.rope_theta ** -(torch.arange(0, 8, 2).float() / 8)
        angle = (at[:, None].float() * frequency).repeat(1, 2)
        return x * angle.cos() + torch.cat((-x[:, 4:], x[:, :4]), -1) * angle.sin()

    context = norm(features @ model.fc.weight.T, model.hidden_norm.weight)
    hidden = model.embed_tokens.weight[block[0]]
    at = torch.arange(start + GAMMA)
    for layer in model.layers:
        attention, mlp = layer.self_attn, layer.mlp  # type: ignore[union-attr]
        normed = norm(hidden, layer.input_layernorm.weight)  # type: ignore[union-attr]
        rows = torch.cat((context, normed))
        heads = []
        for head in range(4):
            q = (normed @ attention.q_proj.weight.T)[:, 8 * head : 8 * head + 8]  # type: ignore[union-attr]
            group = slice(8 * (head // 2), 8 * (head // 2) + 8)
            k = (rows @ attention.k_proj.weight.T)[:, group]  # type: ignore[union-attr]
            v = (rows @ attention.v_proj.weight.T)[:, group]  # type: ignore[union-attr]
            q = rope(norm(q, attention.q_norm.weight), at[start:])  # type: ignore[union-attr]
            k = rope(norm(k, attention.k_norm.weight), at)  # type: ignore[union-attr]
            heads.append(torch.softmax(q @ k.T / 8**0.5, -1) @ v)
        hidden = hidden + torch.cat(heads, -1) @ attention.o_proj.weight.T  # type: ignore[union-attr]
        inner = norm(hidden, layer.post_attention_layernorm.weight)  # type: ignore[union-attr]
        gate = torch.nn.functional.silu(inner @ mlp.gate_proj.weight.T)  # type: ignore[union-attr]
        hidden = hidden + (gate * (inner @ mlp.up_proj.weight.T)) @ mlp.down_proj.weight.T  # type: ignore[union-attr]
    expected = norm(hidden, model.norm.weight)

    ctx_k, ctx_v, ctx_len = padded_context(model, model.project(features), [start])
    found = model.backbone(block, positions, ctx_k, ctx_v, ctx_len)[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def format_shapes(config: DSparkConfig) -> dict[str, list[int]]:
    """Names and shapes of a DeepSpec checkpoint, written down from the format and not from our modules."""
    vocab, width, inner, rank = config.vocab_size, config.hidden_size, config.intermediate_size, config.markov_rank
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    shapes = {
        "embed_tokens.weight": [vocab, width], "lm_head.weight": [vocab, width],
        "norm.weight": [width], "hidden_norm.weight": [width],
        "fc.weight": [width, len(config.target_layer_ids) * width],
    }  # fmt: skip
    for layer in range(config.num_hidden_layers):
        shapes |= {
            f"layers.{layer}.{name}.weight": shape
            for name, shape in (
                ("self_attn.q_proj", [queries, width]), ("self_attn.k_proj", [keys, width]),
                ("self_attn.v_proj", [keys, width]), ("self_attn.o_proj", [width, queries]),
                ("self_attn.q_norm", [config.head_dim]), ("self_attn.k_norm", [config.head_dim]),
                ("mlp.gate_proj", [inner, width]), ("mlp.up_proj", [inner, width]), ("mlp.down_proj", [width, inner]),
                ("input_layernorm", [width]), ("post_attention_layernorm", [width]),
            )
        }  # fmt: skip
    if rank:
        shapes |= {"markov_head.markov_w1.weight": [vocab, rank], "markov_head.markov_w2.weight": [vocab, rank]}
    if rank and config.markov_head_type == "gated":
        shapes |= {"markov_head.gate_proj.weight": [rank, width + rank], "markov_head.gate_proj.bias": [rank]}
    if rank and config.markov_head_type == "rnn":
        shapes |= {
            "markov_head.joint_proj.weight": [3 * rank, 2 * rank + width], "markov_head.joint_proj.bias": [3 * rank]
        }  # fmt: skip
    if config.enable_confidence_head:
        read = width + (rank if config.confidence_head_with_markov else 0)
        shapes |= {"confidence_head.proj.weight": [1, read], "confidence_head.proj.bias": [1]}
    return shapes


@pytest.mark.parametrize("head", HEADS)
def test_what_is_saved_is_deepspecs_format_and_comes_back(head: str, tmp_path: Path) -> None:
    model = tiny_model(**HEADS[head])
    model.save(tmp_path, dtype=torch.float32)
    saved = load_file(tmp_path / "model.safetensors")
    assert {name: list(value.shape) for name, value in saved.items()} == format_shapes(model.config)
    loaded = DSparkModel.load(tmp_path)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=0, rtol=0)
    assert loaded.config.model_copy(update={"dtype": None}) == model.config.model_copy(update={"dtype": None})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["Qwen3DSparkModel"]
    assert config["target_layer_ids"] == [-1, 1]
    assert config["tie_word_embeddings"] is False


def test_joined_weights_follow_the_parameters(model: DSparkModel) -> None:
    model.eval()
    rows = torch.randn(3, 24)
    before, _ = model.context_kv(rows, torch.arange(3))
    with torch.no_grad():
        model.layers[0].self_attn.k_proj.weight.mul_(-1.0)  # type: ignore[union-attr]
    model.train()
    model.eval()
    after, _ = model.context_kv(rows, torch.arange(3))
    torch.testing.assert_close(after[0], -before[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_layer_ids", [0, 2]),
        ("target_layer_ids", [1, 0]),
        ("markov_head_type", "lstm"),
        ("markov_rank", -1),
        ("markov_rank", 0),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("architectures", ["LlamaDSparkModel"]),
        ("mask_token_id", 99),
        ("hidden_size", "wide"),
    ],
)
def test_unfit_fields_are_refused_by_name(model: DSparkModel, tmp_path: Path, field: str, value: object) -> None:
    model.save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(DrafterMismatch, match=field):
        DSparkModel.load(tmp_path)


def test_missing_files_and_wrong_tensors_are_refused_by_name(model: DSparkModel, tmp_path: Path) -> None:
    with pytest.raises(ModelDirectoryError, match="does not exist"):
        DSparkModel.load(tmp_path / "nowhere")
    with pytest.raises(ModelDirectoryError, match=r"config\.json"):
        DSparkModel.load(tmp_path)
    model.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelDirectoryError, match=r"model\.safetensors"):
        DSparkModel.load(tmp_path)
    save_file({k: v for k, v in weights.items() if k != "fc.weight"}, tmp_path / "model.safetensors")
    with pytest.raises(DrafterMismatch, match=r"fc\.weight"):
        DSparkModel.load(tmp_path)
    save_file(weights | {"norm.weight": torch.ones(7)}, tmp_path / "model.safetensors")
    with pytest.raises(DrafterMismatch, match=r"norm\.weight"):
        DSparkModel.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ModelDirectoryError, match="unreadable"):
        DSparkModel.load(tmp_path)
