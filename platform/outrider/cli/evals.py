"""`outrider eval`: what a model's answers are worth, with intervals, and what they cost."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from outrider.cli import evals_sufficiency
from outrider.cli.evals_show import make_console, show_comparison, show_failures, show_result, show_suites
from outrider.errors import ConfigurationError
from outrider.evals import (
    Endpoint,
    Item,
    Outcome,
    OutcomeLog,
    Prices,
    Result,
    Suite,
    check_suite,
    compare,
    configuration,
    evaluate,
    find_suite,
    json_schemas,
    load_result,
    load_suite,
    measured_quality,
    quality_yaml,
    shipped_suites,
    with_quality,
    write_json,
    write_text,
)
from outrider.evals.model import Model
from outrider.policy import load_policy, parse_policy

__all__ = ["app", "run_suites"]

app = typer.Typer(help="Measure what answers are worth, and compare two runs.", no_args_is_help=True)
app.add_typer(evals_sufficiency.app, name="sufficiency")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SuiteName = Annotated[str, typer.Argument(help="A shipped suite's name or a suite's YAML file.", metavar="SUITE")]
SuiteNames = Annotated[list[str] | None, typer.Argument(help="Shipped names or YAML files; all shipped if absent.")]

WORSE_EXIT = 3


@app.command("list")
def list_suites(as_json: Json = False) -> None:
    """The suites that come with Outrider."""
    suites = [load_suite(path) for path in shipped_suites()]
    if as_json:
        typer.echo(json.dumps([_about(suite) for suite in suites], indent=2))
    else:
        show_suites(suites, make_console())


@app.command()
def show(
    suite: SuiteName,
    items: Annotated[int, typer.Option(min=0, help="Items to show.")] = 3,
    as_json: Json = False,
) -> None:
    """A suite's settings and some of its items."""
    loaded = load_suite(suite)
    chosen = loaded.sample(items)[:items]
    if as_json:
        shown = [{"id": each.id, "messages": list(each.messages), "check": _check_of(each)} for each in chosen]
        about = _about(loaded) | {"sampling": loaded.sampling.model_dump(), "shown": shown}
        typer.echo(json.dumps(about, indent=2, ensure_ascii=False))
        return
    show_suites([loaded], make_console())
    typer.echo(f"sampling: {loaded.sampling.model_dump_json(exclude_defaults=True)}")
    for item in chosen:
        typer.echo(f"\n{item.id}")
        for message in item.messages:
            typer.echo(f"  {message['role']}: " + message["content"].replace("\n", "\n    "))
        typer.echo(f"  check: {json.dumps(_check_of(item), ensure_ascii=False)}")


def _check_of(item: Item) -> dict[str, Any]:
    return item.check.model_dump(exclude_defaults=True)


@app.command()
def check(suite: SuiteName, as_json: Json = False) -> None:
    """Read a suite and hold every reference answer to its check; say all that is wrong. Exit code 1 if anything is."""
    loaded, problems = check_suite(find_suite(suite))
    said = [str(problem) for problem in problems]
    if loaded is not None:
        for item in loaded.items:
            verdict = item.check.judge(item.reference) if item.reference is not None else None
            if verdict is not None and not verdict.correct:
                said.append(f"{suite}: item {item.id}: its own reference fails its check: {verdict.why}")
    if as_json:
        typer.echo(json.dumps({"suite": None if loaded is None else _about(loaded), "problems": said}, indent=2))
    else:
        for line in said:
            typer.echo(line, err=True)
        if loaded is not None and not said:
            held = sum(item.reference is not None for item in loaded.items)
            typer.echo(f"{suite}: {len(loaded.items)} items, valid; {held} references pass their checks")
    if said:
        raise typer.Exit(1)


@app.command()
def schema(part: Annotated[str, typer.Argument(help="suite or item.")] = "suite") -> None:
    """JSON Schema of a suite file or of an item, for completion in an editor."""
    schemas = json_schemas()
    if part not in schemas:
        raise typer.BadParameter("choose suite or item")
    typer.echo(json.dumps(schemas[part], indent=2, ensure_ascii=False))


