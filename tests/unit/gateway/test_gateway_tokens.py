"""`/tokenize` and `/detokenize`, as vLLM's clients know them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

USER = [{"role": "user", "content": "hello there 🐟"}]


async def post(site: Any, path: str, key: str = "sk-outrider-acme", **body: Any) -> Any:
    async with site.client(key) as client:
        return await client.post(path, json={"model": "flash"} | body)


async def test_a_prompt_there_and_back(site: Any) -> None:
    found = (await post(site, "/tokenize", prompt="hello there 🐟", return_token_strs=True)).json()
    assert found["tokens"] == site.text.encode("hello there 🐟")
    assert (found["count"], found["max_model_len"]) == (len(found["tokens"]), 512)
    assert len(found["token_strs"]) == found["count"]
    assert "".join(found["token_strs"]).startswith("hello there ")
    assert (await post(site, "/detokenize", tokens=found["tokens"])).json() == {"prompt": "hello there 🐟"}


async def test_a_conversation_is_what_a_chat_sends_to_the_model(tool_site: Any) -> None:
    tools = [{"type": "function", "function": {"name": "clock"}}]
    for extra in ({}, {"tools": tools}):
        found = (await post(tool_site, "/tokenize", messages=USER, **extra)).json()
        assert found["token_strs"] is None
        await tool_site.chat(messages=USER, **extra)
        assert tuple(found["tokens"]) == tool_site.flash.requests[-1][0].prompt_token_ids
    bare = (await post(tool_site, "/tokenize", messages=USER, add_generation_prompt=False)).json()
    text = (await post(tool_site, "/detokenize", tokens=bare["tokens"])).json()["prompt"]
    assert text == "<|im_start|>user\nhello there 🐟<|im_end|>\n"


async def test_auto_needs_one_tokenizer(site: Any) -> None:
    assert (await post(site, "/tokenize", model="auto", prompt="hi")).status_code == 200
    site.app.state.gateway.texts["pro"] = dataclasses.replace(site.text, fingerprint="other")
    refused = await post(site, "/detokenize", model="auto", tokens=[1])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": USER}, 400, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, 400, "prompt"),
        ("/tokenize", {"messages": [{"role": "robot", "content": "a"}]}, 400, "messages[0].role"),
        ("/tokenize", {"messages": [{"role": "user"}]}, 400, "messages[0].content"),
        ("/tokenize", {"prompt": "a", "model": "gpt-4"}, 404, "model"),
        ("/tokenize", {"prompt": "a", "quux": 1}, 400, "quux"),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": "a"}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
        ("/detokenize", {"tokens": [300]}, 400, "tokens"),
        ("/detokenize", {"tokens": [10**30]}, 400, "tokens"),
    ],
)
async def test_what_makes_no_sense_is_named(
    site: Any, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    response = await post(site, path, **body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param), response.text


async def test_keys_and_grants_count_here_too(site: Any) -> None:
    assert (await post(site, "/tokenize", "sk-outrider-wrong", prompt="a")).status_code == 401
    assert (await post(site, "/tokenize", "sk-outrider-rival", prompt="a", model="pro")).status_code == 403


async def test_a_long_text_is_encoded_all_the_same(site: Any) -> None:
    found = (await post(site, "/tokenize", prompt="hello there " * 600)).json()
    assert found["tokens"] == site.text.encode("hello there " * 600)
