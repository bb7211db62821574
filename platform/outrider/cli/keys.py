"""`outrider keys`: API keys, shown once."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from outrider.policy import hash_key, new_key

__all__ = ["app"]

app = typer.Typer(help="Make API keys.", no_args_is_help=True, add_completion=False)


@app.callback()
def _group() -> None:
    """API keys for tenants: the platform stores only their SHA-256."""


@app.command()
def new(
    tenant: Annotated[str, typer.Option(help="Tenant the key is for; names it in the YAML.")] = "NAME",
    name: Annotated[str | None, typer.Option(help="Name of the key; made from its hash if absent.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a key. It is shown now and never again; the policy gets its hash."""
    key = new_key()
    digest = hash_key(key)
    entry = {"name": name or f"key-{digest[:8]}", "sha256": digest}
    yaml = f"tenants:\n  {tenant}:\n    keys:\n      - {{name: {json.dumps(entry['name'])}, sha256: {digest}}}"
    if as_json:
        typer.echo(json.dumps({"key": key, "tenant": tenant, **entry, "yaml": yaml}))
        return
    typer.echo(f"{key}\n")
    typer.echo("Store it now: it is not kept anywhere. Put its hash into the policy:\n", err=True)
    typer.echo(yaml)
