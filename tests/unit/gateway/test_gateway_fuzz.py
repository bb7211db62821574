"""Whatever JSON arrives, parsing it gives an ask or a request error; never anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from outrider.errors import RequestError
from outrider.gateway.asks import parse_ask
from outrider.gateway.budgets import BUDGET_HEADERS
from outrider.gateway.fields import IGNORED, NEUTRAL
from outrider.gateway.openapi import describe, request_body
from outrider.gateway.schema import ChatBody, CompletionBody, OutriderOptions
from outrider.gateway.validation import decode_object

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
names = st.sampled_from(
    sorted({*ChatBody.model_fields, *CompletionBody.model_fields, *OutriderOptions.model_fields, *NEUTRAL, *IGNORED})
)
plausible: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}


def result_of(parse: Callable[[], Any]) -> Any:
    """What parsing gives, a refusal included; any other exception fails the test."""
    try:
        return parse()
    except RequestError as error:
        return error


@given(body=st.dictionaries(names | st.text(max_size=6), values, max_size=6), chat=st.booleans())
def test_any_object_is_an_ask_or_a_request_error(body: dict[str, Any], chat: bool) -> None:
    whole = plausible | body if chat else {"model": "auto", "prompt": "hi"} | body
    ask = result_of(lambda: parse_ask("chat" if chat else "completions", whole, {}))
    if isinstance(ask, RequestError):
        assert ask.status == 400
    else:
        assert 0 <= ask.sampling.temperature <= 2
        assert 0 < ask.sampling.top_p <= 1
        assert -(2**63) <= ask.sampling.seed < 2**63
        assert ask.n >= 1
        assert ask.prompts
        assert all(ask.stop)


@given(options=st.dictionaries(names, values, max_size=4))
def test_any_budget_object_is_a_budget_or_a_request_error(options: dict[str, Any]) -> None:
    ask = result_of(lambda: parse_ask("chat", plausible | {"outrider": options}, {}))
    if isinstance(ask, RequestError):
        return
    limits = (ask.budgets.ttft_s, ask.budgets.tpot_s, ask.budgets.deadline_s, ask.budgets.max_cost_usd)
    assert all(limit is None or 0 < limit <= 1e6 for limit in limits)


@given(header=st.sampled_from(sorted(BUDGET_HEADERS)), value=st.text(max_size=12))
def test_any_header_is_a_budget_or_a_request_error(header: str, value: str) -> None:
    ask = result_of(lambda: parse_ask("chat", plausible, {header: value}))
    assert not isinstance(ask, RequestError) or ask.param == header


@given(data=st.binary(max_size=40) | st.builds(lambda value: json.dumps(value).encode(), values))
def test_any_bytes_are_an_object_or_a_request_error(data: bytes) -> None:
    decoded = result_of(lambda: decode_object(data))
    assert isinstance(decoded, dict) or decoded.code == "invalid_request"


def test_the_description_of_the_api_is_whole() -> None:
    app = FastAPI()
    app.post("/chat", openapi_extra=request_body(ChatBody))(lambda: None)
    describe(app, ChatBody, CompletionBody)
    schema = app.openapi()
    text = json.dumps(schema)
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert {"ChatBody", "OutriderOptions", "Message"} <= references
    assert references <= set(schema["components"]["schemas"])
