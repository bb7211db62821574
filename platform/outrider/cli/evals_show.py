"""Tables of `outrider eval`."""

from __future__ import annotations

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
    for name in ("items", "right", "95 %", "errors", "cut off", "tokens in", "out", "first text", "answer"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("cost", "per 1000 right"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [*result.domains.items(), *([("all", result.overall)] if len(result.domains) > 1 else [])]
    for name, summary in rows:
        if name == "all":
            table.add_section()
        table.add_row(name, *_cells(summary))
    console.print(table)
    console.print("Times: median / 95th percentile of answered items. Errors (no answer) count as wrong.", style="dim")
    if any(summary.interval == "wilson" for _, summary in rows):
        console.print("Intervals: bootstrap over items; Wilson's where all answers or none are right.", style="dim")


def _cells(summary: Summary) -> list[str]:
    return [
        str(summary.items),
        f"{summary.accuracy:.1%}",
        f"{100 * summary.low:.1f} – {100 * summary.high:.1f}",
        str(summary.errors) if summary.errors else "–",
        str(summary.cut_off) if summary.cut_off else "–",
        _count(summary.prompt_tokens),
        _count(summary.completion_tokens),
        _span(summary.first_s_p50, summary.first_s_p95),
        _span(summary.total_s_p50, summary.total_s_p95),
        _dollars(summary.cost_usd),
        _dollars(None if summary.cost_per_correct_usd is None else 1000 * summary.cost_per_correct_usd),
    ]


def show_failures(outcomes: Sequence[Outcome], count: int, console: Console) -> None:
    """Some of what went wrong: of every suite and kind in turn."""
    by_kind: dict[tuple[bool, str], list[Outcome]] = {}
    for outcome in outcomes:
        if not outcome.correct:
            by_kind.setdefault((outcome.outcome != "error", outcome.suite), []).append(outcome)
    ranked = sorted((rank, kind) for kind, each in by_kind.items() for rank in range(len(each)))
    failed = [by_kind[kind][rank] for rank, kind in ranked]
    for outcome in failed[:count]:
        console.print(f"  {outcome.suite}/{outcome.id}: {outcome.outcome}: {outcome.why}", markup=False, style="dim")
    if count and len(failed) > count:
        console.print(f"  … and {len(failed) - count} more; --failures N shows N, the result file all", style="dim")


def show_comparison(found: Mapping[str, Comparison], first: str, second: str, console: Console) -> None:
    """The second run against the first."""
    table = Table(title=f"{second} against {first}", title_justify="left")
    table.add_column("domain")
    for name in ("items", first, second, "points", "95 %", "won / lost", "McNemar p"):
        table.add_column(name, justify="right", no_wrap=name not in (first, second))
    table.add_column("verdict", no_wrap=True)
    for name in ("first text ×", "answer ×", "cost ×"):
        table.add_column(name, justify="right", no_wrap=True)
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
            f"{100 * each.low:+.1f} to {100 * each.high:+.1f}",
            f"{each.won} / {each.lost}",
            _p(each.mcnemar_p),
            f"[{styles[each.verdict]}]{each.verdict}[/]",
            _times(each.first_text_ratio),
            _times(each.latency_ratio),
            _times(each.cost_ratio),
        )
    console.print(table)
    console.print(
        "Points of accuracy, paired by item; won: right only now, lost: right only before. × is second ÷ first: "
        "medians of time, totals of cost (their intervals are in --json).",
        style="dim",
    )


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _times(ratio: Ratio | None) -> str:
    return "–" if ratio is None else f"{ratio.value:.2f}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _span(middle: float | None, high: float | None) -> str:
    if middle is None or high is None:
        return "–"
    return f"{middle:.2f} / {high:.2f} s" if high >= 10 else f"{1e3 * middle:.0f} / {1e3 * high:.0f} ms"


def _dollars(value: float | None) -> str:
    if value is None:
        return "–"
    digits = 2 if value >= 1 else 4 if value >= 0.01 else 6
    return f"${value:.{digits}f}"
