"""The arithmetic of figures: spreads, turns, ties, rounds, and the shape of a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from outrider.bench import Report, Spread, Table
from outrider.bench.acceptance import acceptance_by_domain, emitted_per_round
from outrider.bench.prompts import Prompt, held_out_prompts, mixed
from outrider.bench.setup import UNTRIMMED
from outrider.bench.spread import ratios, take_turns
from outrider.bench.ties import TIE_GAP, Outcome, compare, first_difference, greedy_gap, seeded_gap
from outrider.errors import ConfigurationError
from outrider.scheduling import algorithm1
from outrider.speculation import RowSampling, choose
from outrider.types import RequestSummary


def test_spread_is_median_and_extremes() -> None:
    assert Spread.of([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0, 3)
    assert Spread.of([4.0, 1.0, 2.0, 8.0]).median == 3.0


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ConfigurationError):
        Spread.of([])


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        (Spread(1234.5, 1200.0, 1300.25, 5), "1234 (1200–1300)"),
        (Spread(1.8312, 1.7, 1.9, 5), "1.83 (1.70–1.90)"),
        (Spread(0.01234, 0.01, 0.02, 2), "0.0123 (0.0100–0.0200)"),
        (Spread(0.0, 0.0, 0.0, 1), "0"),
        (Spread(float("inf"), 0.0, 0.0, 1), "inf"),
    ],
)
def test_spreads_show_three_digits(spread: Spread, text: str) -> None:
    assert str(spread) == text


def test_ratios_pair_repetitions_of_one_turn() -> None:
    """Medians divided would give 1.5; turn by turn the ratio is 2 each time."""
    assert ratios([2.0, 20.0, 6.0], [1.0, 10.0, 3.0]) == Spread(2.0, 2.0, 2.0, 3)
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0], [1.0, 2.0])


def test_arms_take_turns_and_the_first_turn_is_thrown_away() -> None:
    order: list[str] = []

    def arm(name: str) -> int:
        order.append(name)
        return len(order)

    said: list[str] = []
    results = take_turns({"A": lambda: arm("A"), "B": lambda: arm("B")}, 2, said.append)
    assert order == ["A", "B", "A", "B", "A", "B"]
    assert results == {"A": [3, 5], "B": [4, 6]}
    assert said[0] == "A: warming up"
    assert said[-1] == "B: repetition 2 of 2"


def test_first_difference() -> None:
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 9, 3]) == 1
    assert first_difference([1, 2, 3], [1, 2]) == 2
    assert first_difference([], [4]) == 0


@pytest.mark.parametrize(
    ("answer", "gap", "outcome"),
    [
        ([1, 2, 3], 1.0, Outcome.EQUAL),
        ([1, 9, 3], TIE_GAP / 2, Outcome.TIE),
        ([1, 9, 3], TIE_GAP, Outcome.MISMATCH),
        ([1, 2], 0.0, Outcome.MISMATCH),
        ([1, 2, 3, 4], 0.0, Outcome.MISMATCH),
    ],
)
def test_a_tie_needs_a_small_gap_at_a_token_both_chose(answer: list[int], gap: float, outcome: Outcome) -> None:
    asked: list[int] = []

    def gap_at(place: int) -> float:
        asked.append(place)
        return gap

    verdict = compare([1, 2, 3], answer, gap_at)
    assert verdict.outcome is outcome
    assert asked == ([] if outcome is Outcome.EQUAL else [verdict.position])


def test_greedy_gap_is_between_the_two_largest() -> None:
    assert greedy_gap(torch.tensor([1.0, 5.0, 3.5])) == 1.5


def test_seeded_gap_follows_the_engine_s_own_choice() -> None:
    """Lowering the chosen token's logit by a hair more than the gap makes another one win; by a hair less does not."""
    generator = torch.Generator().manual_seed(3)
    for position in range(40):
        logits = torch.randn(32, generator=generator)
        rows = RowSampling.of([0.7], [1.0], [11], [0])
        winner = int(choose(logits[None], rows, torch.tensor([position])))
        gap = seeded_gap(logits, temperature=0.7, top_p=1.0, seed=11, position=position)
        for change, same in ((0.98, True), (1.02, False)):
            moved = logits.clone()
            moved[winner] -= change * gap * 0.7  # log p + G moves with logits / T, against all others alike
            assert (int(choose(moved[None], rows, torch.tensor([position]))) == winner) is same


