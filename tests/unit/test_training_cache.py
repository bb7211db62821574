"""`outrider draft cache`: the states of the stock model, on disk or on the fly, and every way a cache can be wrong."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.errors import ArtifactBroken, ArtifactMismatch, ArtifactMissing, NotEnoughDisk
from outrider.training import cache as caching
from outrider.training.answers import read_answers
from outrider.training.cache import FeatureCache, cache, open_features
from outrider.training.features import Extractor, Featured
from outrider.training.prepare import prepare
from outrider.training.recipe import Recipe, load_recipe
from outrider.training.regenerate import regenerate
from support.tiny import make_target, reference
from support.workshop import make_workshop, write_recipe

CACHE = {"shard_bytes": 65_536}
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answered")
    recipe = load_recipe(make_workshop(folder, cache=CACHE))
    prepare(recipe)
    regenerate(recipe)
    return folder


@pytest.fixture
def folder(answered: Path, tmp_path: Path) -> Path:
    return shutil.copytree(answered, tmp_path / "shop")


@pytest.fixture
def recipe(folder: Path) -> Recipe:
    return load_recipe(folder / "recipe.yaml")


def shards(recipe: Recipe) -> list[Path]:
    return sorted((recipe.output / "features").glob("*.safetensors"))


def same(left: Featured, right: Featured) -> bool:
    return (left.domain, left.prompt_tokens) == (right.domain, right.prompt_tokens) and all(
        torch.equal(getattr(left, name), getattr(right, name)) for name in ("tokens", "features", "last")
    )


def test_rows_are_the_stock_models_own_states(recipe: Recipe) -> None:
    cache(recipe)
    rows = open_features(recipe)
    answers = read_answers(recipe.output / "answers", "train")
    assert isinstance(rows, FeatureCache)
    assert len(rows) == len(answers) > 20
    assert len(shards(recipe)) > 2
    model = reference(recipe.target)
    for answer, row, size in zip(answers, rows, rows.sizes, strict=True):
        ids = answer.prompt_tokens + answer.response_tokens
        assert row.tokens.tolist() == ids
        assert size == (len(ids), row.prompt_tokens) == (len(ids), len(answer.prompt_tokens))
        assert row.domain == answer.domain
        with torch.no_grad():
            output = model.model(input_ids=row.tokens[None], output_hidden_states=True)
        tapped = torch.cat([output.hidden_states[i][0] for i in (0, 1, 2)], dim=-1)
        assert row.features.dtype == row.last.dtype == torch.bfloat16
        torch.testing.assert_close(row.features.float(), tapped, rtol=0.01, atol=0.02)
        torch.testing.assert_close(row.last.float(), output.last_hidden_state[0], rtol=0.01, atol=0.02)


def test_on_the_fly_is_equal_bit_for_bit_in_any_order(recipe: Recipe, folder: Path) -> None:
    cache(recipe)
    stored = open_features(recipe)
    live_recipe = load_recipe(write_recipe(folder, cache={"mode": "on-the-fly"}))
    with pytest.raises(ArtifactMismatch, match='setting mode was "disk", now "on-the-fly"'):
        open_features(live_recipe)
    manifest = cache(live_recipe, restart=True)
    assert manifest.files == {}
    live = open_features(live_recipe)
    assert list(live.sizes) == list(stored.sizes)
    order = torch.randperm(len(stored)).tolist()
    for index, row in zip(order, live.rows(order), strict=True):
        assert same(row, stored[index])
        assert same(live[index], stored[index])
    assert same(stored[-1], stored.rows([len(stored) - 1])[0])
    with pytest.raises(IndexError):
        stored[len(stored)]


def test_grouping_by_length_gives_the_same_states(recipe: Recipe) -> None:
    conversations = caching.conversations_of(read_answers(recipe.output / "answers", "train"))
    model = reference(recipe.target)
    alone, together = (Extractor(model, (-1, 0, 1), size).run(conversations) for size in (1, 400))
    for one, two in zip(alone, together, strict=True):
        assert torch.equal(one.tokens, two.tokens)
        torch.testing.assert_close(one.features, two.features, rtol=0.01, atol=0.01)
        torch.testing.assert_close(one.last, two.last, rtol=0.01, atol=0.01)


def test_a_second_run_is_up_to_date(recipe: Recipe) -> None:
    first = cache(recipe)
    times = [path.stat().st_mtime_ns for path in shards(recipe)]
    assert cache(recipe) == first
    assert [path.stat().st_mtime_ns for path in shards(recipe)] == times


def test_an_interrupted_cache_goes_on_shard_by_shard(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    real, runs = Extractor.run, 0

    def stopped(self: Extractor, conversations: Any, on_progress: Any = None) -> Any:
        nonlocal runs
        runs += 1
        if runs == 3:
            raise KeyboardInterrupt
        return real(self, conversations, on_progress)

    monkeypatch.setattr(Extractor, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        cache(recipe)
    assert len(shards(recipe)) == 2
    with pytest.raises(ArtifactMissing, match="is not finished; run `outrider draft cache` first"):
        open_features(recipe)
    told: list[str] = []
    manifest = cache(recipe, log=told.append)
    assert "2 of them done" in told[0]
    assert runs == 3 + manifest.figures["shards"] - 2
    monkeypatch.undo()
    assert cache(recipe, restart=True).hash == manifest.hash


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is truncated"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x07"), "other bytes than were written"),
    ],
)
def test_a_damaged_shard_is_named_and_made_again_alone(recipe: Recipe, damage: Any, message: str) -> None:
    made = cache(recipe)
    whole = {path: path.read_bytes() for path in shards(recipe)}
    kept, broken = shards(recipe)[0], shards(recipe)[1]
    before = kept.stat().st_mtime_ns
    damage(broken)
    with pytest.raises(ArtifactBroken, match=f"{broken.name} .*{message}|{broken.name} {message}") as refusal:
        open_features(recipe)
    assert "`outrider draft cache` rebuilds it" in refusal.value.message
    assert cache(recipe).hash == made.hash
    assert kept.stat().st_mtime_ns == before
    assert {path: path.read_bytes() for path in shards(recipe)} == whole


def test_a_cache_from_another_target_tokenizer_or_layers_is_refused(recipe: Recipe, folder: Path) -> None:
    cache(recipe)
    tapped = load_recipe(write_recipe(folder, cache=CACHE, drafter={"target_layer_ids": [0, 1]}))
    for use in (open_features, cache):
        with pytest.raises(ArtifactMismatch, match=r"setting target_layer_ids was \[-1, 0, 1\], now \[0, 1\]"):
            use(tapped)
    make_target(folder / "target", vocab=292, hidden=32, eos=1, layers=3, seed=9)
    with pytest.raises(ArtifactMismatch, match="input target changed"):
        open_features(recipe)
    other = shutil.copytree(folder, folder.with_name("other"))
    (other / "target/chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(ArtifactMismatch, match="input tokenizer changed"):
        open_features(load_recipe(other / "recipe.yaml"))


def test_what_does_not_fit_is_refused_before_anything_is_written(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda _: Usage(2**30, 2**30 - 2**20, 2**20))
    told: list[str] = []
    with pytest.raises(NotEnoughDisk, match=r"needs 0\.\d MiB and 64\.0 MiB to spare, 1\.0 MiB are free"):
        cache(recipe, log=told.append)
    assert "free are 1.0 MiB" in told[0]
    assert shards(recipe) == []
    monkeypatch.undo()
    assert cache(recipe).figures["shards"] > 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_disk_that_fills_up_keeps_finished_shards(recipe: Recipe) -> None:
    (recipe.output / "features").mkdir()
    (recipe.output / "features/shard-00002.safetensors.partial").symlink_to("/dev/full")
    with pytest.raises(NotEnoughDisk, match=r"shard-00002\.safetensors: the disk is full.*Finished shards are kept"):
        cache(recipe)
    assert len(shards(recipe)) == 2
    told: list[str] = []
    cache(recipe, log=told.append)
    assert "2 of them done" in told[0]
    assert len(open_features(recipe)) > 20


def test_the_cache_is_as_large_as_it_said(recipe: Recipe) -> None:
    figures = cache(recipe).figures
    stored = sum(path.stat().st_size for path in shards(recipe))
    assert figures["bytes"] <= stored <= figures["bytes"] + 4096 * figures["shards"]
    assert all(path.stat().st_size < CACHE["shard_bytes"] + 4096 for path in shards(recipe))


def test_without_answers_the_command_to_run_first_is_named(recipe: Recipe) -> None:
    shutil.rmtree(recipe.output / "answers")
    with pytest.raises(ArtifactMissing, match="run `outrider draft regenerate` first"):
        cache(recipe)
