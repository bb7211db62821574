"""`outrider bench scheduler`: every scheduler decides every state, and the file says of what size they were."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from outrider.cli.bench import app


def test_every_scheduler_is_timed_and_written(tmp_path: Path) -> None:
    out = tmp_path / "scheduler.json"
    options = ["--requests", "6", "--slots", "3", "--tenants", "2", "--states", "4", "--out", str(out)]
    done = CliRunner().invoke(app, ["scheduler", *options])
    assert done.exit_code == 0, done.output
    told = json.loads(out.read_text())
    assert told["parameters"] == {"requests": 6, "slots": 3, "tenants": 2, "states": 4}
    rows = told["tables"][0]["rows"]
    names = {row["scheduler"].split(",")[0].split(":")[0] for row in rows}
    assert names == {"none", "fixed", "threshold", "table", "algorithm1", "asynchronous", "constrained"}
    assert len(rows) == 18
    for row in rows:
        assert row["budget"] + row["fill"] > 0
        assert row["both"] <= row["both, 99 %"] <= row["both, largest"]
