"""`outrider bench proxy`: what this gateway adds to a stream, beside what another proxy adds in front of it."""

from __future__ import annotations

from typing import Annotated

import typer

from outrider.cli.bench_options import (
    Dtype,
    HeldOut,
    Json,
    MaxTokens,
    Model,
    Out,
    Repetitions,
    Streams,
    Threads,
    finish,
    open_setup,
    saying,
)
from outrider.policy import DEMO_KEY

__all__ = ["app"]

app = typer.Typer()


@app.command()
def proxy(
    url: Annotated[str, typer.Option(help="A running `make serve`.")],
    proxy_url: Annotated[str, typer.Option(help="The other proxy, with that server behind it.")],
    key: Annotated[str, typer.Option(help="API key of the server.", envvar="OUTRIDER_API_KEY")] = DEMO_KEY,
    proxy_key: Annotated[str, typer.Option(help="API key of the proxy.")] = "sk-proxy",
    proxy_model: Annotated[str | None, typer.Option(help="The model's name there, if another.")] = None,
    model: Model = "flash",
    streams: Streams = 32,
    max_tokens: MaxTokens = 64,
    repetitions: Repetitions = 7,
    threads: Threads = 1,
    dtype: Dtype = "float32",
    held_out: HeldOut = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Latency added by this gateway over its engine, and by a proxy over this gateway; load_tests/README.md has both.

    Give --threads and --dtype what the server's config gives.
    """
    setup = open_setup(model, None, None, threads, dtype, "cpu", held_out)
    from outrider.bench.proxy import Endpoint, measure_proxy

    with saying() as say:
        report = measure_proxy(
            setup,
            gateway=Endpoint(url, key, model),
            proxy=Endpoint(proxy_url, proxy_key, proxy_model or model),
            streams=streams,
            max_tokens=max_tokens,
            repetitions=repetitions,
            say=say,
        )
    finish(report, out, as_json)
