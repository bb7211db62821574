"""Recipe fields set from the command line, and the report: its table and its plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from outrider.errors import RecipeError
from outrider.training import plots
from outrider.training.overrides import override
from outrider.training.recipe import DrafterSection, PromptsSection, Recipe, TrainingSection
from outrider.training.report import _families, acceptance_table, describe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(
        target=tmp_path / "target",
        output=tmp_path / "out",
        prompts=PromptsSection(files=(tmp_path / "p.jsonl",)),
        drafter=DrafterSection(target_layer_ids=(0, 1), markov_rank=8),
        training=TrainingSection(steps=4),
    )


def test_overrides_change_one_field_each_and_keep_the_rest(recipe: Recipe) -> None:
    changed = override(
        recipe, ["drafter.kind=dflash", "training.loss.ce=1", "evaluation.compare=[/a/b, /c]", "training.steps=9"]
    )
    assert (changed.drafter.kind, changed.drafter.markov_rank, changed.drafter.confidence) == ("dflash", 0, False)
    assert changed.training.loss.ce == 1.0
    assert changed.training.loss.tv == recipe.training.loss.tv
    assert changed.evaluation.compare == (Path("/a/b"), Path("/c"))
    assert changed.training.steps == 9
    assert changed.prompts == recipe.prompts


def test_an_override_leaves_every_other_value_as_it_was(recipe: Recipe) -> None:
    assert override(recipe, ["seed=8"]) == recipe.model_copy(update={"seed": 8})
    odd = override(recipe, ["training.learning_rate=0.00001", "answers.drafter='/a b/ü: c'", "evaluation.compare=[x]"])
    assert odd.answers.drafter == Path("/a b/ü: c")
    assert odd.evaluation.compare == (Path.cwd() / "x",)
    assert override(odd, ["seed=8"]).training == odd.training


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("training.steps", "FIELD=VALUE"),
        ("training.stpes=3", "unknown field 'stpes'; did you mean 'steps'"),
        ("trainings.steps=3", "unknown section 'trainings'; did you mean 'training'"),
        ("=3", "FIELD=VALUE"),
        ("drafter=3", "drafter: expected a mapping"),
        ("training.steps=many", "training.steps: expected a whole number, got text 'many'"),
        ("training.steps=1.5", "training.steps: expected a whole number"),
        ("training.learning_rate=-1", "training.learning_rate"),
        ("training.loss={ce: 0, tv: 0}", "training.loss: ce and tv are both 0"),
        ("drafter.target_layer_ids=[1, 0]", "drafter.target_layer_ids: must ascend"),
        ("drafter.markov_rank=0", "kind: dflash"),
        ("drafter.kind=dsparc", "did you mean 'dspark'"),
        ("evaluation.compare=somewhere", "evaluation.compare: expected a list"),
        ("training.steps=[", "YAML"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(recipe: Recipe, change: str, named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        override(recipe, [change])


def _evaluation() -> dict[str, Any]:
    def method(tau: float, gamma: int) -> dict[str, Any]:
        slots = {"conditional": [0.8] * gamma, "conditional_rounds": [100] * gamma, "survival": [0.5] * gamma}
        domain = {"tau": tau, "tau_interval": [tau - 0.1, tau + 0.1], "accepted_per_verified": 0.5, **slots}
        macro = {"macro_tau": tau, "macro_tau_interval": [tau - 0.1, tau + 0.1]}
        return {"block_size": gamma, "domains": {"code": domain}, "all": domain, **macro}

    about = {"num_hidden_layers": 2, "block_size": 7, "markov_rank": 8, "markov_head_type": "vanilla"}
    return {
        "target": "tiny",
        "prompts": {"code": 3},
        "degenerate_ratio": 4.0,
        "methods": {"drafter": about, "flat": about | {"markov_rank": 0}, "long": about | {"block_size": 15}},
        "temperatures": {
            "0": {
                "degenerate": {"code": 1},
                "methods": {"drafter": method(3.5, 7), "flat": method(3.0, 7), "long": method(3.75, 15)},
            }
        },
    }


def test_the_table_names_methods_and_marks_the_best() -> None:
    lines = acceptance_table(_evaluation(), "0")
    assert lines[2].startswith("| DSpark 2L γ7 (`drafter`) | 3.50 | 3.50 (3.40–3.60) | 50 % |")
    assert "DFlash 2L γ7" in lines[3]
    assert "**3.75**" in lines[4]
    assert "**" not in lines[2] + lines[3]
    assert describe("x", {"num_hidden_layers": 5, "block_size": 7, "markov_rank": 0,
                          "loss": {"ce": 1.0, "tv": 0.0}}) == "DFlash (CE loss) 5L γ7"  # fmt: skip
    assert describe("plain-model", {"num_hidden_layers": 4, "bytes": 1}) == "plain-model"


def test_lines_join_what_is_alike_in_all_but_the_axis_in_a_panel_per_domain() -> None:
    panels = _families(_evaluation(), "block_size")
    assert list(panels) == ["code, T = 0", "macro, T = 0"]
    for each in panels.values():
        assert [point[:2] for point in each["DSpark 2 layers"]] == [(7, 3.5), (15, 3.75)]
        assert [point[:2] for point in each["DFlash 2 layers"]] == [(7, 3.0)]
    by_depth = _families(_evaluation(), "num_hidden_layers")["macro, T = 0"]
    assert {label: [point[0] for point in points] for label, points in by_depth.items()} == {
        "DSpark γ = 7": [2],
        "DFlash γ = 7": [2],
    }


def test_plots_are_drawn_where_there_is_enough_to_draw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    content = _evaluation()
    plots.conditional_plot(content, {}, tmp_path / "a.png")
    points = {"0": {"DSpark": [(7, 3.5, 3.4, 3.6), (15, 3.7, 3.6, 3.8)], "DFlash": [(7, 3.0, 2.9, 3.1)]}}
    assert plots.block_size_plot(points, tmp_path / "b.png")
    assert not plots.block_size_plot({"0": {"DFlash": [(7, 3.0, 2.9, 3.1)]}}, tmp_path / "c.png")
    assert not plots.depth_plot({"0": {"DFlash": [(2, 3.0, 2.9, 3.1)]}}, tmp_path / "c.png")
    half: dict[str, Any] = {"ece": [0.1], "reliability": [[(0.2, 0.25, 40), (0.8, 0.7, 60)]]}
    states = {"temperatures": [1.0], "before": half, "after": half}
    plots.reliability_plot({"greedy": states, "sampled": states | {"mapped": half}}, tmp_path / "d.png")
    plots.loss_plot([{"step": 1, "loss": 2.0, "surprise": 3.0, "overlap": 0.1, "match": 0.1}], tmp_path / "e.png")
    sweep = [{"threshold": 0.1 * k, "accepted": 2.0, "rejected": 1.0, "accepted_per_verified": 0.67} for k in range(9)]
    nothing = {"threshold": 0.9, "accepted": 0.0, "rejected": 0.0, "accepted_per_verified": None}
    plots.threshold_plot({"0": {"code": [*sweep, nothing], "prose": sweep}, "1": {"code": sweep}}, tmp_path / "f.png")
    for name in "abdef":
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000
    assert not (tmp_path / "c.png").exists()
