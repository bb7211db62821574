"""`outrider bench`: figures of this machine, each arm measured beside the others in one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outrider import demo_models
from outrider.cli import bench_classes, bench_policy, bench_proxy, bench_speculation
from outrider.cli.bench_options import (
    Device,
    Drafter,
    Dtype,
    HeldOut,
    Json,
    MaxTokens,
    Model,
    Out,
    Repetitions,
    Streams,
    Target,
    Threads,
    finish,
    open_setup,
    saying,
)
from outrider.errors import ConfigurationError
from outrider.policy import DEMO_KEY

if TYPE_CHECKING:
    from outrider.bench import Report

__all__ = ["app"]

app = typer.Typer(help="Measure exactness, acceptance and speed on this machine.", no_args_is_help=True)
app.registered_commands.extend(bench_speculation.app.registered_commands)
app.registered_commands.extend(bench_classes.app.registered_commands)
app.registered_commands.extend(bench_policy.app.registered_commands)
app.registered_commands.extend(bench_proxy.app.registered_commands)


@app.command()
def exact(
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts.")] = 200,
    max_tokens: MaxTokens = 64,
    streams: Streams = 16,
    model: Model = "pro",
    target: Target = None,
    drafter: Drafter = None,
    threads: Threads = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    held_out: HeldOut = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Greedy output against transformers.generate, by depth and link. Exit code 1 on a mismatch or too many ties."""
    setup = open_setup(model, target, drafter, threads, dtype, device, held_out)
    from outrider.bench import measure_exact

    with saying() as say:
        report = measure_exact(setup, prompts=prompts, max_tokens=max_tokens, streams=streams, say=say)
    finish(report, out, as_json)


