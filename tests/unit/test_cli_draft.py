"""`outrider draft`: what a person sees of the data stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from outrider.cli.draft import app
from outrider.errors import ConfigurationError, DrafterMismatch
from outrider.training.recipe import load_recipe
from outrider.training.sketch import tapped_layers
from support.workshop import make_workshop

RUN = CliRunner()


def test_init_writes_a_recipe_that_the_stages_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_workshop(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = ["init", "--target", "target", "--prompts", "prompts.jsonl", "--recipe", "new/mine.yaml"]
    said = RUN.invoke(app, arguments, catch_exceptions=False)
    assert "next: outrider draft prepare --recipe new/mine.yaml" in said.output
    recipe = load_recipe("new/mine.yaml")
    assert recipe.target == tmp_path / "target"
    assert recipe.prompts.files == (tmp_path / "prompts.jsonl",)
    assert recipe.output == tmp_path / "drafts/target"
    assert recipe.drafter.target_layer_ids == (-1, 0, 1)
    assert recipe.drafter.mask_token == "<|mask|>"
    text = Path("new/mine.yaml").read_text().replace("heldout_percent: 4 ", "heldout_percent: 25 ")
    Path("new/mine.yaml").write_text(text)
    done = RUN.invoke(app, ["prepare", "--recipe", "new/mine.yaml", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["figures"]["records"] == 40
    with pytest.raises(ConfigurationError, match="exists"):
        RUN.invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize(("flag", "value"), [("--target", "none"), ("--prompts", "none.jsonl")])
def test_init_refuses_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, value: str) -> None:
    make_workshop(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = {"--target": "target", "--prompts": "prompts.jsonl", "--recipe": "new.yaml"} | {flag: value}
    with pytest.raises(ConfigurationError, match="none"):
        RUN.invoke(app, ["init", *(word for pair in arguments.items() for word in pair)], catch_exceptions=False)
    assert not Path("new.yaml").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "'llama' has no DSpark drafters; there are"),
        ({"hidden_act": "relu"}, "type 'qwen3' cannot be made from its config.json: hidden_act"),
    ],
)
def test_init_refuses_a_target_that_no_drafter_is_made_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    """At once, and not after the target has answered everything."""
    make_workshop(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = Path("target/config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(DrafterMismatch, match=said):
        RUN.invoke(
            app,
            ["init", "--target", "target", "--prompts", "prompts.jsonl", "--recipe", "new.yaml"],
            catch_exceptions=False,
        )
    assert not Path("new.yaml").exists()


@pytest.mark.parametrize(
    ("layers", "tapped"),
    [(36, [1, 9, 17, 25, 33]), (40, [1, 10, 19, 28, 37]), (4, [0, 1, 2]), (6, [0, 2, 4]), (2, [-1, 0]), (1, [-1])],
)
def test_layers_are_tapped_like_those_of_released_drafters(layers: int, tapped: list[int]) -> None:
    assert tapped_layers(layers) == tapped


def test_the_last_layer_is_never_tapped() -> None:
    for layers in range(1, 130):
        chosen = tapped_layers(layers)
        assert chosen == sorted(set(chosen))
        assert -1 <= chosen[0] <= chosen[-1] < max(layers - 1, 0)


def test_all_stages_print_figures_and_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = str(make_workshop(tmp_path))
    for stage, word in (("prepare", "licenses: unknown 40"), ("regenerate", "response_tokens"), ("cache", "shards: 1")):
        done = RUN.invoke(app, [stage, "--recipe", recipe], catch_exceptions=False)
        assert done.exit_code == 0
        assert word in done.output

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("outrider.training.cache._plan", interrupted)
    stopped = RUN.invoke(app, ["cache", "--recipe", recipe, "--restart"], catch_exceptions=False)
    assert stopped.exit_code == 130
    assert "resume with the same command" in stopped.output
