"""`outrider eval sufficiency`: learn from paired outcomes which prompts a smaller model would answer well enough."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.cli.evals_show import make_console
from outrider.cli.evals_sufficiency_show import show_assessment, show_judgement
from outrider.errors import EvalMismatch, SuiteError
from outrider.evals import Outcome, Result, Suite, load_result, load_suite, shipped_suites, write_json
from outrider.quality import (
    SHIPPED,
    Pair,
    fingerprint,
    fit_assessor,
    judge,
    load_assessor,
    prompt_text,
    save_assessor,
)

__all__ = ["app"]

app = typer.Typer(help="Which prompts a smaller model answers well enough.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Results = Annotated[
    list[Path], typer.Argument(help="Results of `outrider eval run` over the same items, the cheapest model's first.")
]
Suites = Annotated[
    list[Path] | None,
    typer.Option(
        "--suites", help="Suite file of the results, or a folder of them, beside the shipped ones; repeatable."
    ),
]
File = Annotated[Path, typer.Option("--file", help="Fitted file; that of the demo models if absent.")]

_NOT_OF_THE_MODEL = ("suites", "sampling", "prices_usd_per_million", "model")


@app.command()
def fit(
    results: Results,
    out: Annotated[Path, typer.Option(help="File to write.")],
    suites: Suites = None,
    held_out: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of groups kept for `report`.")] = 0.25,
    as_json: Json = False,
) -> None:
    """Fit domain classifier and estimates on paired outcomes, and write them to one small file."""
    loaded = [load_result(path) for path in results]
    assessor = fit_assessor(_pairs(loaded, suites or []), _about(loaded), share=held_out)
    save_assessor(out, assessor)
    about = {"file": str(out), "bytes": out.stat().st_size, "fingerprint": fingerprint(assessor)}
    if as_json:
        typer.echo(json.dumps(about | {"fitted_on": dict(assessor.fitted_on)}, indent=2))
        return
    counts = ", ".join(f"{name} {count}" for name, count in assessor.fitted_on["items"].items())
    typer.echo(f"fitted on {counts} items, {held_out:.0%} of groups held out; {out}: {about['bytes']:,} bytes")
    typer.echo(f"`outrider eval sufficiency report … --file {out}` says what it is worth", err=True)


@app.command()
def report(
    results: Results,
    file: File = SHIPPED,
    suites: Suites = None,
    out: Annotated[Path | None, typer.Option(help="Also write the figures there, as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """What the estimates are worth on the items that were held out when they were fitted, from their text alone."""
    assessor = load_assessor(file)
    judgement = judge(assessor, _pairs([load_result(path) for path in results], suites or []))
    about = {"fingerprint": fingerprint(assessor), "fitted_on": dict(assessor.fitted_on)}
    figures = about | asdict(judgement)
    if out is not None:
        write_json(out, figures)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        show_judgement(judgement, make_console())


@app.command()
def ask(
    prompt: Annotated[str, typer.Argument(help="A prompt, as a user would send it.")],
    file: File = SHIPPED,
    tag: Annotated[list[str] | None, typer.Option(help="Tag of the request; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """What the router would be told of one prompt."""
    found = load_assessor(file).assess(prompt, tag or [])
    if as_json:
        shown = {"domain": found.domain, "domain_probability": found.domain_probability, "success": {**found.success}}
        typer.echo(json.dumps(shown, indent=2))
    else:
        show_assessment(found, make_console())


def _about(results: Sequence[Result]) -> dict[str, Any]:
    """The models as their results describe them, and the suites' hashes."""
    models: dict[str, Any] = {}
    suites: dict[str, Any] = {}
    for result in results:
        described = {name: value for name, value in result.configuration.items() if name not in _NOT_OF_THE_MODEL}
        if models.setdefault(result.model, described) != described:
            raise EvalMismatch(f"the results of {result.model} are of two different models of that name; give one's")
        suites.update(_held(result, "suites"))
    return {"models": models, "suites": suites}


def _held(result: Result, field: str) -> dict[str, Any]:
    """A part of the result's configuration. Raises EvalMismatch where it has none."""
    found = result.configuration.get(field)
    if not isinstance(found, dict):
        raise EvalMismatch(f"{result.model}'s result does not say its {field}: `outrider eval run` makes one that does")
    return found


def _pairs(results: Sequence[Result], more_suites: Sequence[Path]) -> list[Pair]:
    """Items that every model answered, with their text; whoever got no answer at all is left out.

    Raises EvalMismatch where a suite is unknown or changed, or models share no item.
    """
    suites = {suite.name: suite for suite in _suites(more_suites)}
    models = list(dict.fromkeys(result.model for result in results))
    outcomes: dict[str, dict[tuple[str, str], Outcome]] = {model: {} for model in models}
    texts: dict[tuple[str, str], tuple[str, str]] = {}
    for result in results:
        texts.update(_texts(result, suites))
        outcomes[result.model].update((each.key, each) for each in result.outcomes if each.outcome != "error")
    first, *others = outcomes.values()
    pairs = [
        Pair(texts[key][1], one.domain, one.group, {model: outcomes[model][key].correct for model in models})
        for key, one in first.items()
        if all(key in each and each[key].digest == one.digest for each in others)
    ]
    if not pairs:
        raise EvalMismatch(f"{' and '.join(models)} have no item in common: run them over the same suites")
    return pairs


def _suites(more: Sequence[Path]) -> Iterator[Suite]:
    """The shipped ones, then those named; raises SuiteError for a folder without any."""
    yield from map(load_suite, shipped_suites())
    for place in more:
        files = sorted(place.glob("*.yaml")) if place.is_dir() else [place]
        if not files:
            raise SuiteError(f"{place}: no suite (*.yaml) in this folder", param="suites")
        yield from map(load_suite, map(str, files))


def _texts(result: Result, suites: dict[str, Suite]) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """By item of the result: its digest and what its user asks."""
    known: dict[tuple[str, str], tuple[str, str]] = {}
    for name in sorted({outcome.suite for outcome in result.outcomes}):
        if name not in suites:
            raise EvalMismatch(
                f"suite {name} of {result.model}'s result is not a shipped one: name its file by --suites"
            )
        suite = suites[name]
        given = _held(result, "sampling").get(name, {})
        changed = {key: value for key, value in given.items() if value != getattr(suite.sampling, key)}
        for item in suite.sampled(changed).items:
            known[name, item.id] = item.digest, prompt_text(item.messages)
    for outcome in result.outcomes:
        if known.get(outcome.key, ("",))[0] != outcome.digest:
            raise EvalMismatch(f"item {outcome.id} of suite {outcome.suite} has changed since {result.model} was asked")
        yield outcome.key, known[outcome.key]
