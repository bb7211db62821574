"""Tables of `outrider eval`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from outrider.evals import Comparison, Outcome, Result, Suite, Summary
from outrider.evals.compare import Ratio

__all__ = ["make_console", "show_comparison", "show_failures", "show_result", "show_suites"]


def make_console() -> Console:
    """Tables keep their columns where output is not a terminal."""
    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else max(console.width, 140)
    return console


def show_suites(suites: Sequence[Suite], console: Console) -> None:
    """One line per suite."""
    table = Table("suite", "domain", "items", "hash", "description", "licence")
    for suite in suites:
        table.add_row(suite.name, suite.domain, str(len(suite.items)), suite.hash, suite.description, suite.license)
    console.print(table)


def show_result(result: Result, console: Console) -> None:
    """Figures per domain, and over all items where there are several domains."""
    table = Table(title=f"{result.model}: right answers, with 95 % intervals", title_justify="left")
    table.add_column("domain")
    for name in ("items", "right", "accuracy", "95 % interval", "errors", "cut off", "tokens in", "tokens out"):
        table.add_column(name, justify="right")
    for name in ("first text p50 / p95", "answer p50 / p95", "cost", "per right answer"):
        table.add_column(name, justify="right")
    rows = [*result.domains.items(), *([("all", result.overall)] if len(result.domains) > 1 else [])]
    for name, summary in rows:
        if name == "all":
            table.add_section()
        table.add_row(name, *_cells(summary))
    console.print(table)
    if any(summary.interval == "wilson" for _, summary in rows):
        console.print("Intervals: bootstrap over items; Wilson's where all answers or none are right.", style="dim")


def _cells(summary: Summary) -> list[str]:
    return [
        str(summary.items),
        str(summary.correct),
        f"{summary.accuracy:.1%}",
        f"{summary.low:.1%} – {summary.high:.1%}",
        str(summary.errors) if summary.errors else "–",
        str(summary.cut_off) if summary.cut_off else "–",
        _count(summary.prompt_tokens),
        _count(summary.completion_tokens),
        f"{_seconds(summary.first_s_p50)} / {_seconds(summary.first_s_p95)}",
        f"{_seconds(summary.total_s_p50)} / {_seconds(summary.total_s_p95)}",
        _dollars(summary.cost_usd),
        _dollars(summary.cost_per_correct_usd),
    ]


def show_failures(outcomes: Sequence[Outcome], count: int, console: Console) -> None:
    """Some of what went wrong, errors first."""
    failed = sorted((each for each in outcomes if not each.correct), key=lambda each: each.outcome != "error")
    for outcome in failed[:count]:
        console.print(f"  {outcome.suite}/{outcome.id}: {outcome.outcome}: {outcome.why}", markup=False, style="dim")
    if count and len(failed) > count:
        console.print(f"  … and {len(failed) - count} more; --failures N shows N, the result file all", style="dim")


def show_comparison(found: Mapping[str, Comparison], first: str, second: str, console: Console) -> None:
    """The second run against the first."""
    table = Table(title=f"{second} against {first}", title_justify="left")
    table.add_column("domain")
    for name in ("items", first, second, "difference", "95 % interval", "won / lost", "McNemar p"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for name in ("first text ×", "answer time ×", "cost ×"):
        table.add_column(name, justify="right")
    styles = {"better": "green", "worse": "red", "cannot tell": "yellow"}
    for name, each in found.items():
        if name == "all":
            if len(found) == 2:
                continue
            table.add_section()
        table.add_row(
            name,
            str(each.items),
            f"{each.first_accuracy:.1%}",
            f"{each.second_accuracy:.1%}",
            f"{100 * each.difference:+.1f}",
            f"{100 * each.low:+.1f} – {100 * each.high:+.1f}",
            f"{each.won} / {each.lost}",
            _p(each.mcnemar_p),
            f"[{styles[each.verdict]}]{each.verdict}[/]",
            _times(each.first_text_ratio),
            _times(each.latency_ratio),
            _times(each.cost_ratio),
        )
    console.print(table)
    console.print(
        "Differences in points, paired by item. × is the second over the first: medians of time, totals of cost.",
        style="dim",
    )


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _times(ratio: Ratio | None) -> str:
    if ratio is None:
        return "–"
    spread = f" ({ratio.low:.2f} – {ratio.high:.2f})" if math.isfinite(ratio.high) else ""
    return f"{ratio.value:.2f}{spread}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{1e3 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


def _dollars(value: float | None) -> str:
    return "–" if value is None else f"${value:.3g}" if value < 0.01 else f"${value:.2f}"