@app.command()
def run(
    suites: SuiteNames = None,
    url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint, such as http://127.0.0.1:8000.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; with --target, the name in the result.")] = None,
    key: Annotated[str | None, typer.Option(help="API key.", envvar="OUTRIDER_API_KEY", show_envvar=True)] = None,
    target: Annotated[Path | None, typer.Option(help="A model directory, run in this process.")] = None,
    drafter: Annotated[Path | None, typer.Option(help="Drafter directory of --target.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items per suite; a fixed random choice.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests at a time.")] = 8,
    temperature: Annotated[float | None, typer.Option(min=0.0, max=2.0, help="Instead of the suites'.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Instead of the suites'.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the suites'; for temperatures above 0.")] = None,
    policy: Annotated[Path | None, typer.Option(help="Policy whose list prices count.")] = None,
    input_price: Annotated[float | None, typer.Option(min=0.0, help="Dollars per million prompt tokens.")] = None,
    output_price: Annotated[float | None, typer.Option(min=0.0, help="Dollars per million output tokens.")] = None,
    tags: Annotated[bool, typer.Option("--tags", help="Send the suite's domain as Outrider's tag.")] = False,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest silence of the endpoint.")] = 120.0,
    retries: Annotated[int, typer.Option(min=0, help="Further tries after 429, 5xx or a broken connection.")] = 5,
    give_up_after: Annotated[int, typer.Option(min=0, help="Items in a row without any answer; 0: never.")] = 25,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads of --target.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Result file; runs/eval/MODEL.json if absent.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin again; earlier outcomes move to *.old.")] = False,
    failures: Annotated[int, typer.Option(min=0, help="Wrong answers to show.")] = 5,
    as_json: Json = False,
) -> None:
    """Ask every item and judge the answers. Outcomes are kept as they finish: the same command goes on after a stop."""
    if (url is None) == (target is None):
        raise ConfigurationError("give --url URL --model NAME, or --target DIR", param="url")
    if url is not None and (model is None or drafter is not None):
        missing = "--url needs --model" if model is None else "--drafter belongs to --target"
        raise ConfigurationError(missing, param="model" if model is None else "drafter")
    overrides = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    given = {name: value for name, value in overrides.items() if value is not None}
    loaded = [load_suite(name).sampled(given) for name in suites or shipped_suites()]
    name = model or (target.resolve().name if target is not None else "")
    prices = _prices(policy, name, input_price, output_price)
    place = out or Path("runs/eval") / f"{name.replace('/', '_')}.json"
    if place.suffix != ".json":
        raise ConfigurationError(f"--out names the result file and ends in .json, not {place.name}", param="out")
    log_file = place.with_suffix(".jsonl")
    if restart and log_file.exists():
        os.replace(log_file, log_file.with_suffix(".jsonl.old"))
    opened: AbstractAsyncContextManager[Model]
    if target is not None:
        from outrider.cli.evals_local import LocalModel

        opened = LocalModel(target, drafter, concurrency=concurrency, threads=threads, name=name)
    else:
        opened = Endpoint(url or "", name, key, timeout_s=timeout_s, retries=retries, tags=tags)
    options = {"limit": limit, "concurrency": concurrency, "prices": prices, "give_up_after": give_up_after}
    try:
        result = asyncio.run(run_suites(opened, loaded, log_file, options))
    except KeyboardInterrupt:
        typer.echo(f"outrider: stopped; {log_file} keeps what is done, and the same command goes on", err=True)
        raise typer.Exit(130) from None
    write_json(place, result.as_dict())
    if as_json:
        typer.echo(json.dumps({name: each for name, each in result.as_dict().items() if name != "outcomes"}, indent=2))
        return
    console = make_console()
    show_result(result, console)
    show_failures(result.outcomes, failures, console)
    console.print(f"result: {place}", style="dim")


async def run_suites(
    opened: AbstractAsyncContextManager[Model], suites: Sequence[Suite], log_file: Path, options: Mapping[str, Any]
) -> Result:
    """Ask a model every item, going on from `log_file`; `options` are those of `outrider.evals.evaluate`."""
    started = time.perf_counter()
    async with opened as model:
        about = configuration(model, suites, options["prices"])
        with OutcomeLog(log_file, about) as log:
            kept = len(log.done)
            with _progress(model.name, kept) as tell:
                outcomes = await evaluate(model, suites, log, progress=tell, **options)
    run = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": round(time.perf_counter() - started, 3),
        "outcomes_kept_from_before": kept,
        "limit": options["limit"],
        "concurrency": options["concurrency"],
    }
    return Result.of(model.name, about, outcomes, **run)


