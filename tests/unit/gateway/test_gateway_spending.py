"""Routes about money as tenants and operators meet them, over a ledger that is real."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI

from outrider.accounting import LedgerSpending
from outrider.cli.main import main
from outrider.database import Database, open_database
from outrider.database.tables import LEASES, LEDGER, OWNER, SPENT
from outrider.gateway import GatewaySettings, create_app
from outrider.policy import Policy, hash_key, parse_policy
from support.settlements import DAY_S, MONDAY_S, Call

KEY, RIVAL, OPERATOR = "sk-outrider-acme", "sk-outrider-rival", "sk-outrider-operator"
NOW_S = MONDAY_S + 36_000.0
SPAN = {"span_start_s": int(MONDAY_S) - 3600, "span_end_s": int(MONDAY_S + DAY_S) - 3600}
MONTH_S = MONDAY_S - 9 * DAY_S
POLICY = f"""
version: 1
operators: [{{name: olga, sha256: {hash_key(OPERATOR)}}}]
models: {{flash: {{price_usd_per_million: {{input: 1.0, output: 10.0}}, quality: {{default: 0.5}}}}}}
batch_classes: {{balanced: {{}}}}
tiers: {{standard: {{batch_class: balanced}}}}
teams: {{red: {{models: [flash], tiers: [standard], budgets: [{{usd: 1000, per: month}}], concurrency: 8}}}}
tenants:
  acme:
    keys: [{{name: test, sha256: {hash_key(KEY)}}}]
    tier: standard
    models: [flash]
    requests_per_minute: 60
    budgets: [{{usd: 10, per: day, time_zone: Europe/Berlin}}, {{usd: 100, per: month}}]
  rival: {{keys: [{{name: test, sha256: {hash_key(RIVAL)}}}], tier: standard, models: [flash]}}
"""
CALLS = [
    Call(time_s=MONDAY_S - DAY_S, workflow="a/b c", cost_nusd=2 * 10**9),
    Call(time_s=MONDAY_S + 60, workflow="a/b c", cost_nusd=10**9, model="pro"),
    Call(time_s=MONDAY_S + 61, cost_nusd=5 * 10**8, tags=("x",)),
    Call(tenant="rival", time_s=MONDAY_S + 90, workflow="w", cost_nusd=7 * 10**9),
]


def the_policy() -> Policy:
    """acme is of team red, as a team's own document would make it."""
    policy = parse_policy(POLICY).policy
    assert policy is not None
    return replace(policy, tenants={**policy.tenants, "acme": replace(policy.tenants["acme"], team="red")})


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path}/outrider.db")
    spent = {"tenant:acme": (2, 1.5), "team:red": (3, 4)}
    with opened.write() as connection:
        connection.execute(sa.insert(LEDGER), [call.row(number) for number, call in enumerate(CALLS)])
        for account, (earlier_usd, today_usd) in spent.items():
            for start_s, usd in ((MONDAY_S - DAY_S, earlier_usd), (MONDAY_S, today_usd)):
                row = {"account": account, "start_s": int(start_s), "nusd": int(usd * 1e9)}
                connection.execute(sa.insert(SPENT).values(row))
        lease = {"gateway": "g", "account": "tenant:acme", "kind": "money"} | SPAN
        connection.execute(sa.insert(LEASES).values(**lease, amount=25 * 10**7))
        permits = lease | {"gateway": "h", "kind": "permits"}
        connection.execute(sa.insert(LEASES).values(**permits, amount=4))
    yield opened
    opened.close()


@pytest.fixture
def app(database: Database) -> FastAPI:
    policy = the_policy()
    spending = LedgerSpending(database, lambda: policy, lambda: NOW_S)
    return create_app(GatewaySettings(), lambda: policy, {}, {}, spending=spending)


@pytest.fixture
def client(app: FastAPI) -> Callable[..., httpx.AsyncClient]:

    def make(key: str = KEY) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway", headers=headers)

    return make


