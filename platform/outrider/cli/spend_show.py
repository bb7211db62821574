"""Tables of `outrider spend`, out of the JSON that the API answers with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table

__all__ = ["show_spend", "show_workflows"]

Json = Mapping[str, Any]

NO_KEY = {"team": "(no team)", "tag": "(no tags)", "workflow": "(no workflow)"}
STATUSES = ("success", "failure", "abandoned", "unreported")


def show_spend(spend: Json, zone: ZoneInfo, console: Console) -> None:
    """One line per key and the total of the lines above it."""
    table = _table(f"Spend by {spend['by']}, {_when(spend, zone)}", spend["by"], NUMBERS)
    dollars = _Dollars(row["amount"]["value"] for row in [*spend["data"], spend["total"]])
    for row in spend["data"]:
        table.add_row(_key(spend["by"], row), *_cells(row, dollars))
    table.add_section()
    table.add_row("total", *_cells(spend["total"], dollars), style="bold")
    console.print(table)


NUMBERS = ("requests", "errors", "cache hits", "tokens in", "of them cached", "out", "late TTFT", "TPOT", "deadline")


def _cells(row: Json, dollars: _Dollars) -> list[str]:
    counts = [row[name] for name in ("num_model_requests", "num_errors", "num_cache_hits")]
    tokens = [row[name] for name in ("input_tokens", "input_cached_tokens", "output_tokens")]
    missed = [row["missed"][name] for name in ("ttft", "tpot", "deadline")]
    return [*(f"{number:,}" for number in [*counts, *tokens, *missed]), dollars(row["amount"]["value"])]


def show_workflows(spend: Json, zone: ZoneInfo, console: Console) -> None:
    """What completed workflows cost, then the dearest ones."""
    counts = tuple(name for status in STATUSES for name in (status, "$ of them"))
    table = _table(f"Workflows begun {_when(spend, zone)}, by {spend['by']}", spend["by"], counts, last="$ per success")
    rows = [*spend["data"], spend["total"]]
    dollars = _Dollars(row[status]["amount"]["value"] for row in rows for status in STATUSES)
    for row in spend["data"]:
        table.add_row(_key(spend["by"], row), *_shares(row, dollars))
    table.add_section()
    table.add_row("total", *_shares(spend["total"], dollars), style="bold")
    console.print(table)
    console.print(
        "$ per success: what successes, failures and abandoned ones cost, by the number of successes.", style="dim"
    )
    if spend["workflows"]:
        console.print(_dearest(spend["workflows"]))


def _shares(row: Json, dollars: _Dollars) -> list[str]:
    cells = []
    for status in STATUSES:
        cells += [f"{row[status]['workflows']:,}", dollars(row[status]["amount"]["value"])]
    per_success = row["usd_per_success"]
    return [*cells, "–" if per_success is None else f"{per_success:.9f}"]


def _dearest(workflows: Sequence[Json]) -> Table:
    table = Table("workflow", "tenant", "outcome", title="The dearest of them", title_justify="left")
    for name in ("requests", "errors", "wall s", "busy s", "TTFT ms\np50 / p95", "late\nTTFT / TPOT / end"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("models")
    table.add_column("$", justify="right", no_wrap=True)
    dollars = _Dollars(each["amount"]["value"] for each in workflows)
    for each in workflows:
        table.add_row(
            each["id"],
            each["tenant"],
            each["status"],
            f"{each['num_model_requests']:,}",
            f"{each['num_errors']:,}",
            f"{each['wall_ms'] / 1e3:,.1f}",
            f"{each['busy_ms'] / 1e3:,.1f}",
            " / ".join("–" if value is None else f"{value:,.0f}" for value in each["ttft_ms"].values()),
            " / ".join(f"{each['missed'][name]:,}" for name in ("ttft", "tpot", "deadline")),
            ", ".join(result["model"] for result in each["results"]),
            dollars(each["amount"]["value"]),
        )
    return table


def _table(title: str, key: str, numbers: Iterable[str], *, last: str = "$") -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(key)
    for name in (*numbers, last):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _key(by: str, row: Json) -> str:
    return NO_KEY.get(by, "–") if row[by] is None else str(row[by])


def _when(spend: Json, zone: ZoneInfo) -> str:
    since, until = (datetime.fromtimestamp(spend[name], zone) for name in ("start_time", "end_time"))
    return f"{since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} {zone.key}"


class _Dollars:
    """Writes money with as many digits as all the amounts of a table need to be exact: so they add up as printed."""

    def __init__(self, amounts: Iterable[float]) -> None:
        whole = [round(amount * 1e9) for amount in amounts]
        self._digits = next((digits for digits in range(2, 9) if all(n % 10 ** (9 - digits) == 0 for n in whole)), 9)

    def __call__(self, amount: float) -> str:
        return f"{amount:,.{self._digits}f}"
