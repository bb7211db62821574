"""`outrider spend` as an operator meets it: tables that add up, times, filters, what is said where there is nothing."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import insert

from outrider.accounting.outcomes import record_outcome
from outrider.accounting.workflows import OutcomeReport
from outrider.cli.main import main
from outrider.cli.spend import moment_s
from outrider.database import open_database
from outrider.database.tables import LEDGER
from outrider.errors import InvalidRequest
from support.settlements import DAY_S, MONDAY_S, Call

SINCE = ("--since", "2025-11-10", "--until", "2025-11-14")
CALLS = [
    Call(workflow="w1", team="red", tags=("b", "a"), cost_nusd=1_500_000_001, prompt_tokens=9),
    Call(workflow="w1", time_s=MONDAY_S + 10, wall_s=5.0, model="pro", cost_nusd=20_000_000, ttft_s=0.3, missed=True),
    Call(workflow="w2", tags=("a", "b"), cost_nusd=500_000_000, error_code="engine_fault", ttft_s=None),
    Call(time_s=MONDAY_S + 1.5 * DAY_S, cost_nusd=7),
    Call(tenant="bolt", time_s=MONDAY_S + 2 * DAY_S, workflow="w1", cost_nusd=3_000_000_000),
    Call(tenant="bolt", time_s=MONDAY_S - 1, cost_nusd=999),
]


class Ran:
    """What a command left behind."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        self.code = end.value.code or 0
        self.out, self.err = capsys.readouterr()

    def json(self) -> Any:
        return json.loads(self.out)

    def lines(self) -> list[list[str]]:
        """The cells of a table's rows."""
        rows = [re.split("[│┃]", line)[1:-1] for line in self.out.splitlines() if line[:1] in "│┃" and line]
        return [[cell.strip() for cell in row] for row in rows]


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'led ger.db'}"
    database = open_database(url)
    with database.write() as connection:
        connection.execute(insert(LEDGER), [call.row(number) for number, call in enumerate(CALLS)])
        record_outcome(connection, "acme", "w1", OutcomeReport("success", value=2.5), MONDAY_S)
        record_outcome(connection, "acme", "w2", OutcomeReport("failure", note="gave up"), MONDAY_S)
    database.close()
    return url


@pytest.mark.parametrize("by", ["tenant", "team", "model", "tag", "day", "workflow"])
def test_a_table_adds_up_as_it_is_printed(capsys: pytest.CaptureFixture[str], url: str, by: str) -> None:
    ran = Ran(capsys, "spend", "--database", url, *SINCE, "--by", by)
    assert ran.code == 0, ran.err
    head, *rows, total = ran.lines()
    assert head[0] == by
    assert total[0] == "total"
    for column in range(1, len(head)):
        numbers = [Decimal(row[column].replace(",", "")) for row in (*rows, total)]
        assert sum(numbers[:-1]) == numbers[-1]
    assert Decimal(total[-1]) == Decimal("5.020000008")


def test_what_has_no_key_has_a_row_of_its_own(capsys: pytest.CaptureFixture[str], url: str) -> None:
    rows = {by: Ran(capsys, "spend", "--database", url, *SINCE, "--by", by).lines() for by in ("team", "tag")}
    assert [row[:2] for row in rows["team"][1:]] == [["(no team)", "4"], ["red", "1"], ["total", "5"]]
    assert [row[:2] for row in rows["tag"][1:]] == [["(no tags)", "3"], ["a + b", "2"], ["total", "5"]]


def test_days_are_those_of_a_time_zone(capsys: pytest.CaptureFixture[str], url: str) -> None:
    def by_day(zone: str) -> dict[str, int]:
        found = Ran(
            capsys, "spend", "--database", url, *SINCE, "--by", "day", "--tenant", "acme", "--time-zone", zone, "--json"
        ).json()
        return {row["day"]: row["num_model_requests"] for row in found["data"] if row["num_model_requests"]}

    assert by_day("UTC") == {"2025-11-10": 3, "2025-11-11": 1}
    assert by_day("Pacific/Auckland") == {"2025-11-10": 3, "2025-11-12": 1}