async def get(client: httpx.AsyncClient, path: str, **params: Any) -> Any:
    async with client:
        answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_tenant_sees_its_budgets_rates_and_models(client: Callable[..., httpx.AsyncClient]) -> None:
    page = await get(client(), "/v1/usage")
    day, month, of_team = page["budgets"]
    assert (day["account"], day["period"], day["time_zone"]) == ("tenant:acme", "day", "Europe/Berlin")
    assert (day["start_time"], day["resets_at"]) == (MONDAY_S - 3600, MONDAY_S - 3600 + DAY_S)
    assert [day[f"{name}_usd"] for name in ("limit", "spent", "reserved", "remaining")] == [10, 1.5, 0.25, 8.25]
    assert [month[f"{name}_usd"] for name in ("limit", "spent", "reserved", "remaining")] == [100, 3.5, 0.25, 96.25]
    assert (of_team["account"], of_team["spent_usd"], of_team["remaining_usd"]) == ("team:red", 7, 993)
    assert [(each["account"], each["requests_per_minute"], each["concurrency"]) for each in page["rate_limits"]] == [
        ("tenant:acme", 60, None),
        ("team:red", None, 8),
    ]
    (bucket,) = page["data"]
    assert (bucket["start_time"], bucket["end_time"]) == (MONTH_S, MONTH_S + 30 * DAY_S)
    assert {each["model"]: each["amount"]["value"] for each in bucket["results"]} == {"flash": 2.5, "pro": 1.0}


async def test_usage_by_day_is_of_the_budgets_calendar(client: Callable[..., httpx.AsyncClient]) -> None:
    asked = {"start_time": int(MONDAY_S - DAY_S), "end_time": int(MONDAY_S + 3600), "bucket_width": "1d"}
    buckets = (await get(client(), "/v1/usage", **asked))["data"]
    assert [bucket["start_time"] - MONDAY_S for bucket in buckets] == [-DAY_S, -3600]
    assert [len(bucket["results"]) for bucket in buckets] == [1, 2]


async def test_a_window_that_the_owner_closed_stays_closed(
    client: Callable[..., httpx.AsyncClient], database: Database
) -> None:
    """The clock of this process went back, or is behind the owner's."""
    with database.write() as connection:
        connection.execute(sa.update(OWNER).values(calendar_s=NOW_S + DAY_S))
    day = (await get(client(), "/v1/usage"))["budgets"][0]
    assert (day["spent_usd"], day["start_time"]) == (0, MONDAY_S - 3600 + DAY_S)


async def test_who_has_no_limits_sees_the_month(client: Callable[..., httpx.AsyncClient]) -> None:
    page = await get(client(RIVAL), "/v1/usage")
    assert (page["budgets"], page["rate_limits"], page["start_time"]) == ([], [], MONTH_S)
    assert page["data"][0]["results"][0]["amount"]["value"] == 7


async def test_a_workflow_and_its_outcome(client: Callable[..., httpx.AsyncClient]) -> None:
    path = "/v1/workflows/a%2Fb%20c"
    assert (await get(client(), path))["status"] == "unreported"
    async with client() as http:
        for body in ({"outcome": "failure"}, {"outcome": "success", "value": 3, "note": "ünder way"}):
            answer = await http.post(f"{path}/outcome", json=body)
            assert answer.status_code == 200, answer.text
    found = await get(client(), path)
    assert answer.json() == found
    assert (found["id"], found["status"], found["num_model_requests"]) == ("a/b c", "success", 2)
    assert found["outcome"] == {"outcome": "success", "value": 3, "note": "ünder way", "reported_at": NOW_S}
    assert [each["outcome"] for each in found["earlier_outcomes"]] == ["failure"]
    assert found["amount"] == {"value": 3.0, "currency": "usd"}


