"""Several answers to one request, and log-probabilities beside the text."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from outrider.errors import TargetLost
from outrider.text.detokenize import ByteLevelDetokenizer
from outrider.types import FinishReason, TokenChunk

KEY = "sk-outrider-acme"
USER: Any = [{"role": "user", "content": "hi"}]


def events(response: Any) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


async def test_n_choices_are_n_requests_of_one_decision(site: Any) -> None:
    answer = (await site.chat(n=3, seed=7)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"hello there 🐟"}
    requests = [request for request, _ in site.flash.requests]
    assert sorted(request.choice_index for request in requests) == [0, 1, 2]
    assert {request.sampling.seed for request in requests} == {7}
    assert len({request.request_id for request in requests}) == 3
    assert {request.cache_salt for request in requests} == {"acme"}
    assert len({decision.decision_id for _, decision in site.flash.requests}) == 1


async def test_usage_cost_and_event_count_the_prompt_once_and_every_answer(site: Any) -> None:
    one, three = (await site.chat()).json()["usage"], (await site.chat(n=3)).json()["usage"]
    assert three["prompt_tokens"] == one["prompt_tokens"]
    assert three["completion_tokens"] == 3 * one["completion_tokens"]
    assert three["outrider"]["cost_usd"] == pytest.approx(
        three["prompt_tokens"] * 1e-6 + three["completion_tokens"] * 1e-5
    )
    assert three["prompt_tokens_details"] == {"cached_tokens": 3}
    event = list(site.events.read())[-1]
    assert (event.choices, event.outcome.accepted_tokens, len(event.outcome.rounds)) == (3, 12, 6)
    assert (event.outcome.cached_tokens, event.outcome.finish_reason) == (3, "stop")


async def test_streams_of_n_choices_are_whole_and_each_begins_and_ends_once(site: Any) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    found = events(await site.chat(n=2, stream=True, stream_options=options))
    by_choice: dict[int, list[Any]] = {0: [], 1: []}
    for choice in (event["choices"][0] for event in found if event["choices"]):
        by_choice[choice["index"]].append(choice)
    for choices in by_choice.values():
        assert choices[0]["delta"]["role"] == "assistant"
        assert "".join(choice["delta"].get("content") or "" for choice in choices) == "hello there 🐟"
        assert [choice["finish_reason"] for choice in choices].count("stop") == 1
        assert choices[-1]["finish_reason"] == "stop"
    running = [event["usage"]["completion_tokens"] for event in found if event["usage"]]
    assert running == sorted(running)
    assert running[-1] == 2 * len(site.flash.script)
    assert found[-1]["choices"] == []


async def test_one_failing_choice_ends_the_request_and_closes_the_others(site: Any) -> None:
    site.flash.round_s = 0.005
    failing: list[Any] = [site.text.encode("he"), TargetLost("died")]
    scripts = iter([failing, site.flash.script * 50])
    stream, closed = site.flash.stream, []

    async def scripted(request: Any, decision: Any) -> Any:
        site.flash.script = next(scripts)
        try:
            async for chunk in stream(request, decision):
                yield chunk
        finally:
            closed.append(request.choice_index)

    site.flash.stream = scripted
    response = await site.chat(n=2)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "target_lost")
    assert sorted(closed) == [0, 1]
    assert site.app.state.gateway.running == 0


async def test_leaving_closes_every_choice(site: Any) -> None:
    site.flash.round_s = 60
    call = asyncio.create_task(site.chat(n=4))
    while len(site.flash.requests) < 4:
        await asyncio.sleep(0.01)
    site.flash.closed.clear()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert site.flash.closed.is_set()
    assert site.app.state.gateway.running == 0


async def test_a_money_budget_pays_for_all_choices(site: Any) -> None:
    site.says("hello " * 50)
    prompt = len(site.text.encode_chat(USER))
    body = (await site.chat(n=2, outrider={"max_cost_usd": (prompt + 80) * 1e-6})).json()
    assert body["usage"]["completion_tokens"] == 8
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    assert body["usage"]["outrider"]["limited_by"] == "max_cost_usd"
    assert (await site.chat(n=2, outrider={"max_cost_usd": (prompt + 10) * 1e-6})).status_code == 403


async def test_a_batch_of_prompts_is_answered_prompt_by_prompt(site: Any) -> None:
    body = (await site.complete(prompt=["hi", "hello there"], n=2, echo=True)).json()
    assert [choice["text"].removesuffix("hello there 🐟") for choice in body["choices"]] == [
        "hi", "hi", "hello there", "hello there",
    ]  # fmt: skip
    prompts = len(site.text.encode("hi")) + len(site.text.encode("hello there"))
    assert body["usage"]["prompt_tokens"] == prompts
    assert sorted(request.choice_index for request, _ in site.flash.requests) == [0, 0, 1, 1]


async def test_sampling_fields_reach_the_engine(site: Any) -> None:
    await site.chat(
        top_k=5, min_p=0.1, repetition_penalty=1.1, presence_penalty=-0.5, frequency_penalty=0.25,
        logit_bias={"7": -100, "9": 2.5}, stop_token_ids=[11, 12, 11], min_tokens=3, logprobs=True, top_logprobs=4,
    )  # fmt: skip
    sampling = site.flash.requests[0][0].sampling
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (5, 0.1, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-0.5, 0.25)
    assert sampling.logit_bias == ((7, -100.0), (9, 2.5))
    assert (sampling.stop_token_ids, sampling.min_tokens) == ((11, 12), 3)
    assert (sampling.logprobs, sampling.prompt_logprobs, sampling.constraint) == (4, None, None)
    await site.chat(top_k=-1, logprobs=False, min_tokens=300)
    sampling = site.flash.requests[1][0].sampling
    assert (sampling.top_k, sampling.logprobs, sampling.min_tokens, sampling.max_tokens) == (0, None, 300, 300)


@pytest.mark.parametrize(
    ("fields", "kind", "source"),
    [
        ({"response_format": {"type": "json_object"}}, "json_schema", {"type": "object"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}},
            "json_schema",
            {"type": "array"},
        ),
        ({"structured_outputs": {"json": '{"type": "number"}'}}, "json_schema", {"type": "number"}),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
    ],
)
async def test_what_an_answer_must_be_reaches_the_engine(
    site: Any, fields: dict[str, Any], kind: str, source: Any
) -> None:
    assert (await site.chat(**fields)).status_code == 200
    assert (await site.complete(**fields)).status_code == 200
    for request, _ in site.flash.requests:
        constraint = request.sampling.constraint
        assert constraint.kind == kind
        assert (constraint.source if kind == "regex" else json.loads(constraint.source)) == source


async def test_a_stop_token_ends_the_answer_and_is_no_text(site: Any) -> None:
    stop = site.text.encode("x")[0]
    site.flash.script = [TokenChunk((*site.text.encode("yes"), stop), finish=FinishReason.STOP)]
    assert (await site.chat(stop_token_ids=[stop])).json()["choices"][0]["message"]["content"] == "yes"


async def test_chat_logprobs_spell_the_text_byte_by_byte(site: Any) -> None:
    async with site.served() as url, openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
        answer = await client.chat.completions.create(model="flash", messages=USER, logprobs=True, top_logprobs=2)
    choice = answer.choices[0]
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content is not None
    assert bytes(byte for entry in content for byte in entry.bytes or ()).decode() == choice.message.content
    assert len(content) == len(site.flash.script)
    assert {entry.logprob for entry in content} == {-0.5}
    assert [top.logprob for top in content[0].top_logprobs] == [-0.5, -1.0]
    assert content[0].top_logprobs[0].token == content[0].token
    assert content[-1].token == "\ufffd"  # the last byte of a fish


async def test_streamed_logprobs_are_the_whole_answer_s(site: Any) -> None:
    whole = (await site.chat(logprobs=True, top_logprobs=1, stop="re")).json()["choices"][0]
    found = events(await site.chat(logprobs=True, top_logprobs=1, stop="re", stream=True))
    told = [event["choices"][0]["logprobs"] for event in found if event["choices"][0]["logprobs"]]
    assert [entry for each in told for entry in each["content"]] == whole["logprobs"]["content"]
    assert whole["message"]["content"] == "hello the"


async def test_tokens_cut_by_a_stop_string_are_not_told_and_held_ones_are(site: Any) -> None:
    site.flash.script = [(token,) for token in site.text.encode("one two")]
    pieces = [site.text.decode([token]) for (token,) in site.flash.script]
    cut = (await site.chat(logprobs=True, stop=" tw")).json()["choices"][0]
    assert cut["message"]["content"] == "one"
    assert "".join(entry["token"] for entry in cut["logprobs"]["content"]) == "one"
    held = (await site.chat(logprobs=True, stop="two three")).json()["choices"][0]
    assert [entry["token"] for entry in held["logprobs"]["content"]] == pieces


async def test_completion_logprobs_with_the_prompt_before_them(site: Any) -> None:
    async with site.served() as url, openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
        answer = await client.completions.create(model="flash", prompt="hi there", echo=True, logprobs=2)
    choice, logprobs = answer.choices[0], answer.choices[0].logprobs
    assert choice.text == "hi therehello there 🐟"
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.text_offset is not None
    assert logprobs.token_logprobs == [None] + [-0.5] * (len(logprobs.tokens) - 1)
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[0] is None  # type: ignore[comparison-overlap]  # OpenAI's own types forget the first
    assert logprobs.tokens[-4:] == ["bytes:\\xf0", "bytes:\\x9f", "bytes:\\x90", "bytes:\\x9f"]
    assert logprobs.text_offset[-4:] == [len("hi therehello there ")] * 4
    for token, offset in list(zip(logprobs.tokens, logprobs.text_offset, strict=True))[:-4]:
        assert choice.text[offset : offset + len(token)] == token


async def test_an_upstream_without_logprobs_loses_no_text(site: Any) -> None:
    site.flash.script = [TokenChunk(chunk) for chunk in site.flash.script]
    choice = (await site.chat(logprobs=True)).json()["choices"][0]
    assert (choice["message"]["content"], choice["logprobs"]["content"]) == ("hello there 🐟", [])


async def test_zero_logprobs_tell_the_chosen_token_alone(site: Any) -> None:
    choice = (await site.complete(logprobs=0)).json()["choices"][0]
    assert choice["logprobs"]["top_logprobs"][0] == {choice["logprobs"]["tokens"][0]: -0.5}
    assert (await site.complete()).json()["choices"][0]["logprobs"] is None


async def test_echo_in_a_stream_comes_with_the_first_event(site: Any) -> None:
    found = events(await site.complete(echo=True, logprobs=1, stream=True))
    first = found[0]["choices"][0]
    assert first["text"].startswith("hi there")
    assert first["logprobs"]["token_logprobs"][0] is None
    assert "".join(event["choices"][0]["text"] for event in found) == "hi therehello there 🐟"


def test_a_detokeniser_without_marks_hides_special_tokens(site: Any) -> None:
    assert isinstance(site.text.detokenizer(), ByteLevelDetokenizer)
    ids = [site.text.token_id("<|im_start|>"), *site.text.encode("a")]
    assert site.text.detokenizer().push(ids) == "a"
    assert site.text.detokenizer(["<|im_start|>"]).push(ids) == "<|im_start|>a"
