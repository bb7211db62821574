"""The load driver: scenarios that ship, scenarios that are refused, users that take turns with a scripted server."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from outrider.bench.client import StreamClient
from outrider.bench.report import Table
from outrider.errors import ConfigurationError

FOLDER = Path(__file__).resolve().parents[2] / "load_tests"


@pytest.fixture(scope="module")
def driver() -> ModuleType:
    spec = importlib.util.spec_from_file_location("closed_loop", FOLDER / "closed_loop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["closed_loop"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", sorted((FOLDER / "scenarios").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_scenarios_load(driver: ModuleType, file: Path) -> None:
    scenario = driver.Scenario.load(file)
    assert scenario.body["model"] in ("auto", "flash", "pro")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("users: [1]\nduration_s: 1\nbody: {}\nsurprise: 1", "surprise"),
        ("users: []\nduration_s: 1\nbody: {}", "users"),
        ("users: [1]\nduration_s: -1\nbody: {}", "duration_s"),
        ("users: [1", "does not load"),
        ("- 1", "top level"),
    ],
)
def test_a_bad_scenario_names_its_field(driver: ModuleType, content: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=named):
        driver.Scenario.load(file)


async def test_users_ask_again_and_refusals_are_counted(driver: ModuleType) -> None:
    served = itertools.count()
    asked: set[str] = set()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.add(json.loads(request.content)["messages"][0]["content"])
        if next(served) == 2:
            return httpx.Response(429, text="later")
        events = ({"choices": [{"delta": {"content": "a"}}]}, {"usage": {"prompt_tokens": 2, "completion_tokens": 5}})
        content = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return httpx.Response(200, stream=httpx.ByteStream(content.encode()))

    scenario = driver.Scenario(users=(3,), duration_s=0.4, body={"model": "auto"})
    prompts = itertools.cycle([[{"role": "user", "content": name}] for name in "ab"])
    async with StreamClient("http://test", "k", transport=httpx.MockTransport(answer)) as client:
        outcome = await driver.drive(client, scenario, 3, prompts)
    assert asked == {"a", "b"}
    assert len(outcome.refused) == 1
    assert len(outcome.answers) == next(served) - 1 > 3
    table = Table("load", driver.COLUMNS)
    driver.add_row(table, 3, outcome)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["refused"] == 1
    assert row["tok/s"] == pytest.approx(5 * len(outcome.answers) / outcome.counted_s)


def test_nothing_answered_has_no_latency(driver: ModuleType) -> None:
    table = Table("load", driver.COLUMNS)
    driver.add_row(table, 2, driver.Outcome(refused=["no"], counted_s=1.0))
    assert table.rows[0][-1] is None
