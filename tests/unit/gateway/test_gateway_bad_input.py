"""A client's mistake is a 4xx in OpenAI's shape that names the field, and nothing reaches a model."""

from __future__ import annotations

import json
from typing import Any

import pytest

CHAT = {"model": "flash", "messages": [{"role": "user", "content": "hi"}]}
DAY_MS = 86_400_000


def refused(response: Any, status: int, code: str, param: str | None = None) -> str:
    """The error's message, after checking everything a client relies on."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param), error
    assert "Traceback" not in response.text
    assert response.headers["x-request-id"]
    return str(error["message"])


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
NO_JSON = CALL | {"function": {"name": "f", "arguments": "{"}}


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


BAD_FIELDS: list[tuple[dict[str, Any], str, str | None]] = [
    ({"messages": []}, "invalid_request", "messages"),
    ({"messages": None}, "invalid_request", "messages"),
    ({"messages": "hi"}, "invalid_request", "messages"),
    ({"messages": ["hi"]}, "invalid_request", "messages[0]"),
    ({"messages": [{"role": "user"}]}, "invalid_request", "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "invalid_request", "messages[0].content"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "invalid_request", "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "invalid_request", "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "invalid_request", "messages[0].content"),
    ({"messages": [{"role": "user", "content": "a", "colour": 1}]}, "invalid_request", "messages[0].colour"),
    ({"messages": [{"role": "user", "content": "a", "tool_calls": [CALL]}]}, "invalid_request",
     "messages[0].tool_calls"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "invalid_request", "messages[0].tool_calls[0].id"),
    ({"messages": [{"role": "assistant", "tool_calls": [NO_JSON]}]}, "invalid_request",
     "messages[0].tool_calls[0].function.arguments"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "invalid_request", "messages[0].tool_call_id"),
    ({"messages": [{"role": "user", "content": "a", "tool_call_id": "b"}]}, "invalid_request",
     "messages[0].tool_call_id"),
    ({"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}]}, "unsupported_parameter", "messages"),
    ({"model": 7}, "invalid_request", "model"),
    ({"model": None}, "invalid_request", "model"),
    ({"model": ""}, "invalid_request", "model"),
    ({"model": "gpt-4"}, "model_not_found", "model"),
    ({"max_tokens": 0}, "invalid_request", "max_tokens"),
    ({"max_tokens": -1}, "invalid_request", "max_tokens"),
    ({"max_tokens": "5"}, "invalid_request", "max_tokens"),
    ({"max_tokens": 1.5}, "invalid_request", "max_tokens"),
    ({"max_tokens": True}, "invalid_request", "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "invalid_request", "max_tokens"),
    ({"max_tokens": 10**30}, "context_length_exceeded", "messages"),
    ({"max_tokens": 512}, "context_length_exceeded", "messages"),
    ({"messages": [{"role": "user", "content": "long " * 600}]}, "context_length_exceeded", "messages"),
    ({"temperature": -0.1}, "invalid_request", "temperature"),
    ({"temperature": 2.1}, "invalid_request", "temperature"),
    ({"temperature": True}, "invalid_request", "temperature"),
    ({"top_p": 0}, "invalid_request", "top_p"),
    ({"top_p": 1.1}, "invalid_request", "top_p"),
    ({"stop": ""}, "invalid_request", "stop[0]"),
    ({"stop": ["a", ""]}, "invalid_request", "stop[1]"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "invalid_request", "stop"),
    ({"stop": 5}, "invalid_request", "stop"),
    ({"seed": 2**63}, "invalid_request", "seed"),
    ({"seed": "7"}, "invalid_request", "seed"),
    ({"stream": "yes"}, "invalid_request", "stream"),
    ({"stream_options": {"include_usage": True}}, "invalid_request", "stream_options"),
    ({"stream": True, "stream_options": {"include_usag": True}}, "invalid_request", "stream_options.include_usag"),
    ({"ignore_eos": 1}, "invalid_request", "ignore_eos"),
    ({"n": 17}, "invalid_request", "n"),
    ({"n": 0}, "invalid_request", "n"),
    ({"n": 1.0}, "invalid_request", "n"),
    ({"best_of": 2}, "unsupported_parameter", "best_of"),
    ({"logprobs": 0}, "invalid_request", "logprobs"),
    ({"top_logprobs": 1}, "invalid_request", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "invalid_request", "top_logprobs"),
    ({"echo": True}, "unsupported_parameter", "echo"),
    ({"prompt_logprobs": 1}, "unsupported_parameter", "prompt_logprobs"),
    ({"top_k": -2}, "invalid_request", "top_k"),
    ({"min_p": 1.5}, "invalid_request", "min_p"),
    ({"repetition_penalty": 0}, "invalid_request", "repetition_penalty"),
    ({"presence_penalty": 2.1}, "invalid_request", "presence_penalty"),
    ({"frequency_penalty": "1"}, "invalid_request", "frequency_penalty"),
    ({"logit_bias": {"5": 101}}, "invalid_request", "logit_bias.5"),
    ({"logit_bias": {"300": 1}}, "invalid_request", "logit_bias"),
    ({"logit_bias": {"hello": 1}}, "invalid_request", "logit_bias.hello.[key]"),
    ({"logit_bias": [5]}, "invalid_request", "logit_bias"),
    ({"stop_token_ids": [300]}, "invalid_request", "stop_token_ids"),
    ({"stop_token_ids": [-1]}, "invalid_request", "stop_token_ids[0]"),
    ({"min_tokens": -1}, "invalid_request", "min_tokens"),
    ({"min_tokens": 6, "max_tokens": 5}, "invalid_request", "min_tokens"),
    ({"response_format": {"type": "xml"}}, "invalid_request", "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "invalid_request", "response_format.json_schema"),
    ({"response_format": {"type": "json_object", "json_schema": {"name": "a"}}}, "invalid_request",
     "response_format.json_schema"),
    ({"response_format": {"type": "text", "json_schema": {"name": "a"}}}, "invalid_request", "response_format.type"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": 5}}}, "invalid_request",
     "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "invalid_request",
     "structured_outputs"),
    ({"structured_outputs": {}}, "invalid_request", "structured_outputs"),
    ({"structured_outputs": {"json": {}, "regex": "a"}}, "invalid_request", "structured_outputs"),
    ({"structured_outputs": {"json": "{"}}, "invalid_request", "structured_outputs.json"),
    ({"structured_outputs": {"grammar": "root ::= 'a'"}}, "invalid_request", "structured_outputs.grammar"),
    ({"structured_outputs": {"regex": "("}}, "invalid_request", "structured_outputs"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "point"}}}},
     "invalid_request", "response_format"),
    ({"guided_json": {}}, "unsupported_parameter", "guided_json"),
    ({"guided_regex": "a"}, "unsupported_parameter", "guided_regex"),
    ({"functions": [{"name": "f"}]}, "unsupported_parameter", "functions"),
    ({"tools": [{"type": "function"}]}, "invalid_request", "tools[0].function"),
    ({"tools": [{"type": "retrieval"}]}, "invalid_request", "tools[0].type"),
    ({"tools": [tool("a b")]}, "invalid_request", "tools[0].function.name"),
    ({"tools": [tool("f"), tool("f")]}, "invalid_request", "tools"),
    ({"tools": [tool("f")]}, "unsupported_parameter", "tools"),
    ({"tool_choice": "required"}, "invalid_request", "tool_choice"),
    ({"tool_choice": "sometimes"}, "invalid_request", "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "invalid_request", "tool_choice"),
    ({"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "invalid_request",
     "tool_choice"),
    ({"tools": [tool("f")], "tool_choice": "required", "response_format": {"type": "json_object"}}, "invalid_request",
     "response_format"),
    ({"tools": [tool("f")], "structured_outputs": {"regex": "a"}}, "invalid_request", "structured_outputs"),
    ({"prompt": "hi"}, "invalid_request", "prompt"),
    ({"outrider": []}, "invalid_request", "outrider"),
    ({"outrider": {"ttft_ms": 0}}, "invalid_request", "outrider.ttft_ms"),
    ({"outrider": {"ttft_ms": -5}}, "invalid_request", "outrider.ttft_ms"),
    ({"outrider": {"tpot_ms": DAY_MS + 1}}, "invalid_request", "outrider.tpot_ms"),
    ({"outrider": {"deadline_ms": "soon"}}, "invalid_request", "outrider.deadline_ms"),
    ({"outrider": {"max_cost_usd": 1e7}}, "invalid_request", "outrider.max_cost_usd"),
    ({"outrider": {"max_cost_usd": 0}}, "invalid_request", "outrider.max_cost_usd"),
    ({"outrider": {"quality": 1.5}}, "invalid_request", "outrider.quality"),
    ({"outrider": {"workflow": ""}}, "invalid_request", "outrider.workflow"),
    ({"outrider": {"tags": ["x"] * 17}}, "invalid_request", "outrider.tags"),
    ({"outrider": {"tags": [5]}}, "invalid_request", "outrider.tags[0]"),
    ({"outrider": {"ttft": 5}}, "invalid_request", "outrider.ttft"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "code", "param"), BAD_FIELDS, ids=lambda value: str(value)[:48])
async def test_a_bad_field_is_named(site: Any, change: dict[str, Any], code: str, param: str | None) -> None:
    refused(await site.chat(**change), 404 if code == "model_not_found" else 400, code, param)
    assert not site.flash.requests


@pytest.mark.parametrize(
    ("field", "hint"),
    [("max_token", "max_tokens"), ("temprature", "temperature"), ("topp", "top_p"), ("quux_zz", None)],
)
async def test_an_unknown_field_is_named_with_its_nearest(site: Any, field: str, hint: str | None) -> None:
    message = refused(await site.chat(**{field: 1}), 400, "invalid_request", field)
    assert (f"did you mean '{hint}'" in message) if hint else ("did you mean" not in message)


async def test_a_mistyped_budget_is_named_with_its_nearest(site: Any) -> None:
    message = refused(await site.chat(outrider={"max_cost": 1.0}), 400, "invalid_request", "outrider.max_cost")
    assert "max_cost_usd" in message


BAD_BODIES: list[tuple[bytes, str]] = [
    (b"", "JSON"),
    (b"{", "JSON"),
    (b"[1]", "object"),
    (b"null", "object"),
    (b'"text"', "object"),
    (b"[" * 100_000, "deep"),
    (b'{"model": NaN}', "JSON"),
    (b'{"temperature": 1e999}', "JSON"),
    (b'{"model": "\xff\xfe"}', "UTF-8"),
    (b"\xff\xfe{\x00}\x00", "JSON"),
    (b'{"model": "\\ud800"}', "JSON"),
    (b"model=flash&messages=hi", "JSON"),
]


@pytest.mark.parametrize(("body", "says"), BAD_BODIES, ids=lambda value: str(value)[:24])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_bytes_that_are_no_request(site: Any, path: str, body: bytes, says: str) -> None:
    async with site.client() as client:
        response = await client.post(path, content=body, headers={"content-type": "application/json"})
    assert says in refused(response, 400, "invalid_request")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"]
)
async def test_another_content_type_is_refused(site: Any, content_type: str) -> None:
    async with site.client() as client:
        response = await client.post(
            "/v1/completions", content=json.dumps(CHAT), headers={"content-type": content_type}
        )
    refused(response, 400, "invalid_request", "content-type")


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=UTF-8", None])
async def test_json_without_ado_is_taken(site: Any, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    async with site.client() as client:
        assert (await client.post("/v1/chat/completions", content=json.dumps(CHAT), headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"),
        ("", "prompt"),
        (None, "prompt"),
        (["a", ""], "prompt"),
        (["a"] * 17, "prompt"),
        ([[1], []], "prompt"),
        ([[1], "a"], "prompt"),
        ([1, "a"], "prompt"),
        ([1, 2.0], "prompt"),
        ([1, True], "prompt"),
        ([300], "prompt"),
        ([-1], "prompt"),
        ([10**30], "prompt"),
        ({"text": "a"}, "prompt"),
        ([[[1]]], "prompt"),
        ([None], "prompt"),
    ],
)
async def test_a_prompt_that_is_none(site: Any, prompt: Any, param: str) -> None:
    async with site.client() as client:
        response = await client.post("/v1/completions", json={"model": "flash", "prompt": prompt})
    refused(response, 400, "invalid_request", param)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e9", "1_0", "", "fast", "0x10", "86400001"])
@pytest.mark.parametrize("header", ["x-outrider-ttft-ms", "x-llm-d-slo-tpot-ms"])
async def test_a_budget_header_that_makes_no_sense_is_named(site: Any, header: str, value: str) -> None:
    refused(await site.chat(headers={header: value}), 400, "invalid_request", header)


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer sk-outrider-wrong", "Basic c2s6", "sk-outrider-acme", "Bearer ké"],
)
async def test_without_a_known_key_nothing_is_said(site: Any, authorization: str | None) -> None:
    async with site.client() as client:
        del client.headers["authorization"]
        headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
        for method, path in (
            ("POST", "/v1/chat/completions"),
            ("GET", "/v1/models"),
            ("GET", "/v1/outrider/decisions/d"),
        ):
            response = await client.request(method, path, headers=headers)
            refused(response, 401, "invalid_api_key")
            assert response.headers["www-authenticate"] == "Bearer"


async def test_unknown_paths_and_methods_keep_the_shape(site: Any) -> None:
    async with site.client() as client:
        refused(await client.get("/v2/nothing"), 404, "route_not_found")
        refused(await client.get("/v1/models/"), 404, "route_not_found")
        refused(await client.get("/v1/chat/completions"), 405, "method_not_allowed")
        refused(await client.delete("/v1/models"), 405, "method_not_allowed")


async def test_a_body_beyond_the_limit_is_not_read(make_site: Any) -> None:
    site = make_site(max_body_bytes=1000)
    assert (await site.chat()).status_code == 200
    refused(await site.chat(messages=[{"role": "user", "content": "x" * 1000}]), 413, "request_too_large")


async def test_harmless_fields_and_neutral_values_are_accepted(site: Any) -> None:
    response = await site.chat(
        n=1, user="u", metadata={"a": "b"}, store=True, service_tier="auto", parallel_tool_calls=None, logprobs=False,
        top_logprobs=None, tools=[], tool_choice=None, response_format={"type": "text"}, logit_bias={},
        presence_penalty=0, frequency_penalty=0.0, stop=None, seed=None, max_tokens=5, max_completion_tokens=5,
        stream_options=None, temperature=None, outrider={"ttft_ms": None},
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "annotations": []},
            {"role": "user", "content": "d"},
        ],
    )  # fmt: skip
    assert response.status_code == 200, response.text
    request, _ = site.flash.requests[0]
    turns = [("system", "be brief"), ("user", "ab"), ("assistant", "c"), ("user", "d")]
    expected = site.text.encode_chat([{"role": role, "content": content} for role, content in turns])
    assert request.prompt_token_ids == tuple(expected)
    assert request.sampling.temperature == 1.0


async def test_a_bug_answers_500_without_its_details(site: Any) -> None:
    site.flash.script = [ValueError("secret path /root/x")]
    response = await site.chat()
    refused(response, 500, "internal_error")
    assert "secret" not in response.text
    assert (await site.chat(model="pro")).status_code == 200
