"""`outrider policy check|diff|schema`: what can be said of policy documents without a running platform."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from outrider.errors import OutputNotWritable
from outrider.policy import Policy, PolicyReport, Problem, check_policy, json_schema, load_policy, sentences
from outrider.policy import diff as policy_diff

__all__ = ["check", "diff", "schema"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def check(
    file: Annotated[Path, typer.Argument(help="The platform's YAML, or a directory with platform.yaml and teams/.")],
    teams: Annotated[list[Path] | None, typer.Argument(help="Teams' YAML files, or a directory of them.")] = None,
    as_json: Json = False,
) -> None:
    """Read a policy; say everything that is wrong with it, or what it contains. Exit code 1 when it is refused."""
    report = check_policy(file, teams or (), now_s=time.time())
    if as_json:
        problems, warnings = _as_dicts(report.problems), _as_dicts(report.warnings)
        summary = None if report.policy is None else _summary(report.policy)
        typer.echo(json.dumps({"policy": summary, "problems": problems, "warnings": warnings}, indent=2))
    else:
        _print_report(file, report)
    if report.policy is None:
        raise typer.Exit(1)


def _print_report(file: Path, report: PolicyReport) -> None:
    for problem in report.problems:
        typer.echo(str(problem), err=True)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if report.policy is not None:
        _print_summary(file, report.policy)


def _as_dicts(problems: Sequence[Problem]) -> list[dict[str, object]]:
    return [asdict(problem) for problem in problems]


def _summary(policy: Policy) -> dict[str, object]:
    per_tier = Counter(tenant.tier.name for tenant in policy.tenants.values())
    per_team = Counter(tenant.team for tenant in policy.tenants.values())
    return {
        "version": policy.version,
        "models": {
            name: {
                "input": model.input_usd_per_token * 1e6,
                "cached_input": model.cached_input_usd_per_token * 1e6,
                "output": model.output_usd_per_token * 1e6,
            }
            for name, model in policy.models.items()
        },
        "batch_classes": list(policy.batch_classes),
        "tiers": {name: per_tier[name] for name in policy.tiers},
        "teams": {name: per_team[name] for name in policy.teams},
        "tenants": len(policy.tenants),
        "keys": len(policy.keys),
        "operators": len(policy.operators),
    }


def _print_summary(file: Path, policy: Policy) -> None:
    per_tier = Counter(tenant.tier.name for tenant in policy.tenants.values())
    per_team = Counter(tenant.team for tenant in policy.tenants.values())
    models = (
        f"{name} (${model.input_usd_per_token * 1e6:g} in, ${model.output_usd_per_token * 1e6:g} out per million)"
        for name, model in policy.models.items()
    )
    typer.echo(f"{file}: version {policy.version}, valid")
    typer.echo(f"  models         {', '.join(models)}")
    typer.echo(f"  batch classes  {', '.join(policy.batch_classes)}")
    typer.echo(f"  tiers          {', '.join(f'{name} (used by {per_tier[name]})' for name in policy.tiers)}")
    if policy.teams:
        typer.echo(f"  teams          {', '.join(f'{name} ({per_team[name]} tenants)' for name in policy.teams)}")
    typer.echo(f"  tenants        {len(policy.tenants)} with {len(policy.keys)} keys")


def diff(
    old: Annotated[Path, typer.Argument(help="The policy that was: a file, or a directory with teams/.")],
    new: Annotated[Path, typer.Argument(help="The policy that would be.")],
    old_team: Annotated[list[Path] | None, typer.Option(help="A team's file of OLD; may be repeated.")] = None,
    new_team: Annotated[list[Path] | None, typer.Option(help="A team's file of NEW; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Say what changes for whom. Exit code 0: nothing changes; 3: something does; 1: a policy does not load."""
    before, after = load_policy(old, old_team or ()), load_policy(new, new_team or ())
    changes = policy_diff(before, after)
    if as_json:
        found = {"old": before.version, "new": after.version, "changes": [asdict(change) for change in changes]}
        typer.echo(json.dumps({**found, "sentences": sentences(changes)}, indent=2))
    elif not changes:
        typer.echo(f"nothing changes: both are version {before.version}")
    else:
        typer.echo(f"{before.version} → {after.version}", err=True)
        for sentence in sentences(changes):
            typer.echo(sentence)
    if changes:
        raise typer.Exit(3)


def schema(
    team: Annotated[bool, typer.Option("--team", help="Of a team's file, not of the platform's.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write it there instead of printing it.")] = None,
) -> None:
    """Print the JSON Schema. Editors complete with it after a first line `# yaml-language-server: $schema=FILE`."""
    text = json.dumps(json_schema(team=team), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputNotWritable(f"{output}: cannot be written: {error.strerror}") from error