def test_filters_and_json(capsys: pytest.CaptureFixture[str], url: str) -> None:
    found = Ran(capsys, "spend", "--database", url, *SINCE, "--tenant", "acme", "--workflow", "w1", "--json").json()
    assert found["by"] == "model"
    assert [(row["model"], row["amount"]["value"]) for row in found["data"]] == [("flash", 1.500000001), ("pro", 0.02)]
    assert found["total"]["missed"] == {"ttft": 1, "tpot": 0, "deadline": 1}
    assert (found["start_time"], found["end_time"]) == (MONDAY_S, MONDAY_S + 4 * DAY_S)
    of_team = Ran(capsys, "spend", "--database", url, *SINCE, "--team", "red", "--json").json()
    assert of_team["total"]["amount"] == {"value": 1.500000001, "currency": "usd"}


def test_workflows_show_what_a_success_costs(capsys: pytest.CaptureFixture[str], url: str) -> None:
    ran = Ran(capsys, "spend", "workflows", "--database", url, *SINCE)
    assert ran.code == 0, ran.err
    _, bolt, acme, total, *rest = ran.lines()
    assert (bolt[0], bolt[7], bolt[9]) == ("bolt", "1", "–")
    assert acme[1::2] == ["1", "1", "0", "0", "2.020000001"]
    assert total[1::2] == ["1", "1", "0", "1", "2.020000001"]
    found = Ran(capsys, "spend", "workflows", "--database", url, *SINCE, "--tenant", "acme", "--json").json()
    first = found["workflows"][0]
    assert (first["id"], first["status"], first["outcome"]["value"]) == ("w1", "success", 2.5)
    assert (first["wall_ms"], first["busy_ms"]) == (15_000.0, 6_000.0)
    assert first["ttft_ms"] == {"p50": 100.0, "p95": 300.0}
    assert found["total"]["success"]["value"] == 2.5
    assert [row[0] for row in rest[2:]] == ["w1", "w1", "w2"]


def test_nothing_is_written_by_looking(capsys: pytest.CaptureFixture[str], url: str, tmp_path: Path) -> None:
    file = tmp_path / "led ger.db"
    before = file.read_bytes()
    Ran(capsys, "spend", "--database", url)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--database", "sqlite:///{folder}/none.db"], "none.db' does not exist"),
        (["--database", "sqlite:///{folder}/text.db"], "is not an SQLite database"),
        (["--database", "sqlite:///{folder}/empty.db"], "holds no ledger"),
        (["--database", "mysql:/x"], "use sqlite:///.outrider/outrider.db"),
        (["--by", "colour"], "'by' must be one of"),
        (["workflows", "--by", "day"], "'by' must be one of tenant, team, tag, model"),
        (["--since", "yesterday"], "'yesterday' is no time; write 90m"),
        (["--until", "30d", "--since", "7d"], "must lie before its end"),
        (["--time-zone", "Mars/Olympus"], "no time zone is called 'Mars/Olympus'"),
        (["--url", "http://127.0.0.1:9", "--key-file", "{folder}/empty.db"], "holds no operator's key"),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], text: str) -> None:
    (tmp_path / "text.db").write_text("no database" * 100)
    (tmp_path / "empty.db").write_bytes(b"")
    ran = Ran(capsys, "spend", *(each.format(folder=tmp_path) for each in arguments))
    assert (ran.code, ran.out) == (1, "")
    assert text in ran.err
    assert len(ran.err.splitlines()) == 1


def test_the_default_database_is_where_serving_puts_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ".outrider/outrider.db' does not exist" in Ran(capsys, "spend").err


def test_an_option_before_the_subcommand_is_not_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "spend", "--tenant", "acme", "workflows")
    assert (ran.code, ran.out) == (2, "")
    assert "options stand after 'workflows'" in ran.err


def test_moments() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert moment_s("90m", berlin, 10_000.0) == 4_600.0
    assert moment_s("2025-11-10", berlin, 0.0) == MONDAY_S - 3_600
    assert moment_s("2025-11-10T00:00:00Z", berlin, 0.0) == MONDAY_S
    assert moment_s("99999w", berlin, 10_000.0) == 0.0
    with pytest.raises(InvalidRequest):
        moment_s("7x", berlin, 0.0)
