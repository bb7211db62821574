"""Requests that do not all fit: who waits, who goes first, who is sent home and with which words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from outrider.errors import Overloaded
from outrider.gateway.entrance import Entrance
from outrider.gateway.line import Waiter
from outrider.policy import Admission, hash_key, parse_policy

GOLD, BRONZE, OTHER = "sk-outrider-gold", "sk-outrider-bronze", "sk-outrider-other"


def policy_text(max_waiting: int = 8, max_wait_ms: int = 5000, tiers: str = "") -> str:
    def tenant(name: str, key: str, tier: str) -> str:
        return f"  {name}: {{keys: [{{name: test, sha256: {hash_key(key)}}}], tier: {tier}, models: [flash]}}\n"

    return f"""
version: 1
models:
  flash: {{price_usd_per_million: {{input: 1.0, output: 10.0}}, quality: {{default: 0.5}}}}
batch_classes: {{balanced: {{}}}}
tiers:
  high: {{batch_class: balanced, priority: 90}}
  low: {{batch_class: balanced, priority: 10}}
admission: {{max_waiting: {max_waiting}, max_wait_ms: {max_wait_ms}, ageing_per_s: 1}}
tenants:
{tenant("gold", GOLD, "high")}{tenant("bronze", BRONZE, "low")}{tenant("other", OTHER, "low")}"""


@pytest.fixture
def crowded(make_site: Callable[..., Any]) -> Callable[..., Any]:
    """A site whose Flash takes one request at a time, and one more for the slack."""

    def make(**policy: Any) -> Any:
        site = make_site(policy_text(**policy))
        site.flash.load = replace(site.flash.load, max_running_requests=1)
        return site

    return make


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


def waiting(site: Any) -> int:
    return sum(site.app.state.gateway.waiting().values())


async def filled(site: Any) -> list[asyncio.Task[Any]]:
    """Two requests that stay until `let_go`."""
    site.flash.gate = asyncio.Event()
    tasks = [asyncio.create_task(site.chat(BRONZE)) for _ in range(2)]
    await until(lambda: site.flash.open == 2)
    return tasks


async def test_the_engine_is_never_given_more_than_fits_and_its_slack(crowded: Callable[..., Any]) -> None:
    site = crowded()
    running = await filled(site)
    late = [asyncio.create_task(site.chat(BRONZE)) for _ in range(6)]
    await until(lambda: waiting(site) == 6)
    await asyncio.sleep(0.05)
    assert (site.flash.open, len(site.flash.requests)) == (2, 2)
    site.flash.gate.set()
    answers = await asyncio.gather(*running, *late)
    assert [answer.status_code for answer in answers] == [200] * 8
    waited = [event.outcome.wait_s for event in site.events.read()]
    assert sum(each > 0.05 for each in waited) == 6
    assert site.app.state.gateway.running == waiting(site) == 0


async def test_the_more_important_go_first_and_their_wait_is_told(crowded: Callable[..., Any]) -> None:
    site = crowded()
    running = await filled(site)
    late = [asyncio.create_task(site.chat(key)) for key in (BRONZE, BRONZE)]
    await until(lambda: waiting(site) == 2)
    gold = asyncio.create_task(site.chat(GOLD))
    await until(lambda: waiting(site) == 3)
    site.flash.gate.set()
    await asyncio.gather(*running, *late, gold)
    order = [request.cache_salt for request, _ in site.flash.requests]
    assert order == ["bronze", "bronze", "gold", "bronze", "bronze"]
    answer = await gold
    assert answer.json()["usage"]["outrider"]["wait_ms"] > 0
    assert "wait;dur=" in answer.headers["server-timing"]


async def test_a_full_line_sheds_the_least_important(crowded: Callable[..., Any]) -> None:
    site = crowded(max_waiting=2)
    running = await filled(site)
    low = [asyncio.create_task(site.chat(BRONZE)) for _ in range(2)]
    await until(lambda: waiting(site) == 2)
    high = asyncio.create_task(site.chat(GOLD))
    done, _ = await asyncio.wait(low, return_when=asyncio.FIRST_COMPLETED)
    shed = done.pop().result()
    assert (shed.status_code, shed.json()["error"]["code"]) == (429, "overloaded")
    assert int(shed.headers["retry-after-ms"]) > 0
    newcomer = await site.chat(OTHER)
    fairer = [task for task in low if not task.done()]
    assert (newcomer.status_code, len(fairer)) == (429, 1)
    site.flash.gate.set()
    assert [answer.status_code for answer in await asyncio.gather(*running, *fairer, high)] == [200] * 4
    async with site.client(BRONZE) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    assert 'outrider:requests_shed_total{model_name="flash",reason="full"} 2.0' in lines
    assert 'outrider:requests_refused_total{reason="overloaded"} 2.0' in lines
    assert 'outrider:num_requests_in_line{model_name="flash"} 0.0' in lines
    refused = [event for event in site.events.read() if event.outcome.status == 429]
    assert [event.decision for event in refused] == [None, None]


async def test_nobody_waits_longer_than_the_policy_says(crowded: Callable[..., Any]) -> None:
    site = crowded(max_wait_ms=30)
    running = await filled(site)
    refused = await site.chat(GOLD)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    assert waiting(site) == 0
    site.flash.gate.set()
    await asyncio.gather(*running)


async def test_who_leaves_the_line_makes_room_in_it(crowded: Callable[..., Any]) -> None:
    site = crowded()
    site.flash.gate = asyncio.Event()
    async with site.served() as url, httpx.AsyncClient(headers={"authorization": f"Bearer {BRONZE}"}) as client:
        body = {"model": "flash", "messages": [{"role": "user", "content": "hi"}]}
        stay = [asyncio.create_task(client.post(f"{url}/chat/completions", json=body)) for _ in range(2)]
        await until(lambda: site.flash.open == 2)
        with pytest.raises(httpx.ReadTimeout):
            await client.post(f"{url}/chat/completions", json=body, timeout=0.2)
        await until(lambda: waiting(site) == 0)
        assert len(site.flash.requests) == 2
        site.flash.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*stay)] == [200, 200]
    assert site.app.state.gateway.running == 0


async def test_requests_in_line_and_in_flight_keep_the_policy_they_came_with(crowded: Callable[..., Any]) -> None:
    site = crowded()
    before = site.policy[0]
    running = await filled(site)
    late = asyncio.create_task(site.chat(BRONZE))
    await until(lambda: waiting(site) == 1)
    site.policy[0] = parse_policy(policy_text().replace("output: 10.0", "output: 70.0")).policy
    site.flash.gate.set()
    for answer in await asyncio.gather(*running, late):
        usage = answer.json()["usage"]
        assert answer.headers["x-outrider-policy"] == before.version != site.policy[0].version
        assert usage["outrider"]["cost_usd"] == pytest.approx(
            before.models["flash"].cost_usd(usage["prompt_tokens"], usage["completion_tokens"], 3)
        )
    after = (await site.chat(BRONZE)).json()["usage"]
    assert after["outrider"]["cost_usd"] > usage["outrider"]["cost_usd"]


async def test_a_draining_gateway_waits_for_its_line(crowded: Callable[..., Any]) -> None:
    site = crowded()
    gateway = site.app.state.gateway
    running = await filled(site)
    late = asyncio.create_task(site.chat(BRONZE))
    await until(lambda: waiting(site) == 1)
    gateway.drain()
    assert gateway.running == 3
    assert (await site.chat(GOLD)).status_code == 503
    site.flash.gate.set()
    assert [answer.status_code for answer in await asyncio.gather(*running, late)] == [200] * 3


def waiter(name: str, model: str = "flash", places: int = 1) -> Waiter:
    return Waiter(name, "acme", model, 50.0, 0.0, places)


async def test_room_is_kept_until_the_request_is_sent_on() -> None:
    room = {"flash": 0.0}
    entrance = Entrance(room.__getitem__, clock=lambda: 0.0)
    tasks = [asyncio.create_task(entrance.wait(waiter(name), Admission())) for name in "ab"]
    await asyncio.sleep(0)
    room["flash"] = 1.0
    entrance.let_through()
    entrance.let_through()
    await tasks[0]
    assert not tasks[1].done()
    assert not entrance.open_for("flash")
    entrance.sent_on(waiter("a"))
    entrance.let_through()
    await tasks[1]


async def test_a_waiter_cancelled_as_it_is_called_gives_its_room_back() -> None:
    room = {"flash": 0.0}
    entrance = Entrance(room.__getitem__, clock=lambda: 0.0)
    first = asyncio.create_task(entrance.wait(waiter("a"), Admission()))
    await asyncio.sleep(0)
    room["flash"] = 1.0
    entrance.let_through()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert entrance.open_for("flash")


async def test_a_model_without_room_holds_nobody_else_up() -> None:
    room = {"flash": 0.0, "pro": 1.0}
    entrance = Entrance(room.__getitem__, clock=lambda: 0.0)
    held = asyncio.create_task(entrance.wait(waiter("a"), Admission()))
    await asyncio.sleep(0)
    assert entrance.open_for("pro")
    await entrance.wait(waiter("b", "pro"), Admission())
    held.cancel()


async def test_with_no_line_at_all_there_is_no_waiting() -> None:
    told: list[tuple[str, str]] = []
    entrance = Entrance(lambda model: 0.0, lambda model, why: told.append((model, why)), clock=lambda: 0.0)
    with pytest.raises(Overloaded):
        await entrance.wait(waiter("a"), Admission(max_waiting=0))
    assert told == [("flash", "full")]