async def test_nobody_sees_or_judges_anothers_workflow(client: Callable[..., httpx.AsyncClient]) -> None:
    async with client() as http:
        for answer in (
            await http.get("/v1/workflows/w"),
            await http.post("/v1/workflows/w/outcome", json={"outcome": "success"}),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "workflow_not_found")
    assert (await get(client(RIVAL), "/v1/workflows/w"))["status"] == "unreported"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "outcome"),
        ({"outcome": "won"}, "outcome"),
        ({"outcome": "success", "value": "3"}, "value"),
        ({"outcome": "success", "value": 1e300}, "value"),
        ({"outcome": "success", "note": "x" * 501}, "note"),
        ({"outcome": "success", "tenant": "rival"}, "tenant"),
    ],
)
async def test_reports_that_make_no_sense(
    client: Callable[..., httpx.AsyncClient], body: dict[str, Any], param: str
) -> None:
    async with client() as http:
        answer = await http.post("/v1/workflows/a%2Fb%20c/outcome", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/v1/usage?start_time=soon", "start_time"),
        ("/v1/usage?start_time=nan", "start_time"),
        ("/v1/usage?start_time=20&end_time=10", "start_time"),
        ("/v1/usage?start_time=0", "start_time"),
        ("/v1/usage?end_time=10", "end_time"),
        ("/v1/usage?bucket_width=1h", "bucket_width"),
        ("/v1/usage?tenant=rival", "tenant"),
        ("/v1/outrider/spend?by=colour", "by"),
        ("/v1/outrider/spend?time_zone=Mars", "time_zone"),
        ("/v1/outrider/spend/workflows?by=day", "by"),
        ("/v1/outrider/spend/workflows?top=all", "top"),
        ("/v1/outrider/spend/workflows?top=1001", "top"),
    ],
)
async def test_questions_that_make_no_sense(client: Callable[..., httpx.AsyncClient], path: str, param: str) -> None:
    async with client(OPERATOR if "spend" in path else KEY) as http:
        answer = await http.get(path)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("path", ["/v1/outrider/spend", "/v1/outrider/spend/workflows"])
async def test_everybodys_spend_is_for_operators(client: Callable[..., httpx.AsyncClient], path: str) -> None:
    for key, status, code in ((KEY, 403, "not_an_operator"), ("sk-outrider-x", 401, "invalid_api_key")):
        async with client(key) as http:
            answer = await http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    found = await get(client(OPERATOR), path, start_time=0.5 + MONDAY_S - 2 * DAY_S, end_time=MONDAY_S + DAY_S)
    assert [row["tenant"] for row in found["data"]] == ["rival", "acme"]


async def test_operators_keys_open_nothing_of_tenants(client: Callable[..., httpx.AsyncClient]) -> None:
    async with client(OPERATOR) as http:
        assert (await http.get("/v1/usage")).status_code == 401


async def test_a_ledger_that_does_not_answer(client: Callable[..., httpx.AsyncClient], database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text("DROP TABLE ledger"))
    async with client() as http:
        answer = await http.get("/v1/usage")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "accounting_unavailable")
    assert "ledger" not in answer.text


@pytest.fixture
def served(app: FastAPI) -> Iterator[str]:
    """The app behind a real server on a thread of its own."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("command", [["spend"], ["spend", "workflows"]])
def test_the_command_asks_a_running_platform(
    served: str,
    database: Database,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
) -> None:
    def ran(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as end:
            main([*command, "--since", "2025-11-08", "--until", "2025-11-12", *arguments])
        return end.value.code or 0, *capsys.readouterr()

    monkeypatch.setenv("OUTRIDER_OPERATOR_KEY", OPERATOR)
    code, there, _ = ran("--url", served, "--tenant", "acme", "--json")
    assert code == 0
    assert json.loads(there) == json.loads(ran("--database", str(database.engine.url), "--tenant", "acme", "--json")[1])
    assert "acme" in ran("--url", f"{served}/v1/")[1]
    monkeypatch.setenv("OUTRIDER_OPERATOR_KEY", KEY)
    code, out, error = ran("--url", served)
    assert (code, out) == (1, "")
    assert "refused with 403: this key is a tenant's" in error
    monkeypatch.delenv("OUTRIDER_OPERATOR_KEY")
    assert "give --key-file FILE or set OUTRIDER_OPERATOR_KEY" in ran("--url", served)[2]
