"""What ships: four loadable directories, prompts nobody trained on, a card, and not too many megabytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from outrider import demo_models
from outrider.cli.models import app
from outrider.drafter.model import DSparkModel
from outrider.errors import ModelDirectoryError

LIMIT_BYTES = 40_000_000


@pytest.mark.parametrize(("name", "low", "high"), [("flash", 1e6, 2e6), ("pro", 5e6, 6e6)])
def test_targets_are_stock_and_in_their_size_class(name: str, low: float, high: float) -> None:
    directory = demo_models.path(name)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert model.config.architectures == ["Qwen3ForCausalLM"]
    assert low <= sum(p.numel() for p in model.parameters()) <= high
    assert len(tokenizer) == model.config.vocab_size == 2048
    assert model.generation_config.eos_token_id == [2, 0]
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"]
    text = "def f(x):\n    return x + 1  # größer 你好\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text

    drafter = DSparkModel.load(demo_models.path(f"{name}-drafter"))
    assert drafter.config.block_size == 7
    assert drafter.config.num_hidden_layers == 2
    assert drafter.config.mask_token_id == tokenizer.mask_token_id == 3
    assert drafter.config.num_target_layers == model.config.num_hidden_layers
    torch.testing.assert_close(drafter.lm_head.weight, model.lm_head.weight)


def test_a_greeting_is_answered_by_what_it_is() -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_models.path("pro"))
    model = AutoModelForCausalLM.from_pretrained(demo_models.path("pro"), dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who are you?"}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    answer = tokenizer.decode(model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :])
    assert "small demonstration model" in answer
    assert answer.endswith("<|im_end|>")


def test_held_out_prompts_cover_three_domains() -> None:
    prompts = list(demo_models.held_out())
    assert {p["domain"] for p in prompts} == {"code", "maths", "prose"}
    assert all(len(list(demo_models.held_out(domain))) >= 80 for domain in ("code", "maths", "prose"))
    assert all("answer" in p for p in demo_models.held_out("maths"))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ModelDirectoryError, match="choose from"):
        demo_models.path("ultra")


def test_package_data_stay_small_and_documented() -> None:
    root = Path(demo_models.__file__).parent
    assert sum(f.stat().st_size for f in root.rglob("*") if f.is_file()) <= LIMIT_BYTES
    assert "demonstration and a test bed" in (root / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_list_prints_what_is_installed() -> None:
    result = CliRunner().invoke(app, ["list", "--json"])
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert set(rows) == {"flash", "pro"}
    assert rows["pro"]["block_size"] == 7
    assert rows["flash"]["vocab_size"] == 2048
    assert CliRunner().invoke(app, ["list"]).exit_code == 0
    assert CliRunner().invoke(app, ["build", "--only", "ultra"]).exit_code == 2