class _progress:
    """A bar on stderr: items done, right so far, errors. Nothing where stderr is not a terminal."""

    def __init__(self, model: str, kept: int) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(model, total=None, said=f"{kept} kept from before" if kept else "")
        self._right = self._errors = self._now = 0

    def __enter__(self) -> _progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, outcome: Outcome, done: int, total: int) -> None:
        self._now += 1
        self._right += outcome.correct
        self._errors += outcome.outcome == "error"
        said = f"{self._right / self._now:.0%} right" + (f", {self._errors} errors" if self._errors else "")
        self._bar.update(self._task, completed=done, total=total, said=said)


@app.command("compare")
def compare_runs(
    first: Annotated[Path, typer.Argument(help="Result of the run to compare with.")],
    second: Annotated[Path, typer.Argument(help="Result of the run that is judged.")],
    common: Annotated[bool, typer.Option("--common", help="Only the items that are the same in both.")] = False,
    fail_if: Annotated[
        str | None, typer.Option(help="worse | not-better, in any domain or overall: exit code 3.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Is SECOND better than FIRST, worse, or can these items not tell? Paired by item."""
    if fail_if not in (None, "worse", "not-better"):
        raise typer.BadParameter("choose worse or not-better", param_hint="--fail-if")
    one, two = load_result(first), load_result(second)
    found = compare(one, two, common=common)
    if as_json:
        names = {"first": str(first), "second": str(second)}
        typer.echo(json.dumps(names | {"domains": {name: each.as_dict() for name, each in found.items()}}, indent=2))
    else:
        labels = (one.model, two.model) if one.model != two.model else (str(first), str(second))
        show_comparison(found, *labels, make_console())
    verdicts = {each.verdict for each in found.values()}
    if (fail_if == "worse" and "worse" in verdicts) or (fail_if == "not-better" and verdicts != {"better"}):
        raise typer.Exit(WORSE_EXIT)


@app.command()
def quality(
    results: Annotated[list[Path], typer.Argument(help="Result files; of one model several, if of other domains.")],
    model: Annotated[str | None, typer.Option(help="The model's name in the policy, if not the result's.")] = None,
    lower_bound: Annotated[bool, typer.Option("--lower-bound", help="Lower end of the 95 % interval.")] = False,
    write: Annotated[Path | None, typer.Option(help="Policy whose model sections to edit; comments stay.")] = None,
    as_json: Json = False,
) -> None:
    """Measured accuracy per domain as a policy's `quality`; domains that were not measured keep their scores."""
    found = measured_quality([load_result(path) for path in results], name=model, lower_bound=lower_bound)
    if write is not None:
        _write_quality(write, found)
    if as_json:
        scores = {each.model: {"quality": dict(each.scores), "items": dict(each.items)} for each in found}
        typer.echo(json.dumps({"models": scores, "written": None if write is None else str(write)}, indent=2))
        return
    typer.echo("models:")
    for each in found:
        typer.echo(quality_yaml(each), nl=False)
    if write is not None:
        typer.echo(f"written to {write}; `outrider policy check {write}` says what it allows now", err=True)


def _write_quality(file: Path, found: list[Any]) -> None:
    """All models' scores or none; what would not load is not written."""
    load_policy(file)
    text = file.read_bytes().decode("utf-8-sig")
    for each in found:
        text = with_quality(text, str(file), each)
    report = parse_policy(text, str(file))
    if report.policy is None:
        raise ConfigurationError(
            "\n".join(["the edited policy would not load; nothing was written", *map(str, report.problems)])
        )
    write_text(file, text)


def _prices(policy: Path | None, model: str, input_price: float | None, output_price: float | None) -> Prices | None:
    if (input_price is None) != (output_price is None):
        raise ConfigurationError("give --input-price and --output-price together", param="input_price")
    if input_price is not None and output_price is not None:
        return Prices(input_price / 1e6, output_price / 1e6)
    if policy is None:
        return None
    models = load_policy(policy).models
    if model not in models:
        raise ConfigurationError(f"{policy}: no model '{model}'; known: {', '.join(sorted(models))}", param="policy")
    return Prices(models[model].input_usd_per_token, models[model].output_usd_per_token)


def _about(suite: Suite) -> dict[str, object]:
    return {
        "name": suite.name,
        "domain": suite.domain,
        "items": len(suite.items),
        "hash": suite.hash,
        "description": suite.description,
        "license": suite.license,
    }
