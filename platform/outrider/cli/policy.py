"""`outrider policy`: is this policy right, what does it change, and what would it decide?"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from outrider.cli import policy_documents, policy_rollout
from outrider.cli.explain import idle_snapshots, print_decision, read_snapshots, recorded_decision
from outrider.errors import ConfigurationError, OutriderError
from outrider.policy import AUTO, Policy, load_policy
from outrider.routing import RouteQuery, decide
from outrider.types import Budgets, Decision

__all__ = ["app"]

app = typer.Typer(
    help="Check a policy, compare two, and explain what one decides.", no_args_is_help=True, add_completion=False
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
app.command()(policy_documents.check)
app.command()(policy_documents.diff)
app.command()(policy_documents.schema)
app.command()(policy_rollout.apply)
app.command()(policy_rollout.rollback)
app.command()(policy_rollout.history)


@app.command()
def explain(
    file: Annotated[Path | None, typer.Argument(help="Policy YAML; not needed with --decision.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Tenant of the policy that asks.")] = None,
    model: Annotated[str, typer.Option(help="A model's name or auto.")] = AUTO,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of the prompt.")] = 200,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Output limit of the request.")] = 200,
    ttft_ms: Annotated[float | None, typer.Option(min=0, help="Hard limit: time to first token.")] = None,
    tpot_ms: Annotated[float | None, typer.Option(min=0, help="Hard limit: time per output token.")] = None,
    deadline_ms: Annotated[float | None, typer.Option(min=0, help="Hard limit: whole answer.")] = None,
    max_cost_usd: Annotated[float | None, typer.Option(min=0, help="Money limit of the request.")] = None,
    quality: Annotated[float | None, typer.Option(min=0, max=1, help="Quality floor.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Tag of the request; may be repeated.")] = None,
    snapshots: Annotated[Path | None, typer.Option(help="JSON: load snapshot by model.")] = None,
    decision: Annotated[str | None, typer.Option(help="Explain this recorded decision instead.")] = None,
    events: Annotated[Path | None, typer.Option(help="Event log that holds --decision.")] = None,
    as_json: Json = False,
) -> None:
    """Show every candidate for a request, what was dropped and why, and the winner."""
    if decision is not None:
        if events is None:
            raise typer.BadParameter("--decision needs --events FILE")
        print_decision(recorded_decision(events, decision), as_json)
        return
    if file is None or tenant is None:
        raise typer.BadParameter("give a policy file and --tenant NAME, or --decision ID and --events FILE")
    policy = load_policy(file)
    if tenant not in policy.tenants:
        raise ConfigurationError(f"{file}: no tenant '{tenant}'; known: {', '.join(sorted(policy.tenants)[:20])}")
    budgets = Budgets(_seconds(ttft_ms), _seconds(tpot_ms), _seconds(deadline_ms), max_cost_usd, quality)
    query = RouteQuery(
        tenant=policy.tenants[tenant],
        model=model,
        prompt_tokens=dict.fromkeys(policy.models, prompt_tokens),
        max_tokens=max_tokens,
        budgets=budgets,
        tags=tuple(tag or ()),
    )
    if snapshots is None and not as_json:
        typer.echo("No --snapshots: every model is taken as idle with the same nominal step curve.", err=True)
    print_decision(_decided(query, policy, snapshots, as_json), as_json)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


def _decided(query: RouteQuery, policy: Policy, snapshots: Path | None, as_json: bool) -> Decision:
    """The decision, judged at the time of the newest snapshot. A refusal is printed as tenants would see it; exit 1."""
    load = idle_snapshots(policy) if snapshots is None else read_snapshots(snapshots)
    now_s = max((snapshot.time_s for replicas in load.values() for snapshot in replicas), default=time.time())
    try:
        return decide(query, load, policy, now_s=now_s, decision_id="explain")
    except OutriderError as error:
        if as_json:
            refusal = {"status": error.status, "code": error.code, "message": error.message}
            typer.echo(json.dumps({"refused": {**refusal, "retry_after_s": error.retry_after_s}}, indent=2))
        typer.echo(f"refused with {error.status} {error.code}: {error.message}", err=True)
        raise typer.Exit(1) from error
