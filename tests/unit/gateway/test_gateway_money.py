"""Money at the edge, with the real ledger: no unpaid token leaves, and what was paid is written before the end is."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.accounts import gateways

from outrider.accounting import Ask, Reservation, Settlement, Unmetered
from outrider.errors import AccountingUnavailable, TargetLost
from outrider.policy import hash_key, parse_policy

KEY = "sk-outrider-acme"
OUTPUT_USD = 1e-5
CHAT = {"model": "flash", "messages": [{"role": "user", "content": "hi"}]}
Opened = Callable[..., AbstractAsyncContextManager[Any]]


def policy_text(limits: str) -> str:
    return f"""
version: 1
models:
  flash:
    price_usd_per_million: {{input: 1.0, cached_input: 0.5, output: 10.0}}
    quality: {{default: 0.5}}
batch_classes: {{balanced: {{}}}}
tiers: {{standard: {{batch_class: balanced}}}}
tenants:
  acme: {{keys: [{{name: test, sha256: {hash_key(KEY)}}}], tier: standard, models: [flash], {limits}}}
"""


@pytest.fixture
def opened(make_site: Callable[..., Any], tmp_path: Path) -> Opened:
    @asynccontextmanager
    async def open_(limits: str) -> AsyncIterator[Any]:
        text = policy_text(limits)
        policy = parse_policy(text).policy
        assert policy is not None
        async with gateways(f"sqlite:///{tmp_path}/ledger.db", policy) as accountants:
            yield make_site(text, accountant=accountants[0])

    return open_


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """The ledger as another process reads it."""
    connection = sqlite3.connect(tmp_path / "ledger.db")
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute("SELECT * FROM ledger ORDER BY time_s")]
    finally:
        connection.close()


def usage_of(answer: httpx.Response) -> tuple[dict[str, Any], list[str]]:
    """(usage, every choice's finish reason) of a whole answer or a stream."""
    if answer.headers["content-type"] == "application/json":
        body = answer.json()
        return body["usage"], [choice["finish_reason"] for choice in body["choices"]]
    events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line and line != "data: [DONE]"]
    reasons = [choice["finish_reason"] for event in events for choice in event["choices"]]
    return events[-1]["usage"], [reason for reason in reasons if reason]


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_budget_ends_an_answer_at_the_last_paid_token(
    opened: Opened, tmp_path: Path, stream: bool, n: int
) -> None:
    budget_usd = 0.0005
    async with opened(f"budgets: [{{usd: {budget_usd}, per: month}}]") as site:
        site.says("hello " * 200, tokens_per_round=3)
        body = {"stream": stream} | ({"stream_options": {"include_usage": True}} if stream else {})
        usage, reasons = usage_of(await site.chat(n=n, **body))
        told = usage["outrider"]
        assert (set(reasons), told["limited_by"]) == ({"length"}, "budget")
        assert budget_usd - 3 * n * OUTPUT_USD < told["cost_usd"] <= budget_usd
        assert site.flash.open == 0
        refused = await site.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "budget_exhausted")
        assert refused.headers["x-should-retry"] == "false"
    (row,) = rows(tmp_path)
    assert (row["cost_nusd"], row["limited_by"]) == (round(told["cost_usd"] * 1e9), "budget")
    assert row["completion_tokens"] == usage["completion_tokens"]


async def test_the_row_is_there_when_the_client_sees_the_end(opened: Opened, tmp_path: Path) -> None:
    async with (
        opened("budgets: [{usd: 1, per: day}]") as site,
        site.served() as url,
        httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as client,
    ):
        async with client.stream("POST", f"{url}/chat/completions", json=CHAT | {"stream": True}) as response:
            decision = response.headers["x-outrider-decision"]
            async for line in response.aiter_lines():
                if 'finish_reason":"stop' in line:
                    assert [row["decision_id"] for row in rows(tmp_path)] == [decision]
        whole = await client.post(f"{url}/chat/completions", json=CHAT)
        assert whole.headers["x-outrider-decision"] in {row["decision_id"] for row in rows(tmp_path)}


async def test_what_a_prompt_found_cached_costs_less(opened: Opened, tmp_path: Path) -> None:
    async with opened("budgets: [{usd: 1, per: day}]") as site:
        usage = (await site.chat()).json()["usage"]
    fresh, cached = usage["prompt_tokens"] - 3, usage["prompt_tokens_details"]["cached_tokens"]
    assert cached == 3
    expected_usd = fresh * 1e-6 + 3 * 0.5e-6 + usage["completion_tokens"] * OUTPUT_USD
    assert usage["outrider"]["cost_usd"] == pytest.approx(expected_usd)
    assert rows(tmp_path)[0]["cost_nusd"] == round(expected_usd * 1e9)


async def test_what_failed_or_was_refused_gives_its_money_back(opened: Opened, tmp_path: Path) -> None:
    async with opened("budgets: [{usd: 0.002, per: month}], concurrency: 1") as site:
        script = site.flash.script
        site.flash.script = [TargetLost("died")]
        for _ in range(5):
            assert (await site.chat()).status_code == 503
        site.flash.script = script
        assert (await site.chat(max_tokens=100)).status_code == 200
    assert [(row["cost_nusd"] > 0, row["error_code"]) for row in rows(tmp_path)] == [
        *[(False, "target_lost")] * 5, (True, None)
    ]  # fmt: skip


async def test_rates_are_told_and_refused_with_when_to_come_back(opened: Opened) -> None:
    async with opened("requests_per_minute: 2, tokens_per_minute: 100000") as site:
        answers = [await site.chat() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    first, refused = answers[0], answers[-1]
    assert first.headers["x-ratelimit-limit-requests"] == refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert int(first.headers["x-ratelimit-remaining-tokens"]) < 100_000
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 0 < int(refused.headers["retry-after-ms"]) <= 60_000
    assert "x-should-retry" not in refused.headers


async def test_a_request_s_own_money_ends_every_choice(opened: Opened) -> None:
    async with opened("") as site:
        site.says("hello " * 200)
        answer = await site.chat(n=2, outrider={"max_cost_usd": 0.0004})
    usage, reasons = usage_of(answer)
    assert (reasons, usage["outrider"]["limited_by"]) == (["length"] * 2, "max_cost_usd")
    assert usage["outrider"]["cost_usd"] <= 0.0004


class GoneAtTheEnd(Unmetered):
    """Accounting whose owner cannot be reached when an answer has ended."""

    async def settle(self, reservation: Reservation, settlement: Settlement) -> None:
        raise AccountingUnavailable("the owner is away")


class GoneAtOnce(Unmetered):
    async def reserve(self, ask: Ask) -> Reservation:
        raise AccountingUnavailable("the owner is away", retry_after_s=2.0)


async def test_the_end_of_an_answer_waits_for_its_account(make_site: Callable[..., Any]) -> None:
    site = make_site(policy_text(""), accountant=GoneAtTheEnd())
    stream = await site.chat(stream=True)
    assert stream.status_code == 200
    last = stream.text.split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "accounting_unavailable"
    assert "[DONE]" not in stream.text
    whole = await site.chat()
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "accounting_unavailable")
    assert site.app.state.gateway.running == 0


async def test_nothing_runs_while_nobody_can_say_whether_the_money_is_there(make_site: Callable[..., Any]) -> None:
    site = make_site(policy_text(""), accountant=GoneAtOnce())
    refused = await site.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "accounting_unavailable")
    assert refused.headers["retry-after"] == "2"
    assert site.flash.requests == []
