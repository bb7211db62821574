"""Budgets in, decision out: headers, ids, events, metrics, health."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from typing import Any

import pytest

from outrider.gateway.budgets import merge_headers, to_budgets
from outrider.gateway.credit import TRANSIT_S, InFlightCredit
from outrider.gateway.schema import OutriderOptions
from outrider.policy import parse_policy
from outrider.routing import records
from outrider.types import Budgets, LoadSnapshot

SECRET = "xylophone quagmire"


async def test_auto_takes_the_cheapest_model_that_keeps_the_floor(site: Any) -> None:
    cheap = await site.chat(model="auto")
    good = await site.chat(model="auto", outrider={"quality": 0.8})
    assert (cheap.headers["x-outrider-model"], good.headers["x-outrider-model"]) == ("flash", "pro")
    assert (cheap.json()["model"], good.json()["model"]) == ("flash", "pro")


async def test_auto_passes_over_a_model_that_cannot_chat(site: Any, base_text: Any) -> None:
    """A base model has no template: it serves completions, and no conversation is refused because it is there."""
    site.app.state.gateway.texts["flash"] = base_text
    site.pro.load = dataclasses.replace(site.pro.load, context_tokens=4096)
    assert (await site.chat(model="auto")).headers["x-outrider-model"] == "pro"
    named = await site.chat(model="flash")
    assert (named.status_code, named.json()["error"]["param"]) == (400, "messages")
    completed = await site.complete(model="flash")
    assert completed.status_code == 200


async def test_every_answer_names_its_decision(site: Any) -> None:
    for stream in (False, True):
        response = await site.chat(stream=stream)
        _, decision = site.flash.requests[-1]
        assert response.headers["x-outrider-decision"] == decision.decision_id
        assert response.headers["x-outrider-depth-cap"] == str(decision.depth_cap)
        assert response.headers["x-outrider-batch-class"] == "balanced"
        assert response.headers["x-outrider-policy"] == site.policy[0].version
        assert response.headers["x-outrider-lossless"] == "coupled"


async def test_the_engine_gets_what_the_router_chose(site: Any) -> None:
    await site.chat(outrider={"tpot_ms": 500}, top_p=0.5, temperature=0, ignore_eos=True)
    request, decision = site.flash.requests[0]
    assert request.request_id == decision.decision_id
    assert (request.depth_cap, request.batch_class, request.tpot_target_s) == (
        decision.depth_cap,
        decision.batch_class,
        0.5,
    )
    assert (request.sampling.top_p, request.sampling.temperature, request.sampling.ignore_eos) == (0.5, 0.0, True)


async def test_a_request_id_is_echoed_if_it_is_one(site: Any) -> None:
    assert (await site.chat(headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
    for odd in ("a b", "x" * 129, "<script>", ""):
        made = (await site.chat(headers={"x-request-id": odd})).headers["x-request-id"]
        assert made not in ("", odd)
    assert len({request.request_id for request, _ in site.flash.requests}) == 5


async def test_a_money_budget_cuts_the_answer_and_says_so(site: Any) -> None:
    site.says("hello " * 50)
    prompt = len(site.text.encode_chat([{"role": "user", "content": "hi"}]))
    response = await site.chat(outrider={"max_cost_usd": (prompt + 40) * 1e-6})
    body = response.json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 4
    assert body["usage"]["outrider"]["limited_by"] == "max_cost_usd"
    assert body["usage"]["outrider"]["cost_usd"] == pytest.approx((prompt + 40) * 1e-6)
    unlimited = (await site.chat(max_tokens=4)).json()
    assert (unlimited["choices"][0]["finish_reason"], unlimited["usage"]["outrider"]["limited_by"]) == ("length", None)


async def test_an_exhausted_budget_is_not_to_be_retried(site: Any) -> None:
    response = await site.chat(outrider={"max_cost_usd": 1e-7})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "budget_exhausted")
    assert response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers


async def test_hard_limits_out_of_reach_are_429(site: Any) -> None:
    response = await site.chat(headers={"x-outrider-tpot-ms": "0.0001"})
    assert (response.status_code, response.json()["error"]["code"]) == (429, "no_feasible_route")
    assert response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers
    event = site.events.find(response.headers["x-outrider-decision"])
    assert (event.decision, event.outcome.status, event.outcome.error_code) == (None, 429, "no_feasible_route")
    assert event.budgets.tpot_s == pytest.approx(1e-7)


async def test_a_busy_replica_says_when_to_come_back(site: Any) -> None:
    site.flash.load = dataclasses.replace(site.flash.load, queued_requests=50, queued_tokens=5000, running_requests=16)
    response = await site.chat(outrider={"ttft_ms": 30})
    assert response.status_code == 429
    assert int(response.headers["retry-after-ms"]) <= 1000 * int(response.headers["retry-after"])
    assert "x-should-retry" not in response.headers


async def test_a_drawn_seed_is_told_so_that_an_answer_can_be_repeated(site: Any) -> None:
    seeds = [(await site.chat()).json()["usage"]["outrider"]["seed"] for _ in range(2)]
    assert seeds == [request.sampling.seed for request, _ in site.flash.requests]
    assert seeds[0] != seeds[1]
    assert (await site.chat(seed=-5)).json()["usage"]["outrider"]["seed"] == -5


async def test_the_policy_chooses_the_rule_where_the_tenant_gave_no_seed(site: Any) -> None:
    """A drawn seed is only told where it repeats the answer."""
    policy = site.policy[0]
    site.policy[0] = dataclasses.replace(policy, routing=dataclasses.replace(policy.routing, verification="rejection"))
    for asked, rule in (({}, "rejection"), ({"seed": 7}, "coupled"), ({"temperature": 0}, "coupled")):
        response = await site.chat(**asked)
        assert response.headers["x-outrider-lossless"] == rule
        request, decision = site.flash.requests[-1]
        assert (request.sampling.verification, decision.lossless) == (rule, rule)
        told = response.json()["usage"]["outrider"]["seed"]
        assert told == (request.sampling.seed if rule == "coupled" else None)


async def test_the_default_output_limit_fits_the_context(site: Any, make_site: Any) -> None:
    await site.chat()
    await site.chat(messages=[{"role": "user", "content": "x" * 400}])
    (first, _), (second, _) = site.flash.requests
    assert first.sampling.max_tokens == 256
    assert len(second.prompt_token_ids) + second.sampling.max_tokens == 512
    other = make_site(default_max_tokens=3)
    await other.chat()
    assert other.flash.requests[0][0].sampling.max_tokens == 3


async def test_token_ids_need_one_tokenizer(site: Any) -> None:
    async with site.client() as client:
        body = {"model": "auto", "prompt": [1, 2]}
        assert (await client.post("/v1/completions", json=body)).status_code == 200
        site.app.state.gateway.texts["pro"] = dataclasses.replace(site.text, fingerprint="other")
        refused = await client.post("/v1/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


def test_the_body_wins_over_headers_and_own_headers_over_borrowed_ones() -> None:
    headers = {
        "x-llm-d-slo-ttft-ms": "900",
        "x-outrider-ttft-ms": "800",
        "x-llm-d-slo-tpot-ms": "70",
        "x-outrider-deadline-ms": "6e3",
        "x-outrider-quality": "0",
        "x-outrider-workflow": "triage",
    }
    merged = merge_headers(OutriderOptions(deadline_ms=5.0), headers)
    assert to_budgets(merged) == Budgets(ttft_s=0.8, tpot_s=0.07, deadline_s=0.005, quality=0.0)
    assert merged.workflow == "triage"


def test_work_sent_since_the_snapshot_counts_until_a_newer_one() -> None:
    load = LoadSnapshot("flash", "flash-0", 1, time_s=100.0, queued_requests=1, queued_tokens=5)
    credit = InFlightCredit()
    assert credit.applied(load) is load
    credit.dispatched(100.5, 30)
    credit.dispatched(100.6, 10)
    assert (credit.applied(load).queued_requests, credit.applied(load).queued_tokens) == (3, 45)
    between = dataclasses.replace(load, time_s=100.55 + TRANSIT_S)
    assert (credit.applied(between).queued_requests, credit.applied(between).queued_tokens) == (2, 15)
    after = dataclasses.replace(load, time_s=101.0)
    assert credit.applied(after) is after


async def test_requests_between_two_snapshots_see_each_other(site: Any) -> None:
    frozen = dataclasses.replace(site.flash.load, time_s=time.time())
    site.flash.snapshots = lambda: [frozen]
    site.flash.round_s = 0.01
    body = {"messages": [{"role": "user", "content": "hello there " * 30}]}
    await asyncio.gather(*(site.chat(**body) for _ in range(4)))
    predicted = [decision.predicted_ttft_s for _, decision in site.flash.requests]
    assert predicted == sorted(predicted)
    assert predicted[-1] > predicted[0]


async def test_a_replaced_policy_rules_the_next_request(site: Any) -> None:
    before = (await site.chat()).headers["x-outrider-policy"]
    empty = "version: 1\nmodels: {flash: {price_usd_per_million: {input: 0, output: 0}, quality: {default: 1.0}}}\n"
    empty += "batch_classes: {b: {}}\ntiers: {t: {batch_class: b}}\ntenants: {}\n"
    site.policy[0] = parse_policy(empty).policy
    assert site.policy[0].version != before
    assert (await site.chat()).status_code == 401


async def test_a_decision_can_be_read_by_its_tenant_only(site: Any) -> None:
    response = await site.chat(model="auto")
    path = f"/v1/outrider/decisions/{response.headers['x-outrider-decision']}"
    async with site.client() as client, site.client("sk-outrider-rival") as rival:
        own, other = await client.get(path), await rival.get(path)
        unknown = await client.get("/v1/outrider/decisions/dec-0")
    assert own.json()["decision"]["model"] == "flash"
    assert {candidate["model"] for candidate in own.json()["decision"]["candidates"]} == {"flash", "pro"}
    assert own.json()["outcome"]["finish_reason"] == "stop"
    assert (other.status_code, other.json()["error"]) == (404, unknown.json()["error"])


async def test_the_ring_of_decisions_is_bounded(make_site: Any) -> None:
    site = make_site(recent_decisions=2)
    ids = [(await site.chat()).headers["x-outrider-decision"] for _ in range(3)]
    async with site.client() as client:
        statuses = [(await client.get(f"/v1/outrider/decisions/{each}")).status_code for each in ids]
    assert statuses == [404, 200, 200]


async def test_an_event_tells_everything_but_the_text(site: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    site.says("flamingo answer")
    message = [{"role": "user", "content": SECRET}]
    response = await site.chat(messages=message, stop=["zebra stop"], outrider={"tags": ["code"], "workflow": "triage"})
    event = site.events.find(response.headers["x-outrider-decision"])
    assert (event.tenant, event.endpoint, event.model, event.tags, event.workflow) == (
        "acme",
        "chat",
        "flash",
        ("code",),
        "triage",
    )
    assert records(event.decision.candidates)[0]["model"] == "flash"
    assert event.outcome.rounds == ((7, 3), (2, 1))
    assert event.outcome.completion_tokens == response.json()["usage"]["completion_tokens"]
    assert event.outcome.cost_usd == response.json()["usage"]["outrider"]["cost_usd"]
    assert event.outcome.ttft_s <= event.outcome.e2e_s
    written = site.events.path.read_text() + caplog.text
    assert not any(word in written for word in (*SECRET.split(), "flamingo", "zebra", "sk-outrider-acme"))


async def test_the_access_log_is_opt_in_and_without_text(make_site: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="outrider.access")
    await make_site().chat()
    assert not caplog.records
    await make_site(access_log=True).chat(messages=[{"role": "user", "content": SECRET}])
    assert '"status":200' in caplog.text
    assert "xylophone" not in caplog.text


async def test_metrics_count_answers_and_read_loads(site: Any) -> None:
    await site.chat()
    await site.chat(n=17)
    await site.chat("sk-outrider-wrong")
    async with site.client() as client:
        page = (await client.get("/metrics")).text
    assert 'outrider:requests_total{model_name="flash",status="200",tenant="acme"} 1.0' in page
    assert 'outrider:requests_total{model_name="",status="400",tenant="acme"} 1.0' in page
    assert 'outrider:requests_total{model_name="",status="401",tenant=""} 1.0' in page
    assert 'outrider:time_to_first_token_seconds_count{model_name="flash"} 1.0' in page
    assert 'outrider:num_requests_running{model_name="pro"} 0.0' in page


async def test_health_is_the_state_of_every_model(site: Any) -> None:
    async with site.client() as client:
        healthy = await client.get("/health")
        site.flash.load = None
        one = await client.get("/health")
        site.pro.load = None
        none = await client.get("/health")
    assert (healthy.status_code, healthy.json()["models"]["flash"]) == (
        200,
        {"ready": True, "drafter_attached": True, "running": 0, "queued": 0},
    )
    assert (one.status_code, one.json()["models"]["flash"]["ready"]) == (200, False)
    assert (none.status_code, none.json()["status"]) == (503, "not_ready")
    refused = await site.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")


async def test_a_long_prompt_does_not_stop_the_event_loop(site: Any) -> None:
    site.flash.load = dataclasses.replace(site.flash.load, context_tokens=10**7)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    response = await site.chat(messages=[{"role": "user", "content": "hello there " * 20_000}], max_tokens=1)
    ticking.cancel()
    assert response.status_code == 200
    assert ticks > 100
