"""Answers given again: which requests are equal, who may have them, what they cost, when they are forgotten."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from outrider.gateway.answers import answer_key
from outrider.gateway.asks import parse_ask
from outrider.policy import hash_key, parse_policy

KEY, FRIEND, RECLUSE, NEIGHBOUR = (f"sk-outrider-{name}" for name in ("acme", "friend", "recluse", "neighbour"))
SHARE = 0.25


def policy_text(extra: str = "", cache: str = "", flash: str = "[flash, pro]") -> str:
    def tenant(name: str, key: str, rest: str) -> str:
        return f"  {name}: {{keys: [{{name: test, sha256: {hash_key(key)}}}], tier: standard, {rest}}}\n"

    return f"""
version: 1
models:
  flash: {{price_usd_per_million: {{input: 1.0, output: 10.0}}, quality: {{default: 0.5}}}}
  pro: {{price_usd_per_million: {{input: 10.0, output: 100.0}}, quality: {{default: 0.9}}}}
batch_classes: {{balanced: {{}}}}
tiers: {{standard: {{batch_class: balanced}}}}
routing: {{staleness_per_s: 0, objective: cheapest}}
cache: {{enabled: true, price_share: {SHARE}, {cache}}}
{extra}
tenants:
{tenant("acme", KEY, f"models: {flash}, cache: shared")}\
{tenant("friend", FRIEND, "models: [flash], cache: shared")}\
{tenant("neighbour", NEIGHBOUR, "models: [flash], cache: own")}\
{tenant("recluse", RECLUSE, "models: [flash], cache: 'off'")}"""


@pytest.fixture
def site(make_site: Callable[..., Any]) -> Any:
    return make_site(policy_text())


def text_of(answer: httpx.Response) -> str:
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return str(answer.json()["choices"][0]["message"]["content"])
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def test_an_equal_request_has_the_same_answer_at_the_price_of_a_hit(site: Any) -> None:
    first = await site.chat(temperature=0)
    again = await site.chat(temperature=0)
    assert (first.headers["x-outrider-cache"], again.headers["x-outrider-cache"]) == ("miss", "hit")
    assert len(site.flash.requests) == 1
    assert first.json()["choices"] == again.json()["choices"]
    assert first.json()["id"] != again.json()["id"]
    one, two = first.json()["usage"], again.json()["usage"]
    assert one["completion_tokens"] == two["completion_tokens"]
    list_usd = one["prompt_tokens"] * 1e-6 + one["completion_tokens"] * 1e-5
    assert two["outrider"]["cost_usd"] == pytest.approx(SHARE * list_usd)
    assert (one["outrider"]["cache_hit"], two["outrider"]["cache_hit"]) == (False, True)
    miss, hit = site.events.read()
    assert (miss.outcome.cache_hit, hit.outcome.cache_hit, hit.outcome.status) == (False, True, 200)
    assert hit.decision.model == "flash"
    async with site.client(KEY) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    assert 'outrider:answer_cache_hits_total{model_name="flash"} 1.0' in lines
    assert 'outrider:answer_cache_misses_total{model_name="flash"} 1.0' in lines
    assert f'outrider:generation_tokens_total{{model_name="flash"}} {float(one["completion_tokens"])}' in lines
    assert 'outrider:predictions_total{model_name="flash",of="ttft"} 1.0' in lines
    assert again.headers["x-outrider-decision"] == hit.decision_id != miss.decision_id


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
async def test_a_hit_is_whole_or_streamed_as_asked(site: Any, first: bool, second: bool) -> None:
    await site.chat(seed=5, stream=first)
    again = await site.chat(seed=5, stream=second)
    assert again.headers["x-outrider-cache"] == "hit"
    assert text_of(again) == "hello there 🐟"


async def test_every_choice_its_log_probabilities_and_tool_calls_come_again(site: Any, tool_text: Any) -> None:
    body: dict[str, Any] = {"temperature": 0, "n": 2, "logprobs": True, "top_logprobs": 2}
    first, again = await site.chat(**body), await site.chat(**body)
    assert again.headers["x-outrider-cache"] == "hit"
    assert first.json()["choices"] == again.json()["choices"]
    assert len(again.json()["choices"]) == 2
    site.app.state.gateway.texts |= {"flash": tool_text, "pro": tool_text}
    site.flash.load = site.pro.load = replace(site.flash.load, context_tokens=4096)
    site.text = tool_text
    site.says('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>')
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    called, repeated = [(await site.chat(temperature=0, tools=tools)).json()["choices"][0] for _ in range(2)]
    assert called["finish_reason"] == repeated["finish_reason"] == "tool_calls"
    functions = [each["message"]["tool_calls"][0]["function"] for each in (called, repeated)]
    assert functions[0] == functions[1]


@pytest.mark.parametrize("body", [{}, {"temperature": 0.7}, {"top_p": 0.5}])
async def test_what_is_random_is_never_kept(site: Any, body: dict[str, Any]) -> None:
    answers = [await site.chat(**body) for _ in range(2)]
    assert [answer.headers.get("x-outrider-cache") for answer in answers] == [None, None]
    assert len(site.flash.requests) == 2


BASE: dict[str, Any] = {
    "model": "flash", "messages": [{"role": "user", "content": "hi"}], "seed": 3, "temperature": 0.5, "max_tokens": 9,
}  # fmt: skip
CHANGES: list[dict[str, Any]] = [
    {"model": "pro"}, {"model": "auto"}, {"messages": [{"role": "user", "content": "hi "}]}, {"seed": 4},
    {"messages": [{"role": "system", "content": "hi"}]}, {"temperature": 0.6}, {"max_tokens": 8}, {"n": 2},
    {"top_p": 0.9}, {"top_k": 3}, {"min_p": 0.1}, {"repetition_penalty": 1.1}, {"presence_penalty": 0.1},
    {"frequency_penalty": 0.1}, {"logit_bias": {"7": 1.0}}, {"min_tokens": 2}, {"stop": "x"}, {"stop_token_ids": [7]},
    {"ignore_eos": True}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 2},
    {"response_format": {"type": "json_object"}}, {"structured_outputs": {"regex": "a+"}},
    {"tools": [{"type": "function", "function": {"name": "add"}}]},
    {"tools": [{"type": "function", "function": {"name": "add"}}], "tool_choice": "required"},
    {"tools": [{"type": "function", "function": {"name": "add"}}], "parallel_tool_calls": False},
]  # fmt: skip


def key_of(body: dict[str, Any], tenant: str = "acme", policy: str = "") -> bytes | None:
    found = parse_policy(policy or policy_text()).policy
    assert found is not None
    return answer_key(parse_ask("chat", BASE | body, {}), found.tenants[tenant], found)


def test_whatever_can_change_an_answer_is_in_the_key() -> None:
    keys = [key_of({}), *map(key_of, CHANGES)]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    completion = parse_ask("completions", {"model": "flash", "prompt": "hi", "seed": 3}, {})
    policy = parse_policy(policy_text()).policy
    assert policy is not None
    echoed = replace(completion, echo=True)
    assert answer_key(completion, policy.tenants["acme"], policy) != answer_key(echoed, policy.tenants["acme"], policy)


@pytest.mark.parametrize(
    "body",
    [
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"service_tier": "auto"},
        {"outrider": {"workflow": "w", "tags": ["t"], "ttft_ms": 50}},
    ],
)
def test_what_cannot_change_the_answer_of_a_named_model_is_not(body: dict[str, Any]) -> None:
    assert key_of(body) == key_of({})


def test_the_seed_of_a_greedy_request_says_nothing() -> None:
    assert key_of({"temperature": 0}) == key_of({"temperature": 0, "seed": 9})


@pytest.mark.parametrize("body", [{"quality": 0.1}, {"ttft_ms": 50}, {"tags": ["t"]}, {"workflow": "w"}])
def test_auto_is_kept_with_all_that_the_router_is_told(body: dict[str, Any]) -> None:
    auto = {"model": "auto"}
    assert key_of(auto | {"outrider": body}) != key_of(auto)
    assert key_of(auto, "friend") != key_of(auto)
    assert key_of(auto, policy=policy_text().replace("output: 10.0", "output: 11.0")) != key_of(auto)


def test_whose_answers_are_whose() -> None:
    assert key_of({}, "acme") == key_of({}, "friend") != key_of({}, "neighbour")
    assert key_of({}, "recluse") is None
    assert key_of({}, policy=policy_text(cache="enabled: false").replace("enabled: true, ", "")) is None


async def test_a_shared_answer_respects_what_the_reader_is_granted_now(site: Any) -> None:
    await site.chat(model="pro", temperature=0)
    assert (await site.chat(FRIEND, model="pro", temperature=0)).status_code == 403
    assert (await site.chat(model="pro", temperature=0)).headers["x-outrider-cache"] == "hit"
    site.policy[0] = parse_policy(policy_text(flash="[flash]")).policy
    refused = await site.chat(model="pro", temperature=0)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")


async def test_a_quality_floor_is_kept_by_hits_too(site: Any) -> None:
    await site.chat(temperature=0)
    refused = await site.chat(temperature=0, outrider={"quality": 0.8})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "no_feasible_route")


async def test_a_hit_beyond_the_request_s_money_is_none(site: Any) -> None:
    await site.chat(temperature=0)
    dear = await site.chat(temperature=0, outrider={"max_cost_usd": 1e-9})
    assert (dear.status_code, dear.json()["error"]["code"]) == (403, "budget_exhausted")


async def test_an_answer_cut_by_money_is_not_kept(site: Any) -> None:
    body: dict[str, Any] = {"temperature": 0, "outrider": {"max_cost_usd": 5e-5}}
    cut = await site.chat(**body)
    assert cut.json()["usage"]["outrider"]["limited_by"] == "max_cost_usd"
    assert (await site.chat(temperature=0)).headers["x-outrider-cache"] == "miss"


async def test_an_answer_that_failed_or_was_left_is_not_kept(site: Any) -> None:
    script = site.flash.script
    site.flash.script = [*script[:2], RuntimeError("gone")]
    await site.chat(temperature=0, stream=True)
    site.flash.script = script
    assert (await site.chat(temperature=0)).headers["x-outrider-cache"] == "miss"


async def test_an_answer_of_another_fingerprint_is_forgotten(site: Any, base_text: Any) -> None:
    await site.chat(model="flash", temperature=0)
    gateway = site.app.state.gateway
    object.__setattr__(gateway.settings, "facts", {"dtype": "bfloat16"})
    assert (await site.chat(temperature=0)).headers["x-outrider-cache"] == "miss"
    assert (await site.chat(temperature=0)).headers["x-outrider-cache"] == "hit"


async def test_equal_requests_at_once_are_each_answered(site: Any) -> None:
    site.flash.round_s = 0.002
    answers = await asyncio.gather(*(site.chat(temperature=0) for _ in range(4)))
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
    assert (await site.chat(temperature=0)).headers["x-outrider-cache"] == "hit"
