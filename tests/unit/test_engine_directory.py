"""What a target's directory must be: anything else is refused by name, with the reason, before it can mislead."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from outrider.engine import TargetModel
from outrider.engine.attention import Span
from outrider.engine.batch import FlatBatch
from outrider.engine.directory import context_tokens
from outrider.engine.qwen3 import FlatQwen3
from outrider.engine.stock import StockModel
from outrider.errors import ModelDirectoryError
from support.directories import Change, config, gone, tensors, text, without
from support.families import VOCAB, make_family

INDEX = "model.safetensors.index.json"


def refusal(directory: Path) -> str:
    with pytest.raises(ModelDirectoryError) as caught:
        TargetModel.load(directory)
    assert directory.name in caught.value.message
    return caught.value.message


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(tmp_path_factory.mktemp("whole") / "target", "llama")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_family(tmp_path_factory.mktemp("sharded") / "target", "llama", shard="20KB")
    assert len(list(directory.glob("*.safetensors"))) > 5
    return directory


def bin_only(directory: Path) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


NORM = "model__norm__weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (gone, "does not exist"),
        (without("config.json"), "no config.json"),
        (without("model.safetensors"), "no .safetensors weights"),
        (bin_only, "convert its .bin files"),
        (text("config.json", "{"), "config.json"),
        (text("config.json", "[]"), "config.json"),
        (config(model_type="warp9"), "warp9"),
        (config(model_type="warp9", auto_map={"AutoConfig": "there.Config"}), "custom code"),
        (config(num_attention_heads="four"), "num_attention_heads"),
        (config(quantization_config={"quant_method": "gptq", "bits": 4}), "quantised"),
        (text("model.safetensors", "not tensors"), "model.safetensors is damaged"),
        (config(hidden_size=64), "config.json makes it"),
        (config(num_hidden_layers=2), "tensor model.layers.2."),
        (tensors(**{NORM: None}), "no tensor model.norm.weight"),
        (tensors(**{NORM: torch.ones(7)}), "tensor model.norm.weight is [7], config.json makes it [48]"),
        (tensors(**{NORM: torch.full((48,), torch.nan)}), "not finite"),
        (tensors(score__weight=torch.ones(1, 48)), "tensor score.weight has no place"),
        (text("generation_config.json", "{"), "generation_config.json"),
        (text("generation_config.json", '{"eos_token_id": "</s>"}'), "eos_token_id must be token ids"),
    ],
)
def test_a_directory_that_does_not_fit_is_refused_by_name(
    whole: Path, tmp_path: Path, change: Change, says: str
) -> None:
    directory = shutil.copytree(whole, tmp_path / "target")
    change(directory)
    assert says in refusal(directory)


def truncate(directory: Path) -> None:
    file = directory / shard(directory)
    file.write_bytes(file.read_bytes()[:-8])


def shard(directory: Path) -> str:
    return sorted(file.name for file in directory.glob("*.safetensors"))[1]


def rename_in_index(directory: Path) -> None:
    path = directory / INDEX
    path.write_text(path.read_text().replace(shard(directory), "nowhere.safetensors"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda directory: (directory / shard(directory)).unlink(), "00002-of-"),
        (rename_in_index, "names nowhere.safetensors, which does not exist"),
        (truncate, "is damaged"),
        (without(INDEX), f"neither model.safetensors nor {INDEX}"),
        (text(INDEX, "{"), "holds no weight_map"),
        (text(INDEX, "[]"), "holds no weight_map"),
    ],
)
def test_a_spoilt_shard_or_index_is_refused_by_name(sharded: Path, tmp_path: Path, change: Change, says: str) -> None:
    directory = shutil.copytree(sharded, tmp_path / "target")
    change(directory)
    assert says in refusal(directory)


def logits(target: TargetModel) -> torch.Tensor:
    cache = target.new_cache(1, 32)
    tokens = torch.arange(20) % VOCAB
    batch = FlatBatch(tokens, torch.arange(20), (Span(0, 20, cache.slots_of([0])),), torch.arange(20))
    found = target.forward(batch, cache)
    assert found is not None
    return found


def test_shards_hold_the_same_model(whole: Path, sharded: Path) -> None:
    assert torch.equal(logits(TargetModel.load(whole)), logits(TargetModel.load(sharded)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "qwen3_moe"])
def test_half_precision_loads_and_stays_near(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    directory = make_family(tmp_path / family, family)
    target = TargetModel.load(directory, dtype=dtype)
    assert target.dtype == dtype
    exact = logits(TargetModel.load(directory))
    assert float((logits(target) - exact).norm() / exact.norm()) < 0.15


SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCAB,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "moe_intermediate_size": 32,
    "num_key_value_heads": 4,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
}


@pytest.mark.parametrize(
    ("model_type", "fields", "says"),
    [
        ("mamba", {}, "linear_attention"),
        ("jamba", {"num_key_value_heads": 4}, "linear_attention"),
        ("qwen3_next", {}, "linear_attention"),
        ("rwkv", {"attention_hidden_size": 64}, "recurrent state"),
        ("llama4_text", {"num_key_value_heads": 4, "num_local_experts": 2}, "chunked_attention"),
        ("bloom", {"n_head": 4}, "not through transformers' attention interface"),
        ("bert", {}, "otherwise than causally"),
        ("deepseek_v2", LATENT, "keys [4, 32] and values [4, 16]"),
        ("diffllama", {"num_key_value_heads": 4}, "4 times in 2 layers"),
        ("t5", {"d_model": 64, "d_ff": 64, "num_layers": 2, "num_heads": 4}, "encoder-decoder"),
    ],
)
def test_what_is_not_plain_softmax_attention_is_refused_by_type(
    tmp_path: Path, model_type: str, fields: dict[str, Any], says: str
) -> None:
    directory = tmp_path / "target"
    defaults = AutoConfig.for_model(model_type)
    sizes = {key: value for key, value in SIZES.items() if hasattr(defaults, key)}
    made = AutoConfig.for_model(model_type, **(sizes | fields))
    if model_type == "t5":
        made.save_pretrained(directory)
        save_file({"shared.weight": torch.ones(2, 2)}, directory / "model.safetensors", {"format": "pt"})
    else:
        AutoModelForCausalLM.from_config(made).save_pretrained(directory)
    message = refusal(directory)
    assert says in message
    assert repr(model_type) in message


def test_a_composite_is_refused_before_its_weights_are_read(whole: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(whole, tmp_path / "target")
    AutoConfig.for_model("gemma3").save_pretrained(directory)
    assert "save its language model on its own" in refusal(directory)


def test_a_forward_that_flat_batches_do_not_carry_is_refused(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that, say, multiplies by a function of the row's place in the batch: only a look at its logits tells."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    own = LlamaDecoderLayer.forward

    def placed(self: Any, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return own(self, hidden * torch.linspace(1, 2, hidden.shape[1])[:, None], *args, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", placed)
    assert "its logits differ from its own forward by" in refusal(whole)


def test_qwen3_has_its_flat_forward_without_windows_only(tmp_path: Path) -> None:
    plain = make_family(tmp_path / "plain", "qwen3", use_sliding_window=False)
    sliding = make_family(tmp_path / "sliding", "qwen3")
    assert isinstance(TargetModel.load(plain)._flat, FlatQwen3)
    assert isinstance(TargetModel.load(sliding)._flat, StockModel)


def test_a_longrope_model_is_served_up_to_its_original_context() -> None:
    """Beyond it the stock forward switches the frequencies of everything in the batch."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [4.0] * 8, "short_factor": [1.0] * 8}
    fields = {"max_position_embeddings": 256, "original_max_position_embeddings": 64, "head_dim": 16}
    made = AutoConfig.for_model("phi3", **SIZES, **fields, rope_parameters=rope)
    assert context_tokens(made) == 64
    assert context_tokens(AutoConfig.for_model("llama", max_position_embeddings=256)) == 256


def test_end_tokens_may_be_one_or_several_or_none(whole: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(whole, tmp_path / "target")
    assert TargetModel.load(directory).eos_token_ids == ()
    config(eos_token_id=[3, 4])(directory)
    assert TargetModel.load(directory).eos_token_ids == (3, 4)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 5}))
    assert TargetModel.load(directory).eos_token_ids == (5,)
