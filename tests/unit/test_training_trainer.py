"""The trainer on tiny models: what learns, exact resumption, divergence, every kind of drafter."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.drafter.model import DSparkModel
from outrider.errors import TrainingDiverged
from outrider.training.features import Featured
from outrider.training.journal import read_journal
from outrider.training.recipe import DrafterSection, LossSection, TrainingSection
from outrider.training.trainer import Trainer, train
from outrider.training.warm_start import new_drafter
from support.engines import prompts
from support.featured import featured
from support.tiny import make_target, reference

SETTINGS = TrainingSection(steps=8, anchors_per_conversation=6, anchors_per_step=16, precision="fp32", warmup=0.25)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def conversations(target: Path) -> list[Featured]:
    return featured(target, prompts(12, 90, (3, 8, 5)))


def drafter_for(target: Path, **section: Any) -> DSparkModel:
    wanted = {"layers": 2, "block_size": 4, "target_layer_ids": (0, 1), "markov_rank": 8, **section}
    return new_drafter(reference(target), DrafterSection(**wanted), mask_token_id=96)


def settings(**changes: Any) -> TrainingSection:
    return SETTINGS.model_copy(update=changes)


@pytest.mark.parametrize(
    "section",
    [{}, {"markov_head": "gated"}, {"markov_head": "rnn"}, {"kind": "dflash"}, {"layers": 5}, {"block_size": 9}],
    ids=["vanilla", "gated", "rnn", "dflash", "deeper-than-target", "long"],
)
def test_every_kind_learns_and_only_what_is_trained_changes(
    target: Path, conversations: list[Featured], section: dict[str, Any], tmp_path: Path
) -> None:
    drafter = drafter_for(target, **section)
    before = {name: each.clone() for name, each in drafter.state_dict().items()}
    ce_only = LossSection(ce=1.0, tv=0.0) if section.get("kind") == "dflash" else LossSection()
    train(Trainer(drafter, conversations, settings(steps=30, loss=ce_only)), tmp_path / "ckpt", tmp_path)
    losses = [line["loss"] for line in read_journal(tmp_path)]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])
    for name, each in drafter.state_dict().items():
        frozen = name in ("embed_tokens.weight", "lm_head.weight")
        assert torch.equal(each, before[name]) == frozen, name


def test_a_resumed_run_equals_an_uninterrupted_one(target: Path, conversations: list[Featured], tmp_path: Path) -> None:
    whole, cut = drafter_for(target), drafter_for(target)
    straight = Trainer(whole, conversations, settings(accumulation=2))
    train(straight, tmp_path / "a.ckpt", tmp_path / "a")

    first = Trainer(cut, conversations, settings(accumulation=2, checkpoint_s=1e-6))
    take = first.take_step

    def interrupted(pool: ThreadPoolExecutor) -> dict[str, float]:
        if first.step == 3:
            raise KeyboardInterrupt
        return take(pool)

    first.take_step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train(first, tmp_path / "b.ckpt", tmp_path / "b")
    (tmp_path / "b" / "losses.jsonl").open("a").write(json.dumps({"step": 4, "loss": -1.0}) + '\n{"step": 5, "lo')

    fresh = drafter_for(target, markov_rank=8)
    with torch.no_grad():
        for parameter in fresh.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    resumed = Trainer(fresh, conversations, settings(accumulation=2))
    train(resumed, tmp_path / "b.ckpt", tmp_path / "b")
    for name, each in fresh.state_dict().items():
        assert torch.equal(each, whole.state_dict()[name]), name
    assert read_journal(tmp_path / "a") == read_journal(tmp_path / "b")


def test_workers_and_accumulation_do_not_change_a_step(target: Path, conversations: list[Featured]) -> None:
    results = []
    for workers in (1, 2):
        trainer = Trainer(drafter_for(target), conversations, SETTINGS)
        trainer._workers = workers
        with ThreadPoolExecutor(workers) as pool:
            figures = trainer.take_step(pool)
        results.append((figures, copy.deepcopy(trainer.drafter.state_dict())))
    (one, weights), (two, others) = results
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    assert one["gradient_norm"] == pytest.approx(two["gradient_norm"], rel=1e-4)
    for name, each in weights.items():
        torch.testing.assert_close(each, others[name], atol=2e-4, rtol=1e-3)


def test_divergence_names_the_step_and_keeps_the_checkpoint(
    target: Path, conversations: list[Featured], tmp_path: Path
) -> None:
    trainer = Trainer(drafter_for(target), conversations, settings(checkpoint_s=1e-6))
    take = trainer.take_step

    def poisoned(pool: ThreadPoolExecutor) -> dict[str, float]:
        if trainer.step == 4:
            with torch.no_grad():
                trainer.drafter.fc.weight[0, 0] = float("nan")
        return take(pool)

    trainer.take_step = poisoned  # type: ignore[method-assign]
    with pytest.raises(TrainingDiverged, match=r"step 5: the loss is nan.*learning_rate"):
        train(trainer, tmp_path / "ckpt", tmp_path)
    saved = torch.load(tmp_path / "ckpt", weights_only=True)
    assert saved["step"] == 4
    assert all(torch.isfinite(each).all() for each in saved["weights"].values())


def test_a_deeper_drafter_starts_as_the_target_it_copied(target: Path) -> None:
    drafter, model = drafter_for(target, layers=5), reference(target)
    for layer, source in zip(drafter.layers, model.model.layers, strict=False):
        assert torch.equal(layer.mlp.up_proj.weight, source.mlp.up_proj.weight)
    for layer in list(drafter.layers)[3:]:
        assert not layer.self_attn.o_proj.weight.any()
        assert not layer.mlp.down_proj.weight.any()


def test_nothing_to_learn_from_is_refused(target: Path, conversations: list[Featured]) -> None:
    short = Featured("a", torch.arange(4), 3, torch.zeros(4, 96).bfloat16(), torch.zeros(4, 48).bfloat16())
    with pytest.raises(ValueError, match="two tokens"):
        Trainer(drafter_for(target), [short], SETTINGS)
