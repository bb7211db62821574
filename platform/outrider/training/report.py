"""`outrider draft report`: an evaluation as tables to read and plots to look at."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from outrider.errors import MissingExtra
from outrider.training import plots
from outrider.training.acceptance import threshold_sweep
from outrider.training.artifacts import Artifact, Manifest
from outrider.training.calibrate import FIGURES, STATES, played_rounds
from outrider.training.drafter_eval import EVALUATION
from outrider.training.recipe import Recipe
from outrider.training.storage import write_json
from outrider.training.subject import open_subject

__all__ = ["acceptance_table", "describe", "report_stage"]

REPORT = "report.md"
THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(10))


def report_stage(recipe: Recipe, *, variant: str = "", labels: Sequence[str] = (), restart: bool = False) -> Manifest:
    """Make `report/`: report.md, report.json and PNG plots from the evaluation, further ones by label, and calibration.

    Plots need matplotlib; without it they are left out, and that is said. Raises ArtifactMissing without an evaluation,
    ArtifactMismatch for evaluations or a calibration of different drafters, or of another target.
    """
    evaluations = [Artifact(recipe.output, "evaluation", variant, label) for label in ("", *labels)]
    calibration = Artifact(recipe.output, "calibration", variant)
    made = {"drafter": evaluations[0].require_from(open_subject(recipe).inputs).inputs["drafter"]}  # of one drafter
    inputs = {each.directory.name: each.require_from(made).hash for each in evaluations}
    if calibration.manifest() is not None:
        inputs["calibration"] = calibration.require_from(made).hash
    artifact = Artifact(recipe.output, "report", variant)
    if not artifact.begin(inputs, {"labels": list(labels)}, restart=restart):
        return artifact.require()
    contents = [json.loads(each.check_content(EVALUATION).read_text("utf-8")) for each in evaluations]
    figures = None
    if "calibration" in inputs:
        figures = json.loads(calibration.check_content(FIGURES).read_text("utf-8"))
    sweep = _sweep(evaluations[0], contents[0])
    drawn = _draw(artifact, contents[0], figures, sweep)
    titles = ["held-out prompts", *labels]
    (artifact.directory / REPORT).write_text(_markdown(titles, contents, figures, drawn), encoding="utf-8")
    tables = {title: _tables(content) for title, content in zip(titles, contents, strict=True)}
    machine = {"evaluations": tables, "thresholds": sweep, "calibration": figures}
    write_json(artifact.directory / "report.json", machine)
    return artifact.finish({"plots": len(drawn), "evaluations": len(contents)})


def describe(name: str, about: dict[str, Any]) -> str:
    """A method in a few words: kind, head, layers, γ, and its loss where that is not DSpark's."""
    if "block_size" not in about:  # a baseline, or another model altogether
        return name
    words = [kind_of(about)]
    if about.get("markov_rank") and about.get("markov_head_type", "vanilla") != "vanilla":
        words[0] += f" ({about['markov_head_type']})"
    loss = about.get("loss")
    if loss is not None and loss["tv"] == 0:
        words[0] += " (CE loss)"
    return f"{words[0]} {about['num_hidden_layers']}L γ{about['block_size']}"


def kind_of(about: dict[str, Any]) -> str:
    """DSpark has a sequential head, DFlash none; what has no block size is another model altogether."""
    if "block_size" not in about:
        return "plain model"
    return "DSpark" if about.get("markov_rank") else "DFlash"


def acceptance_table(content: dict[str, Any], temperature: str) -> list[str]:
    """Markdown lines: τ per method and domain, the best of each column in bold."""
    methods, abouts = content["temperatures"][temperature]["methods"], content["methods"]
    domains = sorted({domain for each in methods.values() for domain in each["domains"]})
    best = {d: max(each["domains"][d]["tau"] for each in methods.values() if d in each["domains"]) for d in domains}
    best_macro = max(each["macro_tau"] for each in methods.values() if each["macro_tau"] is not None)
    lines = [
        "| method | " + " | ".join(domains) + " | macro (95 %) | accepted ÷ verified |",
        "|---" * (len(domains) + 3) + "|",
    ]
    for name, each in methods.items():
        cells = [_bold(f"{each['domains'][d]['tau']:.2f}", each["domains"][d]["tau"] == best[d]) for d in domains]
        low, high = each["macro_tau_interval"]
        macro = _bold(f"{each['macro_tau']:.2f}", each["macro_tau"] == best_macro)
        share = each["all"]["accepted_per_verified"]
        shown = "–" if share is None else f"{100 * share:.0f} %"
        title = describe(name, abouts.get(name, {}))
        label = title if title == name else f"{title} (`{name}`)"
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {macro} ({low:.2f}–{high:.2f}) | {shown} |")
    return lines


