"""The whole pipeline at a hundredth of its size: everything from nothing, then nothing again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from outrider.drafter.model import DSparkModel
from outrider.training.build import PARTS, Builder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Builder, Path, list[str]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # an OpenMP team on a busy machine made this 136 s instead of 13
    root = tmp_path_factory.mktemp("build")
    lines: list[str] = []
    builder = Builder(root / "out", root / "work", scale=0.001, log=lines.append)
    builder.run()
    torch.set_num_threads(threads)
    return builder, root, lines


def test_every_part_is_loadable_by_stock_tools(built: tuple[Builder, Path, list[str]]) -> None:
    _, root, _ = built
    for name in ("flash", "pro"):
        directory = root / "out" / name
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello"}], add_generation_prompt=True, tokenize=False
        )
        assert text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer(text, return_tensors="pt").input_ids
        assert model(ids).logits.shape == (1, ids.shape[1], 512)
        assert model.generation_config.eos_token_id == [2, 0]
        drafter = DSparkModel.load(root / "out" / f"{name}-drafter")
        assert drafter.config.mask_token_id == tokenizer.mask_token_id
        torch.testing.assert_close(drafter.embed_tokens.weight, model.get_input_embeddings().weight)


def test_card_prompts_and_figures_are_written(built: tuple[Builder, Path, list[str]]) -> None:
    builder, root, _ = built
    card = (root / "out" / "MODEL_CARD.md").read_text()
    assert "a demonstration and a test bed" in card
    prompts = [json.loads(line) for line in (root / "out" / "heldout.jsonl").read_text().splitlines()]
    assert {p["domain"] for p in prompts} <= {"code", "maths", "prose"}
    assert all(p["messages"][-1]["role"] == "user" for p in prompts)
    measured = builder.figures["pro-drafter"]["evaluation"]["tau at T=0"]
    assert set(measured) == {"drafter", "plain-model", "prompt-lookup"}
    assert all(1.0 <= tau <= 8.0 for by_domain in measured.values() for tau in by_domain.values())
    assert (
        f"| τ, code, T=0 | {builder.figures['flash-drafter']['evaluation']['tau at T=0']['drafter']['code']:.2f} |"
        in card
    )
    greedy = builder.figures["flash-drafter"]["calibration"]["greedy"]
    error = f"{100 * greedy['ece_mapped']:.1f} % (before {100 * greedy['ece_before']:.1f} %)"
    assert f"| calibration error of prefix survival, greedy | {error} on {greedy['prompts']:,} prompts |" in card
    assert (root / "out" / "pro-drafter" / "calibration.json").is_file()
    assert (root / "out" / "pro-drafter" / "recipe.yaml").is_file()


def test_a_second_run_has_nothing_to_do(built: tuple[Builder, Path, list[str]]) -> None:
    builder, root, _ = built
    lines: list[str] = []
    again = Builder(root / "out", root / "work", scale=0.001, log=lines.append)
    assert again.run("pro-drafter") == {k: v for k, v in builder.figures.items() if not k.startswith("flash")}
    assert [line for line in lines if line.endswith("up to date")] == [
        "data: up to date",
        "pro: up to date",
        "pro-worth: up to date",
    ]
    assert not [line for line in lines if "starting over" in line or "started" in line]


def test_changed_inputs_start_over(built: tuple[Builder, Path, list[str]]) -> None:
    _, root, _ = built
    stamp = root / "work" / "stamps" / "flash.json"
    saved = json.loads(stamp.read_text())
    stamp.write_text(json.dumps(saved | {"inputs": "other"}))
    lines: list[str] = []
    Builder(root / "out", root / "work", scale=0.001, log=lines.append).run("flash")
    assert "flash: inputs changed, starting over" in lines
    assert PARTS == ("flash", "pro", "flash-drafter", "pro-drafter")