def test_seeded_gap_knows_the_nucleus_border() -> None:
    """p = (½, ¼, ¼): with top_p at ½ the border stands exactly at the second token's start."""
    logits = torch.tensor([0.5, 0.25, 0.25]).log()
    gaps = [seeded_gap(logits, temperature=1.0, top_p=0.5, seed=seed, position=4) for seed in range(64)]
    assert 0.0 in gaps  # where a token beyond the border would win the race
    assert all(gap == 0.0 or gap == float("inf") or gap > 0 for gap in gaps)
    far = [seeded_gap(logits, temperature=1.0, top_p=0.9, seed=seed, position=4) for seed in range(64)]
    assert 0.0 not in far


def test_seeded_gap_at_temperature_zero_is_greedy() -> None:
    assert seeded_gap(torch.tensor([1.0, 5.0, 3.5]), temperature=0, top_p=1, seed=1, position=2) == 1.5


def summary(tokens: int, *records: tuple[int, int]) -> RequestSummary:
    return RequestSummary(8, tokens, len(records), 0, 0, 0, 0.0, 0.0, 0.0, tuple(records))


def test_rounds_near_the_limit_do_not_count() -> None:
    """γ = 7 and 16 tokens: after 1 + 3 + 8 of them only 4 may follow, so the third round's block was cut."""
    assert emitted_per_round(summary(16, (7, 2), (7, 7), (3, 3)), 16, 7) == [3, 8]


def test_an_end_token_inside_the_run_has_no_bonus() -> None:
    """1 + 3 tokens, then a run of two accepted ones that ends with the end token."""
    assert emitted_per_round(summary(6, (7, 2), (2, 2)), 64, 7) == [3, 2]


def test_acceptance_pools_the_rounds_of_a_domain() -> None:
    answered = [
        ("code", summary(9, (7, 7))),
        ("code", summary(5, (7, 0), (7, 0), (7, 0), (7, 0))),
        ("maths", summary(3, (7, 1))),
        ("prose", summary(1)),
    ]
    assert acceptance_by_domain(answered, 64, 7) == {"code": 12 / 5, "maths": 2.0}


def test_nothing_is_trimmed_under_the_untrimmed_curve() -> None:
    import numpy as np

    survival = np.full((16, 7), 1e-6)
    assert (algorithm1(survival, np.full(16, 7), UNTRIMMED, fixed_s=0.01) == 7).all()


def report() -> Report:
    table = Table("speed", ("arm", "tok/s", "×"))
    table.add("ours", Spread(10.0, 9.0, 11.0, 5), 2.0)
    table.add("theirs", 5, None)
    return Report("decode", {"cpus": 2, "versions": {"torch": "2"}}, {"streams": [1, 16]}, [table], ["a remark"])


def test_a_report_is_json(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    report().write(file)
    read = json.loads(file.read_text("utf-8"))
    assert read == report().as_dict()
    assert read["bench"] == "decode"
    assert read["passed"] is True
    assert read["tables"][0]["rows"] == [
        {"arm": "ours", "tok/s": {"median": 10.0, "low": 9.0, "high": 11.0, "count": 5}, "×": 2.0},
        {"arm": "theirs", "tok/s": 5, "×": None},
    ]


def test_a_report_is_a_page() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    report().show(console)
    page = console.export_text()
    for part in ("outrider bench decode", "versions: torch 2", "streams: 1, 16", "10.0 (9.00–11.0)", "• a remark"):
        assert part in page


def test_a_row_must_fit_its_table() -> None:
    with pytest.raises(ConfigurationError):
        Table("speed", ("arm", "tok/s")).add("ours")


def test_an_unwritable_file_is_said() -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"):
        report().write(Path("/nowhere/at/all.json"))


def test_domains_alternate() -> None:
    prompts = [Prompt(domain, (), (place,)) for place, domain in enumerate(["a", "a", "a", "b", "c", "c"])]
    assert [prompt.domain for prompt in mixed(prompts)] == ["a", "b", "c", "a", "c", "a"]


@pytest.mark.parametrize("content", ["{", '{"domain": "code"}', '{"messages": []}', "[]"])
def test_held_out_lines_are_checked(content: str, tmp_path: Path, worded: Path) -> None:
    file = tmp_path / "held.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError):
        held_out_prompts(worded, None, max_tokens=8, file=file)


def test_prompts_must_leave_room(tmp_path: Path, worded: Path) -> None:
    file = tmp_path / "held.jsonl"
    short, long = ({"domain": "d", "messages": [{"role": "user", "content": "x" * n}]} for n in (3, 200))
    file.write_text(f"{json.dumps(long)}\n\n{json.dumps(short)}\n", encoding="utf-8")
    found = held_out_prompts(worded, None, max_tokens=100, file=file)
    assert [prompt.messages[0]["content"] for prompt in found] == ["xxx"]
    with pytest.raises(ConfigurationError, match="room"):
        held_out_prompts(worded, None, max_tokens=4000, file=file)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        held_out_prompts(worded, None, max_tokens=8, file=tmp_path / "absent.jsonl")