def _titles(content: dict[str, Any]) -> dict[str, str]:
    """A description of every method; those that share one are told apart by their names."""
    plain = {name: describe(name, about) for name, about in content["methods"].items()}
    shared = {title for title in plain.values() if list(plain.values()).count(title) > 1}
    return {name: f"{title}, {name}" if title in shared else title for name, title in plain.items()}


def _bold(text: str, wanted: bool) -> str:
    return f"**{text}**" if wanted else text


def _tables(content: dict[str, Any]) -> dict[str, Any]:
    """τ with intervals, ratios of the first method to the others, and slots, for machines."""
    found: dict[str, Any] = {}
    for temperature, part in content["temperatures"].items():
        methods = part["methods"]
        first = next(iter(methods.values()))
        found[temperature] = {
            name: {
                "method": describe(name, content["methods"].get(name, {})),
                "tau": {d: each["domains"][d]["tau"] for d in each["domains"]},
                "tau_interval": {d: each["domains"][d]["tau_interval"] for d in each["domains"]},
                "macro_tau": each["macro_tau"],
                "macro_tau_interval": each["macro_tau_interval"],
                "first_over_this": first["macro_tau"] / each["macro_tau"],
                "accepted_per_verified": each["all"]["accepted_per_verified"],
                "conditional": each["all"]["conditional"],
                "conditional_by_domain": {d: each["domains"][d]["conditional"] for d in each["domains"]},
                "survival": each["all"]["survival"],
            }
            for name, each in methods.items()
        }
    return found


