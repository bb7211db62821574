"""What a joint choice of model, depth and batch class is worth: python load_tests/choice.py, beside a running server.

Arms are policies, applied to the server one after another: one model at one depth for everybody, and the joint policy.
The load is the one at which the best of the former keeps about three quarters of the service levels; there the joint
policy takes turns with the best depth of each model.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from outrider.bench.goodput import Goodput
from outrider.bench.report import Report, Table
from outrider.bench.setup import surroundings
from outrider.bench.spread import Say, Spread, ratios
from outrider.errors import ConfigurationError
from scenario import Scenario
from showing import show
from traffic import Level, clients_of, drive

__all__ = ["main", "measure", "single"]

HERE = Path(__file__).parent
JOINT = "joint"
TUNED_TO = 0.75
SETTLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """One repetition of one arm at one load."""

    attainment: float
    usd_per_request: float
    kept_by_class: Mapping[str, float]
    models: Mapping[str, float]


def single(policy: Mapping[str, Any], model: str, depth: int) -> dict[str, Any]:
    """The policy with everything of the joint choice taken out: one model, one depth and one class for everybody."""
    plain = deepcopy(dict(policy))
    plain["routes"] = []
    plain["routing"] = {**plain.get("routing", {}), "depth_caps": sorted({0, depth})}
    for tier in plain["tiers"].values():
        tier |= {"batch_class": "balanced", "min_depth": depth, "max_depth": depth}
        tier.pop("also_batch_classes", None)
    for tenant in plain["tenants"].values():
        tenant["models"] = [model]
    return plain


def measure(
    scenario: Scenario, policy: Mapping[str, Any], depths: Sequence[int], url: str, repetitions: int, say: Say
) -> Report:
    """Tune the single-model policies over the scenario's loads, then drive each model's best and the joint one in turn.

    Raises ConfigurationError where a policy is not taken.
    """
    singles = {model: [f"{model}, depth {depth}" for depth in depths] for model in policy["models"]}
    policies = {
        name: single(policy, model, depth)
        for model, names in singles.items()
        for name, depth in zip(names, depths, strict=True)
    }
    tuning: dict[float, dict[str, Run]] = {}
    for load in scenario.arrivals.loads:
        tuning[load] = {}
        for name, each in policies.items():
            say(f"tuning: {name} at {scenario.arrivals.label(load)}")
            tuning[load][name] = _run(scenario, each, name, load, scenario.seed, url)
    load = min(tuning, key=lambda each: abs(max(run.attainment for run in tuning[each].values()) - TUNED_TO))
    best = [max(names, key=lambda name: tuning[load][name].attainment) for names in singles.values()]
    arms = {name: policies[name] for name in best} | {JOINT: dict(policy)}
    runs: dict[str, list[Run]] = {name: [] for name in arms}
    for turn in range(repetitions):
        for name, each in arms.items():
            say(f"{name} at {scenario.arrivals.label(load)}: {turn + 1} of {repetitions}")
            runs[name].append(_run(scenario, each, name, load, scenario.seed + 1 + turn, url))
    parameters = {"repetitions": repetitions, "depths": list(depths), "tuned_to": TUNED_TO}
    parameters |= {"scenario": scenario.model_dump(mode="json", exclude_defaults=True)}
    report = Report("choice", {"url": url, **surroundings()}, parameters)
    report.tables = [_tuning_table(scenario, tuning), *_arm_tables(scenario, load, runs)]
    return report


def _tuning_table(scenario: Scenario, tuning: Mapping[float, Mapping[str, Run]]) -> Table:
    table = Table(
        "tuning: service levels kept by everybody on one model at one depth, %", ("load", *tuning[min(tuning)])
    )
    for load, runs in tuning.items():
        table.add(scenario.arrivals.label(load), *(100 * run.attainment for run in runs.values()))
    return table


def _arm_tables(scenario: Scenario, load: float, runs: Mapping[str, list[Run]]) -> Iterator[Table]:
    whole = Table(
        f"each model's best and the joint choice, {scenario.arrivals.label(load)}",
        ("arm", "kept %", "joint's kept %, less its own", "USD per 1,000 requests", "joint's cost ÷ its own"),
    )
    for name, repeated in runs.items():
        usd, kept = [run.usd_per_request for run in repeated], [100 * run.attainment for run in repeated]
        more = [100 * joint.attainment - each for joint, each in zip(runs[JOINT], kept, strict=True)]
        cheaper = ratios([joint.usd_per_request for joint in runs[JOINT]], usd)
        whole.add(name, Spread.of(kept), Spread.of(more), Spread.of([1e3 * each for each in usd]), cheaper)
    yield whole
    parts = Table("kept by class, %, and who answered", ("arm", *scenario.classes, *(f"by {m}" for m in _models(runs))))
    for name, repeated in runs.items():
        by_class = (Spread.of([100 * run.kept_by_class[each] for run in repeated]) for each in scenario.classes)
        by = (Spread.of([100 * run.models.get(each, 0.0) for run in repeated]) for each in _models(runs))
        parts.add(name, *by_class, *by)
    yield parts


def _models(runs: Mapping[str, list[Run]]) -> list[str]:
    return sorted({model for repeated in runs.values() for run in repeated for model in run.models})


def _run(scenario: Scenario, policy: Mapping[str, Any], name: str, load: float, seed: int, url: str) -> Run:
    _apply(policy, name, url)
    level = asyncio.run(_driven(scenario, load, seed, url))
    slos = {each: traffic.slo.slo for each, traffic in scenario.classes.items()}

    def kept(of: Level) -> float:
        return Goodput.of([(seen.outcome, slos[seen.traffic]) for seen in of.seen], of.counted_s).attainment or 0.0

    usd = sum((seen.streamed.usage.get("outrider") or {}).get("cost_usd") or 0.0 for seen in level.seen)
    answered = [seen.outcome.model for seen in level.seen if seen.outcome.model]
    return Run(
        kept(level),
        usd / len(level.seen),
        {each: kept(level.of(each)) for each in slos},
        {model: answered.count(model) / len(answered) for model in set(answered)},
    )


async def _driven(scenario: Scenario, load: float, seed: int, url: str) -> Level:
    await asyncio.sleep(SETTLE_S)
    async with clients_of(scenario, url, "") as clients:
        return await drive(clients, scenario, load, seed)


def _apply(policy: Mapping[str, Any], name: str, url: str) -> None:
    """Put a policy in force, as an operator would. Raises ConfigurationError with what was said against it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "arm.yaml"
        file.write_text(yaml.safe_dump(dict(policy), sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "outrider", "policy", "apply", str(file), "--url", url, "--yes"]
        done = subprocess.run([*command, "--reason", f"load test: {name}"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigurationError(f"the server did not take the policy of '{name}': {done.stderr.strip()}")


def main(
    scenario: Annotated[Path, typer.Argument(help="Scenario YAML.")] = HERE / "scenarios" / "choice.yaml",
    policy: Annotated[Path, typer.Option(help="The joint policy.")] = HERE / "choice.yaml",
    url: Annotated[str, typer.Option(help="Where the platform answers.")] = "http://127.0.0.1:8000",
    depth: Annotated[list[int], typer.Option(help="Depths to tune over.")] = [0, 7],  # noqa: B006
    repetitions: Annotated[int, typer.Option(min=1, help="Of the two arms, in turn, after tuning.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON form to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Tune, compare, print."""

    def measured(say: Say) -> Report:
        joint = yaml.safe_load(policy.read_text(encoding="utf-8"))
        return measure(Scenario.load(scenario), joint, depth, url, repetitions, say)

    show("choice", measured, out, as_json=as_json, width=150)


if __name__ == "__main__":
    typer.run(main)
