"""The request surface on real models, as OpenAI's clients use it."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from support.platform_process import DEMO_KEY, PlatformProcess

QUESTION: Any = [{"role": "user", "content": "What is 12 + 30?"}]
ADD: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "on": {"type": "boolean"}},
    "required": ["x", "on"],
    "additionalProperties": False,
}

pytestmark = pytest.mark.e2e


def test_choices_differ_repeat_and_begin_with_the_only_answer(client: openai.OpenAI) -> None:
    def texts(n: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model="pro", messages=QUESTION, max_tokens=24, seed=3, n=n, temperature=1.5
        )
        assert [choice.index for choice in answer.choices] == list(range(n))
        return [choice.message.content for choice in answer.choices]

    three = texts(3)
    assert texts(1) == three[:1]
    assert texts(3) == three
    assert len(set(three)) > 1


def test_streamed_choices_with_logprobs_and_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="pro", messages=QUESTION, max_tokens=16, seed=3, n=2, logprobs=True, top_logprobs=3, stream=True,
            stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
        )
    )  # fmt: skip
    told: dict[int, int] = {0: 0, 1: 0}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        for entry in (choice.logprobs and choice.logprobs.content) or ():
            told[choice.index] += 1
            best = [top.logprob for top in entry.top_logprobs]
            assert len(best) == 3
            assert best == sorted(best, reverse=True)
            assert entry.logprob <= best[0] <= 0
    assert told == {0: 16, 1: 16}
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 32


def test_echo_scores_the_prompt(client: openai.OpenAI) -> None:
    prompt = "def add(a, b):\n    return a + b\n"
    choice = client.completions.create(
        model="pro", prompt=prompt, max_tokens=4, echo=True, logprobs=1, temperature=0
    ).choices[0]
    assert choice.text.startswith(prompt)
    assert choice.logprobs is not None
    scores = choice.logprobs.token_logprobs or []
    assert scores[0] is None  # type: ignore[comparison-overlap]  # OpenAI's own types forget the first
    assert all(math.isfinite(score) and score <= 0 for score in scores[1:])
    assert "".join(choice.logprobs.tokens or ()) == choice.text


def test_bias_and_stop_tokens_are_obeyed(platform: PlatformProcess, client: openai.OpenAI) -> None:
    headers = {"authorization": f"Bearer {DEMO_KEY}"}
    found = httpx.post(f"{platform.url}/tokenize", json={"model": "auto", "prompt": "7"}, headers=headers).json()
    (seven,) = found["tokens"]
    options: Any = {"model": "flash", "messages": QUESTION, "max_tokens": 6, "temperature": 0}
    pushed = client.chat.completions.create(**options, logit_bias={str(seven): 100}).choices[0]
    assert (pushed.message.content, pushed.finish_reason) == ("777777", "length")
    stopped = client.chat.completions.create(
        **options, logit_bias={str(seven): 100}, extra_body={"stop_token_ids": [seven]}
    ).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("", "stop")


@pytest.mark.parametrize("model", ["flash", "pro"])
def test_an_answer_keeps_to_its_schema(client: openai.OpenAI, model: str) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "point", "schema": POINT, "strict": True}}
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=200, seed=1, response_format=schema
    )
    point = json.loads(answer.choices[0].message.content or "")
    assert set(point) == {"x", "on"}
    assert isinstance(point["x"], int)
    assert isinstance(point["on"], bool)


def test_an_answer_keeps_to_its_pattern(client: openai.OpenAI) -> None:
    body = {"structured_outputs": {"regex": "(yes|no), [0-9]{3}"}}
    answer = client.chat.completions.create(model="pro", messages=QUESTION, max_tokens=32, seed=1, extra_body=body)
    word, _, number = (answer.choices[0].message.content or "").partition(", ")
    assert word in ("yes", "no")
    assert len(number) == 3
    assert number.isdigit()


def test_a_grammar_that_cannot_be_is_refused(client: openai.OpenAI) -> None:
    for body, field in (
        ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "point"}}}},
         "response_format"),
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="flash", messages=QUESTION, max_tokens=4, extra_body=body)
        assert caught.value.param == field


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_a_call_that_must_come_comes(client: openai.OpenAI, choice: Any) -> None:
    options: Any = {"model": "pro", "messages": QUESTION, "max_tokens": 200, "seed": 1, "tools": [ADD]}
    whole = client.chat.completions.create(**options, tool_choice=choice).choices[0]
    with client.chat.completions.stream(**options, tool_choice=choice) as stream:
        streamed = stream.get_final_completion().choices[0]
    for answer in (whole, streamed):
        (call,) = answer.message.tool_calls or ()
        assert call.type == "function"
        assert call.function.name == "add"
        arguments = json.loads(call.function.arguments)
        assert set(arguments) == {"a", "b"}
        assert answer.finish_reason == "tool_calls"
    assert not whole.message.content


def test_tokens_there_and_back(platform: PlatformProcess) -> None:
    with httpx.Client(base_url=platform.url, headers={"authorization": f"Bearer {DEMO_KEY}"}) as http:
        ids = http.post("/tokenize", json={"model": "auto", "prompt": "def add(a, b): 🐟"}).json()["tokens"]
        assert http.post("/detokenize", json={"model": "auto", "tokens": ids}).json() == {"prompt": "def add(a, b): 🐟"}


def test_openai_for_javascript(platform: PlatformProcess) -> None:
    node, script = shutil.which("node"), Path(__file__).with_name("openai_client.mjs")
    if node is None:
        pytest.skip("node is not installed")
    ran = subprocess.run(
        [node, str(script), f"{platform.url}/v1", DEMO_KEY], capture_output=True, text=True, timeout=120
    )
    if "ERR_MODULE_NOT_FOUND" in ran.stderr:
        pytest.skip("the npm package 'openai' cannot be resolved from tests/e2e: npm install --no-save openai")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "ok"