def _sweep(evaluation: Artifact, content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """temperature → domain → the drafter's threshold sweep; empty for a drafter without a confidence head."""
    name, about = next(iter(content["methods"].items()))
    if not about.get("enable_confidence_head"):
        return {}
    domains = np.array(content["domain_of_prompt"])
    found: dict[str, dict[str, Any]] = {}
    for temperature, rounds in played_rounds(evaluation, name):
        parts = {each: rounds.of(np.flatnonzero(domains == each).tolist()) for each in sorted({*domains.tolist()})}
        found[f"{temperature:g}"] = {
            domain: threshold_sweep(part, THRESHOLDS) for domain, part in parts.items() if len(part.run)
        }
    return found


def _draw(
    artifact: Artifact, content: dict[str, Any], figures: dict[str, Any] | None, sweep: dict[str, dict[str, Any]]
) -> list[tuple[str, str]]:
    """The plots that the evaluation has enough for: (file, what it shows)."""
    drawn: list[tuple[str, str]] = []
    titles = _titles(content)
    try:
        plots.conditional_plot(content, titles, artifact.directory / "conditional.png")
        drawn.append(("conditional.png", "Conditional acceptance along the block: slot k, given all slots before it"))
        if plots.block_size_plot(_families(content, "block_size"), artifact.directory / "block-size.png"):
            drawn.append(("block-size.png", "Acceptance length against block size"))
        if plots.depth_plot(_families(content, "num_hidden_layers"), artifact.directory / "depth.png"):
            drawn.append(("depth.png", "Acceptance length against the drafter's depth"))
        if sweep:
            plots.threshold_plot(sweep, artifact.directory / "threshold.png")
            drawn.append(("threshold.png", "Draft tokens per round when blocks are cut at a confidence"))
        if figures:
            plots.reliability_plot(figures, artifact.directory / "reliability.png")
            drawn.append(("reliability.png", "Reliability of prefix survival: before, after temperatures, with maps"))
    except MissingExtra as error:
        print(f"no plots: {error.message}", file=sys.stderr)
    return drawn


def _families(content: dict[str, Any], axis: str) -> plots.Panels:
    """Panel (domain and temperature, macro τ last) → family → points, of methods alike in everything but `axis`."""
    gamma = next(iter(content["methods"].values())).get("block_size")
    found: dict[str, dict[str, list[plots.Point]]] = {}
    for temperature, part in content["temperatures"].items():
        for name, each in part["methods"].items():
            about = content["methods"].get(name, {})
            if "block_size" not in about or each["macro_tau"] is None:
                continue
            if axis == "num_hidden_layers" and about["block_size"] != gamma:
                continue  # depth is compared at the first drafter's block size
            taus = {domain: (figures["tau"], *figures["tau_interval"]) for domain, figures in each["domains"].items()}
            for domain, tau in {**taus, "macro": (each["macro_tau"], *each["macro_tau_interval"])}.items():
                families = found.setdefault(f"{domain}, T = {temperature}", {})
                families.setdefault(_family(about, axis), []).append((about[axis], *tau))
    return {panel: {label: sorted(points) for label, points in each.items()} for panel, each in found.items()}


def _family(about: dict[str, Any], axis: str) -> str:
    """In words, all of a method but what `axis` says."""
    kind, head, loss = kind_of(about), about.get("markov_head_type", "vanilla"), about.get("loss") or {}
    words = [kind]
    if about.get("markov_rank") and head != "vanilla":
        words.append(f"({head})")
    if loss.get("tv", 1) == 0:
        words.append("CE loss")
    words.append(f"{about['num_hidden_layers']} layers" if axis == "block_size" else f"γ = {about['block_size']}")
    return " ".join(words) + (f", {about['steps']:,} steps" if about.get("steps") else "")


def _markdown(
    titles: Sequence[str],
    contents: Sequence[dict[str, Any]],
    figures: dict[str, Any] | None,
    drawn: Sequence[tuple[str, str]],
) -> str:
    lines = [f"# Drafters of {contents[0]['target']}", ""]
    lines += ["τ is tokens per round after the first token, the bonus token included, with whole blocks verified under"]
    lines += ["the coupled rule. Intervals are 95 % bootstrap intervals over prompts.", ""]
    for title, content in zip(titles, contents, strict=True):
        for temperature, part in content["temperatures"].items():
            prompts = ", ".join(f"{domain} {count}" for domain, count in content["prompts"].items())
            lines += [f"## τ at temperature {temperature}, {title}", ""]
            lines += acceptance_table(content, temperature)
            out = sum(part["degenerate"].values())
            lines += ["", f"Prompts: {prompts}; {out} left out because the answer repeats itself (zlib ratio above "
                      f"{content['degenerate_ratio']:g}).", ""]  # fmt: skip
            lines += _slot_table(content, part)
    if figures:
        lines += [
            "## Calibration of prefix survival",
            "",
            "Judged on prompts that nothing was fitted on. After: sequential temperature scaling; mapped: and then a",
            "monotone map of survival per slot.",
        ]
        lines += ["", *_calibration_table(figures), ""]
    for file, caption in drawn:
        lines += [f"## {caption}", "", f"![{caption}]({file})", ""]
    return "\n".join(lines)


def _slot_table(content: dict[str, Any], part: dict[str, Any]) -> list[str]:
    """Conditional acceptance per slot, in percent."""
    widest, titles = max(each["block_size"] for each in part["methods"].values()), _titles(content)
    lines = ["Conditional acceptance per slot (%):", ""]
    lines += ["| method | " + " | ".join(map(str, range(1, widest + 1))) + " |", "|---" * (widest + 1) + "|"]
    for name, each in part["methods"].items():
        if "all" not in each:
            continue
        shares = each["all"]["conditional"] + [None] * (widest - each["block_size"])
        cells = ["–" if share is None else f"{100 * share:.0f}" for share in shares]
        lines.append(f"| {titles[name]} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _calibration_table(figures: dict[str, Any]) -> list[str]:
    lines = ["| class | figure | " + " | ".join(f"slot {k}" for k in range(1, _slots(figures) + 1)) + " | mean |"]
    lines.append("|---" * (_slots(figures) + 3) + "|")
    for kind, each in figures.items():
        rows = [("T", [*each["temperatures"], None], "{:.2f}")]
        states = [when for when in STATES if when in each]
        for when in states:
            rows.append((f"ECE {when} (%)", _percent([*each[when]["ece"], each[when]["mean_ece"]]), "{:.1f}"))
        last = each[states[-1]]
        rows.append(("ECE by chance (%)", _percent([*last["floor"], last["mean_floor"]]), "{:.1f}"))
        for when in states:
            rows.append((f"AUC {when}", [*each[when]["auc"], each[when]["mean_auc"]], "{:.3f}"))
        for when in states:
            rows.append((f"Brier {when}", [*each[when]["brier"], each[when]["mean_brier"]], "{:.3f}"))
        for label, values, form in rows:
            cells = ["" if value is None else form.format(value) for value in values]
            lines.append(f"| {kind} | {label} | " + " | ".join(cells) + " |")
    return lines


def _slots(figures: dict[str, Any]) -> int:
    return max(len(each["temperatures"]) for each in figures.values())


def _percent(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else 100 * value for value in values]
