"""How `outrider eval sufficiency` prints on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from outrider.quality import Assessment, Judgement

__all__ = ["show_assessment", "show_judgement"]


def show_assessment(found: Assessment, console: Console) -> None:
    """One prompt's."""
    console.print(f"domain: {found.domain} ({found.domain_probability:.2f})")
    for model, probability in found.success.items():
        console.print(f"{model}: right with probability {probability:.2f}")
    if not found.success:
        console.print("no estimate: nothing like this was measured; the policy's averages count")


def show_judgement(found: Judgement, console: Console) -> None:
    """Calibration of each model, then what routing by the estimates comes to."""
    console.print(
        f"{found.items} held-out items of {found.groups} groups; {found.estimated:.1%} have estimates. Domain by text "
        f"alone: {found.domains.right:.1%} right, {found.domains.wrong:.1%} wrong, {found.domains.other:.1%} other."
    )
    _show_calibration(found, console)
    _show_domains(found, console)
    _show_bins(found, console)
    _show_floors(found, console)
    _show_trades(found, console)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name == "model" else "right")
    return table


def _show_calibration(found: Judgement, console: Console) -> None:
    table = _table(
        "Estimates of a right answer", "model", "right", "Brier", "by domain", "constant", "skill (95 %)", "AUC (95 %)",
        "ECE", "by chance",
    )  # fmt: skip
    for model, each in found.models.items():
        table.add_row(
            model,
            f"{each.right:.1%}",
            f"{each.brier:.4f}",
            f"{each.brier_by_domain:.4f}",
            f"{each.brier_constant:.4f}",
            f"{each.skill:.1%} ({each.skill_interval.low:.1%}–{each.skill_interval.high:.1%})",
            f"{each.auc:.3f} ({each.auc_interval.low:.3f}–{each.auc_interval.high:.3f})",
            f"{each.calibration_error:.3f}",
            f"{each.calibration_error_by_chance:.3f}",
        )
    console.print(table)


def _show_domains(found: Judgement, console: Console) -> None:
    table = _table(
        "In each domain", "model", "domain", "items", "groups", "said", "right", "Brier", "by domain", "AUC", "ECE",
        "by chance",
    )  # fmt: skip
    for model, calibration in found.models.items():
        for name, each in calibration.domains.items():
            table.add_row(
                model,
                name,
                *(str(each.items), str(each.groups), f"{each.mean_probability:.1%}", f"{each.right:.1%}"),
                *(f"{each.brier:.4f}", f"{each.brier_by_domain:.4f}", "–" if each.auc is None else f"{each.auc:.3f}"),
                *(f"{each.calibration_error:.3f}", f"{each.calibration_error_by_chance:.3f}"),
            )
    console.print(table)


def _show_bins(found: Judgement, console: Console) -> None:
    table = _table("Said / right, a tenth of the items in each", "model", *(str(number) for number in range(1, 11)))
    for model, each in found.models.items():
        table.add_row(model, *(f"{part.mean_probability:.2f}/{part.right:.2f}" for part in each.bins))
    console.print(table)


def _show_floors(found: Judgement, console: Console) -> None:
    first, *_, last = found.models
    table = _table(
        f"With a quality floor: {first} where it promises that much, else {last}",
        *("floor", f"to {first}", "promised", "right there", "right over all"),
        *("by domain: share", "right there", "over all"),
    )
    for each, plain in zip(found.floors, found.floors_by_domain, strict=True):
        table.add_row(
            f"{each.floor:.1f}",
            *(f"{each.share:.1%}", _share(each.promised), _share(each.right), f"{each.quality:.1%}"),
            *(f"{plain.share:.1%}", _share(plain.right), f"{plain.quality:.1%}"),
        )
    console.print(table)


def _show_trades(found: Judgement, console: Console) -> None:
    first = next(iter(found.models))
    alone = ", ".join(f"{model} alone {right:.1%}" for model, right in found.always.items())
    table = _table(
        f"Right answers with a share to {first}, those that lose least by it ({alone})",
        *(f"to {first}", "by estimates", "by domain", "at random"),
    )
    for each in found.trades:
        table.add_row(f"{each.share:.0%}", f"{each.quality:.1%}", f"{each.by_domain:.1%}", f"{each.at_random:.1%}")
    console.print(table)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
