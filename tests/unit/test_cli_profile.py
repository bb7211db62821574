"""`outrider profile` on a tiny pair: a table, JSON, a file that can be read again, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from outrider.cli.profile import app
from outrider.errors import ConfigurationError, ModelDirectoryError
from outrider.scheduling import read_costs
from support.tiny import TinyPair


def profile(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--requests", "4"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_file_holds_what_was_printed(pair: TinyPair, tmp_path: Path) -> None:
    out = tmp_path / "costs.json"
    options = ("--drafter", str(pair.drafter), "--link", "in-process", "--out", str(out), "--json")
    shown = json.loads(profile(str(pair.target), *options))
    assert json.loads(out.read_text()) == shown
    costs = read_costs(out)
    assert (costs.version, costs.subject and costs.subject.fingerprint) == (shown["version"], shown["fingerprint"])
    assert [context for context, _ in costs.verify] == [64]
    assert costs.verify[0][1].tokens == (1, 2, 4, 8, 16, 32)
    assert costs.draft is not None
    assert costs.draft.tokens == (1, 2, 4)
    assert shown["subject"]["link"] == "in-process"
    assert {"cpu", "load_average", "versions", "max_requests"} <= set(shown["configuration"])


def test_a_table_for_people_and_no_drafter(pair: TinyPair) -> None:
    shown = profile(str(pair.target))
    assert "T_verify" in shown
    assert "T_draft" not in shown
    assert "drafter none" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("/nowhere",), ModelDirectoryError, "does not exist"),
        (("demo:none",), ModelDirectoryError, "no demo model"),
        (("demo:pro", "--dtype", "int8"), ConfigurationError, "--dtype"),
        (("demo:pro", "--link", "pigeon"), ConfigurationError, "--link"),
        (("demo:pro", "--device", "tpu"), ConfigurationError, "--device"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: tuple[str, ...], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        profile(*arguments)
