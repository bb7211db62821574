"""What OpenAI's own client sees, over a real socket."""

from __future__ import annotations

from typing import Any

import openai
import pytest

USER = [{"role": "user", "content": "hi"}]
KEY = "sk-outrider-acme"


async def test_chat_completion_whole(site: Any) -> None:
    async with site.served() as url, openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
        answer = await client.chat.completions.create(model="flash", messages=USER, seed=7)
    assert answer.choices[0].message.content == "hello there 🐟"
    assert (answer.choices[0].finish_reason, answer.model, answer.object) == ("stop", "flash", "chat.completion")
    assert answer.system_fingerprint.startswith("fp_")
    assert answer.usage.completion_tokens == len(site.text.encode("hello there 🐟"))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    request, _ = site.flash.requests[0]
    assert request.prompt_token_ids == tuple(site.text.encode_chat(USER))
    assert (request.sampling.seed, request.sampling.temperature, request.sampling.max_tokens) == (7, 1.0, 256)


async def test_chat_completion_streamed_with_usage(site: Any) -> None:
    async with site.served() as url, openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
        stream = await client.chat.completions.create(
            model="pro", messages=USER, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(text for text in texts if text) == "hello there 🐟"
    assert not any("\ufffd" in text for text in texts if text)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    extra = chunks[-1].usage.model_extra["outrider"]
    assert (extra["rounds"], extra["accepted_tokens"], extra["acceptance_length"]) == (2, 4, 3.0)
    assert extra["cost_usd"] == pytest.approx(
        chunks[-1].usage.prompt_tokens * 1e-5 + chunks[-1].usage.completion_tokens * 1e-4
    )
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("stream", [False, True])
async def test_completions_from_text_and_from_ids(site: Any, stream: bool) -> None:
    expected = site.text.decode(site.text.encode("hello there 🐟")[:2])
    async with site.served() as url, openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
        for prompt in ("hi there", ["hi there"], site.text.encode("hi there"), [site.text.encode("hi there")]):
            answer = await client.completions.create(model="flash", prompt=prompt, max_tokens=2, stream=stream)
            if stream:
                parts = [chunk async for chunk in answer]
                assert "".join(part.choices[0].text for part in parts) == expected
                assert parts[-1].choices[0].finish_reason == "length"
            else:
                assert answer.choices[0].text == expected
                assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 2)
    assert {request.prompt_token_ids for request, _ in site.flash.requests} == {tuple(site.text.encode("hi there"))}


async def test_models_are_auto_and_what_the_tenant_may_use(site: Any) -> None:
    async with site.served() as url:
        for key, expected in ((KEY, ["auto", "flash", "pro"]), ("sk-outrider-rival", ["auto", "flash"])):
            async with openai.AsyncOpenAI(base_url=url, api_key=key) as client:
                assert [model.id async for model in client.models.list()] == expected


async def test_typed_refusals_become_the_client_s_own_exceptions(site: Any) -> None:
    async with site.served() as url:
        async with openai.AsyncOpenAI(base_url=url, api_key="sk-outrider-wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.chat.completions.create(model="flash", messages=USER)
        async with openai.AsyncOpenAI(base_url=url, api_key="sk-outrider-rival", max_retries=0) as client:
            with pytest.raises(openai.PermissionDeniedError):
                await client.chat.completions.create(model="pro", messages=USER)
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model="gpt-4", messages=USER)
            with pytest.raises(openai.BadRequestError) as caught:
                await client.chat.completions.create(model="flash", messages=USER, n=17)
    assert (caught.value.code, caught.value.param) == ("invalid_request", "n")
