"""A drafter of one token per block: kept without its frozen matrices, made whole, and run by the engine at depth 1."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from outrider import demo_models
from outrider.bench.one_token import keep_trained, make_whole
from outrider.bench.prompts import held_out_prompts
from outrider.bench.reference import Reference
from outrider.bench.setup import UNTRIMMED, requests_for
from outrider.drafter.loading import read_tensors
from outrider.drafter.model import DSparkModel
from outrider.errors import ConfigurationError, DrafterMismatch, ModelDirectoryError
from outrider.local import open_engine
from outrider.training.recipe import DrafterSection
from outrider.training.warm_start import new_drafter
from support.tiny import TinyPair, make_target, reference

SHIPPED = Path(__file__).resolve().parents[2] / "load_tests" / "drafters"


@pytest.fixture
def drafter(pair: TinyPair, tmp_path: Path) -> Path:
    """As training writes it: frozen copies of the target's matrices among its tensors."""
    section = DrafterSection(layers=1, block_size=1, target_layer_ids=(0, 1), markov_rank=8)
    new_drafter(reference(pair.target), section, 96).save(tmp_path / "drafter", torch.float32)
    return tmp_path / "drafter"


def test_what_is_left_out_comes_back_to_the_bit(pair: TinyPair, drafter: Path, tmp_path: Path) -> None:
    kept = keep_trained(drafter, tmp_path / "kept")
    before, part = read_tensors(drafter), read_tensors(kept)
    assert before.keys() - part.keys() == {"embed_tokens.weight", "lm_head.weight"}
    after = read_tensors(make_whole(kept, pair.target, tmp_path / "whole"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_target_s_matrices_are_refused(pair: TinyPair, drafter: Path, tmp_path: Path) -> None:
    kept = keep_trained(drafter, tmp_path / "kept")
    with pytest.raises(DrafterMismatch, match="other embeddings"):
        make_whole(kept, make_target(tmp_path / "other", seed=5), tmp_path / "whole")
    with pytest.raises(ConfigurationError, match="exists"):
        make_whole(kept, pair.target, kept)
    (kept / "frozen.json").unlink()
    with pytest.raises(ModelDirectoryError, match=r"frozen\.json"):
        make_whole(kept, pair.target, tmp_path / "whole")


@pytest.mark.parametrize("name", ["pro"])
def test_the_shipped_one_runs_at_depth_one(name: str, tmp_path: Path) -> None:
    """Eager and compiled: the stock model's answers, in rounds of one draft, most of which are accepted."""
    target = demo_models.path(name)
    drafter = make_whole(SHIPPED / f"{name}-one-token", target, tmp_path / "whole")
    assert DSparkModel.load(drafter).config.block_size == 1
    prompts = [prompt.tokens for prompt in held_out_prompts(target, 6, max_tokens=32)]
    expected = Reference(target, dtype=torch.float32, device="cpu")
    with open_engine(target, drafter, curve=UNTRIMMED) as local:
        done = local.generate(requests_for(prompts, 32))
    records = []
    for prompt, completion in zip(prompts, done, strict=True):
        assert completion.tokens == expected.greedy([prompt], 32).tokens[0]
        assert completion.summary is not None
        records += completion.summary.round_records
    assert {admitted for admitted, _ in records} <= {0, 1}
    accepted = sum(accepted for _, accepted in records)
    assert accepted > 0.6 * sum(admitted for admitted, _ in records) > 0