@app.command()
def seeds(
    prompts: Annotated[int, typer.Option(min=1, help="Seeded requests.")] = 16,
    max_tokens: MaxTokens = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of every request.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Nucleus of every second request.")] = 0.9,
    in_process: Annotated[bool, typer.Option("--in-process", help="Draft in this process, not in another.")] = False,
    model: Model = "pro",
    target: Target = None,
    drafter: Drafter = None,
    threads: Threads = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    held_out: HeldOut = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """One seed at depth 0 and in full, alone and in company, through a drafter's restart. Exit code 1 on a mismatch."""
    setup = open_setup(model, target, drafter, threads, dtype, device, held_out)
    from outrider.bench import measure_seeds
    from outrider.local import LinkKind

    link = LinkKind.IN_PROCESS if in_process else LinkKind.PROCESS
    with saying() as say:
        report = measure_seeds(
            setup, prompts=prompts, max_tokens=max_tokens, temperature=temperature, top_p=top_p, link=link, say=say
        )
    finish(report, out, as_json)


@app.command()
def acceptance(
    temperature: Annotated[list[float] | None, typer.Option(min=0.0, help="Repeatable; 0 and 1 if absent.")] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Held-out prompts; all if absent.")] = None,
    max_tokens: MaxTokens = 128,
    streams: Streams = 16,
    repetitions: Repetitions = 5,
    model: Model = "pro",
    target: Target = None,
    drafter: Drafter = None,
    threads: Threads = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    held_out: HeldOut = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Acceptance length τ by domain, with everything verified and as Algorithm 1 trims."""
    setup = open_setup(model, target, drafter, threads, dtype, device, held_out)
    from outrider.bench import measure_acceptance

    with saying() as say:
        report = measure_acceptance(
            setup, temperatures=temperature or [0.0, 1.0], prompts=prompts, max_tokens=max_tokens, streams=streams,
            repetitions=repetitions, say=say,
        )  # fmt: skip
    finish(report, out, as_json)


@app.command()
def rules(
    prompts: Annotated[int | None, typer.Option(min=1, help="Held-out prompts; all if absent.")] = None,
    max_tokens: MaxTokens = 96,
    streams: Streams = 16,
    repetitions: Repetitions = 3,
    model: Model = "pro",
    target: Target = None,
    drafter: Drafter = None,
    threads: Threads = 1,
    dtype: Dtype = "float32",
    held_out: HeldOut = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Rejection against coupled verification at temperature 1 and at 0.7 with top_p 0.9, by how drafts are drawn."""
    setup = open_setup(model, target, drafter, threads, dtype, "cpu", held_out)
    from outrider.bench import measure_rules

    with saying() as say:
        report = measure_rules(
            setup, ways=((1.0, 1.0), (0.7, 0.9)), prompts=prompts, max_tokens=max_tokens, streams=streams,
            repetitions=repetitions, say=say,
        )  # fmt: skip
    finish(report, out, as_json)


@app.command()
def decode(
    streams: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable; 1 and 16 if absent.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of a one-stream repetition.")] = 8,
    max_tokens: MaxTokens = 128,
    repetitions: Repetitions = 5,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on to --max-tokens past an answer's end.")
    ] = False,
    model: Model = "pro",
    target: Target = None,
    drafter: Drafter = None,
    threads: Threads = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    held_out: HeldOut = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Tokens per second, separated and colocated, against no drafter and against transformers.generate."""
    setup = open_setup(model, target, drafter, threads, dtype, device, held_out)
    from outrider.bench import measure_decode

    with saying() as say:
        report = measure_decode(
            setup, streams=tuple(streams or (1, 16)), prompts=prompts, max_tokens=max_tokens,
            repetitions=repetitions, ignore_eos=ignore_eos, say=say,
        )  # fmt: skip
    finish(report, out, as_json)


@app.command()
def memory(
    conversations: Annotated[int, typer.Option(min=1, help="Conversations of a repetition.")] = 8,
    new_tokens: Annotated[int, typer.Option(min=1, help="New tokens of every turn.")] = 64,
    requests: Annotated[int, typer.Option(min=4, help="Requests that share too little memory.")] = 16,
    max_tokens: MaxTokens = 64,
    repetitions: Repetitions = 5,
    model: Model = "pro",
    target: Target = None,
    drafter: Drafter = None,
    threads: Threads = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    held_out: HeldOut = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """A second turn's time to first token, and memory for a quarter of the requests. Exit code 1 on another answer."""
    setup = open_setup(model, target, drafter, threads, dtype, device, held_out)
    from outrider.bench import measure_memory

    with saying() as say:
        report = measure_memory(
            setup, conversations=conversations, new_tokens=new_tokens, answer_tokens=max_tokens,
            requests=requests, repetitions=repetitions, say=say,
        )  # fmt: skip
    finish(report, out, as_json)


@app.command()
def round(
    streams: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable; 1 and 16 if absent.")] = None,
    max_tokens: MaxTokens = 96,
    repetitions: Repetitions = 7,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    flame: Annotated[Path | None, typer.Option(help="Also sample the engine's thread and draw this SVG.")] = None,
    model: Model = "pro",
    target: Target = None,
    drafter: Drafter = None,
    threads: Threads = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    held_out: HeldOut = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Where a round's time goes, and how much of it is neither model's forward."""
    setup = open_setup(model, target, drafter, threads, dtype, device, held_out)
    from outrider.bench import measure_round

    with saying() as say:
        report = measure_round(
            setup, streams=tuple(streams or (1, 16)), max_tokens=max_tokens, repetitions=repetitions, flame=flame,
            say=say, temperature=temperature,
        )  # fmt: skip
    finish(report, out, as_json)


@app.command()
def step(
    requests: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable; 1 and 16 if absent.")] = None,
    depth: Annotated[
        list[int] | None, typer.Option(min=0, help="Drafts verified; repeatable; 0 and 7 if absent.")
    ] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens before the step.")] = 128,
    repetitions: Annotated[int, typer.Option(min=1, help="Turns of every arm, eight steps each.")] = 20,
    model: Model = "pro",
    target: Target = None,
    drafter: Drafter = None,
    threads: Threads = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    out: Out = None,
    as_json: Json = False,
) -> None:
    """The target's forward alone: stock modules, the flat eager path and the compiled one."""
    setup = open_setup(model, target, drafter or target, threads, dtype, device, None)
    from outrider.bench import measure_step

    with saying() as say:
        report = measure_step(
            setup, requests=tuple(requests or (1, 16)), depths=tuple(depth or (0, 7)), context=context,
            repetitions=repetitions, say=say,
        )  # fmt: skip
    finish(report, out, as_json)


@app.command()
def heavier(
    megabytes: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable; 60, 120, 240 if absent.")] = None,
    tokens: Annotated[list[int] | None, typer.Option(min=1, help="Rows of a step; 1 to 64 if absent.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts for the tokens per round.")] = 12,
    max_tokens: MaxTokens = 64,
    repetitions: Annotated[int, typer.Option(min=1, help="Turns of every size, eight steps each.")] = 10,
    model: Model = "pro",
    target: Target = None,
    drafter: Drafter = None,
    threads: Threads = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    held_out: HeldOut = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """The step's cost when the same function weighs more: where verifying eight rows costs little more than one."""
    setup = open_setup(model, target, drafter, threads, dtype, device, held_out)
    from outrider.bench import measure_heavier

    with saying() as say:
        report = measure_heavier(
            setup, megabytes=tuple(megabytes or (60, 120, 240)), tokens=tuple(tokens or (1, 2, 4, 8, 16, 32, 64)),
            prompts=prompts, max_tokens=max_tokens, repetitions=repetitions, say=say,
        )  # fmt: skip
    finish(report, out, as_json)


@app.command()
def peers(
    streams: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable; 1 and 16 if absent.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of a one-stream repetition.")] = 12,
    max_tokens: MaxTokens = 128,
    repetitions: Repetitions = 5,
    assistant: Annotated[
        Path | None, typer.Option(help="Small model for assisted generation; Flash beside the demo Pro.")
    ] = None,
    llama: Annotated[
        list[str] | None, typer.Option(help="NAME=URL of a running llama-server of the same checkpoint; repeatable.")
    ] = None,
    model: Model = "pro",
    target: Target = None,
    drafter: Drafter = None,
    threads: Threads = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    held_out: HeldOut = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Greedy speed beside DeepSpec's loop, assisted generation and llama.cpp. Exit code 1 on another answer."""
    setup = open_setup(model, target, drafter, threads, dtype, device, held_out)
    from outrider.bench import measure_peers

    if assistant is None and target is None and model == "pro":
        assistant = demo_models.path("flash")
    with saying() as say:
        report = measure_peers(
            setup, assistant=assistant, llama=_named_urls(llama or []), streams=tuple(streams or (1, 16)),
            prompts=prompts, max_tokens=max_tokens, repetitions=repetitions, say=say,
        )  # fmt: skip
    finish(report, out, as_json)


@app.command()
def scheduler(
    requests: Annotated[int, typer.Option(min=1, help="Decoding requests of a round.")] = 256,
    slots: Annotated[int, typer.Option(min=1, help="Slots of a drafted block.")] = 7,
    tenants: Annotated[int, typer.Option(min=1, help="Tenants, each with an allowance.")] = 16,
    states: Annotated[int, typer.Option(min=1, help="Random states; all schedulers take turns on each.")] = 300,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """How long every scheduler takes to decide a round. No model is loaded."""
    from outrider.bench import measure_scheduler

    with saying() as say:
        report = measure_scheduler(requests=requests, slots=slots, tenants=tenants, states=states, say=say)
    finish(report, out, as_json)


@app.command("decide")
def decide_(
    models: Annotated[int, typer.Option(min=1, help="Models that auto may choose.")] = 2,
    replicas: Annotated[int, typer.Option(min=1, help="Of each model.")] = 8,
    depths: Annotated[int, typer.Option(min=1, max=16, help="Depth caps of the policy.")] = 8,
    classes: Annotated[int, typer.Option(min=1, max=8, help="Batch classes of the tier.")] = 3,
    states: Annotated[int, typer.Option(min=1, help="Random loads of all replicas.")] = 2000,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """How long the router takes to decide where one request goes. No model is loaded."""
    from outrider.bench import measure_decide

    with saying() as say:
        report = measure_decide(
            models=models, replicas=replicas, depths=depths, classes=classes, states=states, say=say
        )
    finish(report, out, as_json)


@app.command()
def http(
    url: Annotated[str | None, typer.Option(help="A running `make serve`; one is started if absent.")] = None,
    key: Annotated[str, typer.Option(help="API key.", envvar="OUTRIDER_API_KEY")] = DEMO_KEY,
    streams: Streams = 16,
    max_tokens: MaxTokens = 128,
    repetitions: Repetitions = 5,
    idle_requests: Annotated[int, typer.Option(min=1, help="Requests for the time to first token.")] = 20,
    model: Model = "pro",
    target: Target = None,
    drafter: Drafter = None,
    threads: Threads = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    held_out: HeldOut = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Streaming over HTTP against the same model in this process. Give --threads what the server's config gives."""
    setup = open_setup(model, target, drafter, threads, dtype, device, held_out)
    from outrider.bench import measure_http
    from outrider.bench.http import own_server

    with saying() as say:

        def measure(at: str) -> Report:
            return measure_http(
                setup, url=at, key=key, model=model, streams=streams, max_tokens=max_tokens,
                repetitions=repetitions, idle_requests=idle_requests, say=say,
            )  # fmt: skip

        if url is not None:
            report = measure(url)
        else:
            with own_server(say) as started:
                report = measure(started)
    finish(report, out, as_json)


def _named_urls(pairs: list[str]) -> dict[str, str]:
    """NAME=URL pairs as a mapping. Raises ConfigurationError for one that is none, or a name given twice."""
    named: dict[str, str] = {}
    for pair in pairs:
        name, _, url = pair.partition("=")
        if not name or not url.startswith("http") or name in named:
            raise ConfigurationError(f"--llama {pair}: give NAME=http://…, each name once", param="llama")
        named[name] = url
    return named
