"""`outrider keys`: API keys, shown once; and their end."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from outrider.errors import ConfigurationError
from outrider.policy import Key, Policy, Source, hash_key, new_key, parse_policies, read_sources
from outrider.policy.editing import without_key

__all__ = ["app"]

app = typer.Typer(help="Make and revoke API keys.", no_args_is_help=True, add_completion=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_DAY = ["%Y-%m-%d"]


@app.callback()
def _group() -> None:
    """API keys for tenants and operators: the platform stores only their SHA-256."""


@app.command()
def cluster(as_json: Json = False) -> None:
    """Make the secret that replicas on several hosts share: the value of OUTRIDER_CLUSTER_KEY for all of them."""
    from outrider.link import CurveKeys

    secret = CurveKeys.new_secret()
    typer.echo(json.dumps({"key": secret}) if as_json else secret)
    if not as_json:
        typer.echo("Put it into a secret that every replica has in its environment; it is not kept anywhere.", err=True)


@app.command()
def new(
    tenant: Annotated[str | None, typer.Option(help="Tenant the key is for; names it in the YAML.")] = None,
    operator: Annotated[str | None, typer.Option(help="Operator the key is for, instead of a tenant.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the key; made from its hash if absent.")] = None,
    expires: Annotated[datetime | None, typer.Option(formats=_DAY, help="Last day (UTC) on which it is good.")] = None,
    not_before: Annotated[datetime | None, typer.Option(formats=_DAY, help="First day (UTC) of it.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown now and never again; the policy gets its hash."""
    if operator is not None and (tenant is not None or name is not None):
        raise typer.BadParameter("an operator's key bears the operator's name; give neither --tenant nor --name")
    _check_days(not_before, expires)
    key = new_key()
    digest = hash_key(key)
    entry = {"name": operator or name or f"key-{digest[:8]}", "sha256": digest}
    entry |= {
        field: f"{day:%Y-%m-%d}" for field, day in (("not_before", not_before), ("expires", expires)) if day is not None
    }
    line = ", ".join([f"name: {json.dumps(entry['name'])}", *(f"{k}: {v}" for k, v in entry.items() if k != "name")])
    owner = tenant or "NAME"
    yaml = f"operators:\n  - {{{line}}}" if operator else f"tenants:\n  {owner}:\n    keys:\n      - {{{line}}}"
    if as_json:
        whose = {"operator": operator} if operator else {"tenant": owner}
        typer.echo(json.dumps({"key": key, **whose, **entry, "yaml": yaml}))
        return
    typer.echo(f"{key}\n")
    typer.echo("Store it now: it is not kept anywhere. Put its hash into the policy:\n", err=True)
    typer.echo(yaml)


def _check_days(not_before: datetime | None, expires: datetime | None) -> None:
    if expires is None:
        return
    if expires.date() < datetime.now(UTC).date():
        raise typer.BadParameter(f"{expires:%Y-%m-%d} is over; the key would never be good", param_hint="--expires")
    if not_before is not None and not_before > expires:
        raise typer.BadParameter("ends before it begins", param_hint="--expires")


@app.command()
def revoke(
    file: Annotated[Path, typer.Argument(help="The platform's YAML, or a directory with platform.yaml and teams/.")],
    teams: Annotated[list[Path] | None, typer.Argument(help="Teams' YAML files.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Tenant whose key it is.")] = None,
    operator: Annotated[str | None, typer.Option(help="Operator whose key it is.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the key.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Its hash, or how that begins.")] = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read the key itself, one that leaked, from stdin.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Edit the file; comments stay.")] = False,
    as_json: Json = False,
) -> None:
    """Show what to remove from a policy so that a key opens nothing more; with --write, remove it.

    A running platform goes on with its policy until the edited one is applied.
    """
    sources, policy = _read(file, teams or [])
    digest = hash_key(sys.stdin.readline().strip()) if stdin else sha256 or ""
    found = [
        (each, key)
        for each, key, owner in _keys(policy)
        if each.startswith(digest)
        and name in (None, key.name)
        and (tenant is None or owner == ("tenant", tenant))
        and (operator is None or owner == ("operator", operator))
    ]
    if tenant is None and operator is None and name is None and not digest:
        raise typer.BadParameter("say which key: --tenant or --operator with --name, --sha256, or --stdin")
    if len(found) != 1:
        listed = ", ".join(f"{key.owner}/{key.name}" for _, key in found) or "none"
        raise ConfigurationError(f"{file}: {len(found)} keys fit, one must: {listed}")
    _remove(sources, policy, *found[0], write=write, as_json=as_json)


def _read(file: Path, teams: list[Path]) -> tuple[tuple[Source, ...], Policy]:
    sources, problems = read_sources(file, teams)
    policy = None
    if not problems:
        report = parse_policies(sources[0], sources[1:])
        policy, problems = report.policy, report.problems
    if policy is None:
        raise ConfigurationError("\n".join(map(str, problems)))
    return sources, policy


def _keys(policy: Policy) -> Iterator[tuple[str, Key, tuple[str, str]]]:
    for kind, keys in (("tenant", policy.keys), ("operator", policy.operators)):
        for digest, key in keys.items():
            yield digest, key, (kind, key.owner)


def _remove(sources: tuple[Source, ...], policy: Policy, digest: str, key: Key, *, write: bool, as_json: bool) -> None:
    """Write or show the edit; an edit that does more or less than remove this key is refused."""
    edited = tuple(Source(each.file, without_key(each.text, digest)) for each in sources)
    after = parse_policies(edited[0], edited[1:]).policy
    gone = after is not None and {*policy.keys, *policy.operators} - {*after.keys, *after.operators} == {digest}
    changed = [(old, new) for old, new in zip(sources, edited, strict=True) if old != new]
    if not gone or len(changed) != 1:
        raise ConfigurationError(
            f"{sources[0].file}: key {key.name!r} cannot be cut out of this layout; edit it by hand"
        )
    old, new = changed[0]
    if write:
        from outrider.evals import write_text

        write_text(Path(old.file), new.text)
    if as_json:
        about = {"file": old.file, "owner": key.owner, "name": key.name, "sha256": digest, "written": write}
        typer.echo(json.dumps(about))
        return
    was, now = (each.text.splitlines(keepends=True) for each in (old, new))
    typer.echo("".join(difflib.unified_diff(was, now, old.file, new.file, n=2)), nl=False)
    done = "written" if write else "nothing was written (--write does)"
    typer.echo(f"{done}; a running platform takes it up with `outrider policy apply`", err=True)
