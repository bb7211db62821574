"""Our drafters answer what the DeepSpec reference answered: see tests/data/deepspec/README.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from outrider.drafter.model import DSparkModel
from support.deepspec import drafted_by_us, served_by_us

FIXTURES = Path(__file__).parents[1] / "data" / "deepspec"
CASES = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())
TOLERANCE = {"atol": 1e-4, "rtol": 0}


def test_the_cases_cover_every_head_and_the_embedding_tap() -> None:
    configs = [json.loads((FIXTURES / case / "config.json").read_text()) for case in CASES]
    qwen3 = [config for config in configs if config["architectures"] == ["Qwen3DSparkModel"]]
    heads = {config["markov_head_type"] for config in qwen3 if config["markov_rank"]}
    assert heads == {"vanilla", "gated", "rnn"}
    assert any(config["markov_rank"] == 0 and config["enable_confidence_head"] for config in configs)
    assert any(config["markov_rank"] == 0 and not config["enable_confidence_head"] for config in configs)
    assert {config["architectures"][0] for config in configs} == {"Qwen3DSparkModel", "Gemma4DSparkModel"}
    assert {config["attention_k_eq_v"] for config in configs if "attention_k_eq_v" in config} == {True, False}
    assert any(config["target_layer_ids"][0] == -1 for config in configs)
    assert len({config["block_size"] for config in configs}) > 3


@pytest.mark.parametrize("case", CASES)
def test_drafts_equal_the_references(case: str) -> None:
    expected = load_file(FIXTURES / f"{case}.safetensors")
    inputs = (expected.pop("states"), expected.pop("anchors").tolist(), expected.pop("first_tokens"))
    ours = drafted_by_us(FIXTURES / case, *inputs)
    assert expected.keys() == ours.keys() - {"hidden"}
    assert torch.equal(ours["tokens"], expected["tokens"])
    for name in expected.keys() - {"tokens"}:
        torch.testing.assert_close(ours[name], expected[name], **TOLERANCE)
    served, confidence = served_by_us(FIXTURES / case, *inputs)
    assert torch.equal(served, expected["tokens"])
    if "confidence_logits" in expected:
        torch.testing.assert_close(confidence, expected["confidence_logits"], **TOLERANCE)
    assert float(expected["logits"].std()) > 0.5  # a fixture of equal logits would prove nothing


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_of_the_reference_is_saved_as_it_was(case: str, tmp_path: Path) -> None:
    DSparkModel.load(FIXTURES / case).save(tmp_path)
    theirs, ours = (load_file(folder / "model.safetensors") for folder in (FIXTURES / case, tmp_path))
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype, name
        assert torch.equal(ours[name], value), name
