"""Tools: what the model is told, what must follow, and calls in OpenAI's shape whole and streamed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import openai
import pytest

from outrider.gateway.messages import Message, conversation
from outrider.types import FinishReason, TokenChunk

KEY = "sk-outrider-acme"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
        "strict": True,
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"place": "Ulm"}}\n</tool_call>'
BARE = '{"name": "weather", "arguments": {"place": "Ulm"}}'
CLOCK_CALLED = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": {}}}
USER: Any = [{"role": "user", "content": "hi"}]


def called(message: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]


async def test_the_model_is_told_of_its_tools_and_of_earlier_calls(tool_site: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages = [*USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    messages.append({"role": "tool", "tool_call_id": "c1", "content": "noon"})
    assert (await tool_site.chat(messages=messages, tools=[WEATHER, CLOCK])).status_code == 200
    request, _ = tool_site.flash.requests[0]
    told = tool_site.text.decode(request.prompt_token_ids)
    assert '"name": "weather"' in told
    assert "strict" not in told
    assert '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>' in told
    assert "<tool_response>\nnoon\n</tool_response>" in told
    assert request.sampling.constraint is None


async def test_tools_that_may_not_be_used_are_not_told(tool_site: Any) -> None:
    assert (await tool_site.chat(tools=[WEATHER], tool_choice="none")).status_code == 200
    assert tool_site.flash.requests[0][0].prompt_token_ids == tuple(tool_site.text.encode_chat(USER))


async def test_a_call_within_text_whole_and_streamed(tool_site: Any) -> None:
    tool_site.says(f"I look.\n{CALL}\n{CALL}")
    async with tool_site.served() as url, openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
        answer = await client.chat.completions.create(model="flash", messages=USER, tools=[WEATHER])  # type: ignore[list-item]
        async with client.chat.completions.stream(model="flash", messages=USER, tools=[WEATHER]) as stream:  # type: ignore[list-item]
            streamed = await stream.get_final_completion()
    for choice in (answer.choices[0], streamed.choices[0]):
        assert choice.message.content == "I look.\n"
        assert called(choice.message) == [("weather", {"place": "Ulm"})] * 2
        assert choice.finish_reason == "tool_calls"
        ids = [call.id for call in choice.message.tool_calls or ()]
        assert len(set(ids)) == 2
        assert all(each.startswith("call_") for each in ids)


async def test_what_is_no_call_is_content(tool_site: Any) -> None:
    for text in ("just text", "<tool_call>\nnothing\n</tool_call>", CALL.replace("weather", "volcano"), CALL[:-20]):
        tool_site.says(text)
        choice = (await tool_site.chat(tools=[WEATHER])).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
        assert "tool_calls" not in choice["message"]


async def test_without_parallel_calls_the_first_one_ends_the_answer(tool_site: Any) -> None:
    tool_site.says(f"{CALL}\n{CALL} and so on and on")
    choice = (await tool_site.chat(tools=[WEATHER], parallel_tool_calls=False)).json()["choices"][0]
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "tool_calls"
    assert tool_site.flash.sent < len(tool_site.flash.script)


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", ["weather", "clock"]), ({"type": "function", "function": {"name": "clock"}}, ["clock"])],
)
async def test_a_call_that_must_come_is_begun_in_the_prompt_and_held_to_a_grammar(
    tool_site: Any, choice: Any, names: list[str]
) -> None:
    assert (await tool_site.chat(tools=[WEATHER, CLOCK], tool_choice=choice)).status_code == 200
    request, _ = tool_site.flash.requests[0]
    assert tool_site.text.decode(request.prompt_token_ids).endswith("assistant\n<tool_call>\n")
    schema = json.loads(request.sampling.constraint.source)
    calls = schema.get("anyOf", [schema])
    assert [call["properties"]["name"]["const"] for call in calls] == names


async def test_a_forced_call_streams_its_arguments_piece_by_piece(tool_site: Any) -> None:
    tool_site.says(BARE)
    response = await tool_site.chat(tools=[WEATHER], tool_choice="required", stream=True)
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    choices = [json.loads(line)["choices"][0] for line in lines if line != "[DONE]"]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    assert (calls[0]["function"]["name"], calls[0]["type"], calls[0]["index"]) == ("weather", "function", 0)
    assert len(calls) > 3
    assert all("id" not in call and "name" not in call["function"] for call in calls[1:])
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"place": "Ulm"}
    assert not any(choice["delta"].get("content") for choice in choices)
    assert choices[-1]["finish_reason"] == "tool_calls"


async def test_a_forced_call_cut_by_the_limit_says_so(tool_site: Any) -> None:
    tool_site.flash.script = [TokenChunk(tuple(tool_site.text.encode(BARE[:-6])), finish=FinishReason.LENGTH)]
    choice = (await tool_site.chat(tools=[WEATHER], tool_choice="required")).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert BARE[:-6].endswith(choice["message"]["tool_calls"][0]["function"]["arguments"])


async def test_auto_takes_a_model_that_knows_tools(site: Any, tool_text: Any) -> None:
    site.app.state.gateway.texts["pro"] = tool_text
    site.pro.load = dataclasses.replace(site.pro.load, context_tokens=4096)
    response = await site.chat(model="auto", tools=[CLOCK])
    assert response.headers["x-outrider-model"] == "pro"
    refused = await site.chat(model="flash", tools=[CLOCK])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
async def test_what_spells_a_special_token_is_text(tool_site: Any, token: str) -> None:
    special = tool_site.text.token_id(token)
    tools = [{"type": "function", "function": {"name": "f", "description": f"a{token}b"}}]
    for extra in ({}, {"tools": tools}):
        plain = {"messages": [{"role": "user", "content": "hello there"}], **({"tools": [CLOCK]} if extra else {})}
        await tool_site.chat(**plain)
        await tool_site.chat(messages=[{"role": "user", "content": f"hello{token} there{token}"}], **extra)
        before, after = (list(request.prompt_token_ids) for request, _ in tool_site.flash.requests[-2:])
        assert after.count(special) == before.count(special)
        assert f"hello{token} there{token}" in tool_site.text.decode(after)


def test_an_answer_of_a_tool_is_named_after_its_call() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    turns: list[dict[str, Any]] = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
        {"role": "tool", "tool_call_id": "c2", "content": "?"},
    ]
    told = conversation([Message.model_validate(turn) for turn in turns])
    assert [turn.get("name") for turn in told] == [None, "clock", None]
    assert told[0] == {"role": "assistant", "content": "", "tool_calls": [CLOCK_CALLED]}
