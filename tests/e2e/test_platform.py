"""The whole platform under an OpenAI client: answers, and what happens when a part of it dies."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterable
from typing import Any

import httpx
import openai
import pytest

from support.platform_process import DEMO_KEY, PlatformProcess, until

QUESTION: Any = [{"role": "user", "content": "What is 12 + 30?"}]
MODELS = ("flash", "pro")
UNKNOWN_MODEL = b'{"model": "nope", "messages": [{"role": "user", "content": "x"}]}'

pytestmark = pytest.mark.e2e


def _long(client: openai.OpenAI, model: str, tokens: int = 600) -> Any:
    """A stream that goes on for a while."""
    return client.chat.completions.create(
        model=model,
        messages=QUESTION,
        max_tokens=tokens,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )


def _text(chunks: Iterable[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_a_killed_drafter_breaks_no_stream_and_comes_back(platform: PlatformProcess, client: openai.OpenAI) -> None:
    """First in this file: the router drafts for a target it knows nothing of yet, later only where that pays."""
    stream = _long(client, "flash")
    assert int(stream.response.headers["x-outrider-depth-cap"]) > 0
    begun = _text(itertools.islice(stream, 10))
    killed = platform.replica("draft-flash")
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    text = begun + _text(stream)
    until(lambda: platform.replica("draft-flash") not in (None, killed))
    until(lambda: platform.state("flash")["drafter_attached"])
    assert text == _text(_long(client, "flash"))


def test_what_it_prints_can_be_pasted(platform: PlatformProcess) -> None:
    line = next(line for line in platform.lines if line.startswith("curl "))
    assert DEMO_KEY in line
    with os.popen(f"{line} --silent --max-time 60") as shell:
        assert '"choices"' in shell.read()


def test_every_deployment_is_an_actor_of_its_own(platform: PlatformProcess) -> None:
    names = ["gateway"] + [f"{role}-{model}" for model in MODELS for role in ("target", "draft")]
    replicas = {name: platform.replica(name) for name in names}
    assert None not in replicas.values()
    assert len(set(replicas.values())) == len(names)


@pytest.mark.parametrize("model", ["auto", *MODELS])
def test_answers_whole(client: openai.OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=model, messages=QUESTION, max_tokens=32, seed=5)
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 32
    assert raw.headers["x-outrider-model"] in MODELS
    assert raw.headers["x-outrider-decision"].startswith("dec-")


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI, model: str) -> None:
    options: Any = {"model": model, "messages": QUESTION, "max_tokens": 48, "seed": 11, "temperature": 1.0}
    whole = client.chat.completions.create(**options).choices[0].message.content
    again = client.chat.completions.create(**options).choices[0].message.content
    chunks = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **options))
    assert whole == again == _text(chunks)
    assert chunks[-1].usage is not None
    assert not chunks[-1].choices


def test_completions_too(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="pro", prompt="def add(a, b):", max_tokens=16, seed=2, temperature=0)
    assert answer.choices[0].text


def test_sixteen_at_once_each_get_their_own(client: openai.OpenAI) -> None:
    def ask(seed: int) -> str:
        answer = client.chat.completions.create(model="flash", messages=QUESTION, max_tokens=32, seed=seed)
        return answer.choices[0].message.content or ""

    alone = {seed: ask(seed) for seed in range(16)}
    together: dict[int, str] = {}
    threads = [threading.Thread(target=lambda s=seed: together.update({s: ask(s)})) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    different = [seed for seed in alone if alone[seed] != together[seed]]
    assert len(different) <= 1, "answers differ beyond what ties in floating point explain"


@pytest.mark.parametrize(
    ("path", "key", "body", "status", "code"),
    [
        ("/v1/chat/completions", "sk-outrider-wrong", b"{}", 401, "invalid_api_key"),
        ("/v1/chat/completions", DEMO_KEY, UNKNOWN_MODEL, 404, "model_not_found"),
        ("/v1/chat/completions", DEMO_KEY, b"{not json", 400, "invalid_request"),
        ("/v1/chat/completions", DEMO_KEY, b"\xff\xfe", 400, "invalid_request"),
        ("/v1/chat/completions", DEMO_KEY, b'{"model":"flash","messages":[]}', 400, "invalid_request"),
        ("/v1/nowhere", DEMO_KEY, b"{}", 404, "route_not_found"),
    ],
)  # fmt: skip
def test_bad_requests_are_answered_in_kind(
    platform: PlatformProcess, path: str, key: str, body: bytes, status: int, code: str
) -> None:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "x-request-id": "mine-1"}
    answer = httpx.post(platform.url + path, content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.get_list("x-request-id") == ["mine-1"]


def test_metrics_are_there(platform: PlatformProcess) -> None:
    assert "outrider" in httpx.get(f"{platform.url}/metrics").text


def test_a_client_that_leaves_stops_the_work(platform: PlatformProcess, client: openai.OpenAI) -> None:
    stream = _long(client, "pro", tokens=1800)
    for _ in range(5):
        next(stream)
    assert until(lambda: platform.state("pro")["running"]) == 1
    stream.close()
    until(lambda: platform.state("pro")["running"] == 0, limit_s=10)


def test_a_killed_target_ends_its_streams_in_kind_and_comes_back(
    platform: PlatformProcess, client: openai.OpenAI
) -> None:
    stream = _long(client, "pro")
    next(stream)
    killed = platform.replica("target-pro")
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="lost"):
        list(stream)
    client.chat.completions.create(model="flash", messages=QUESTION, max_tokens=4)  # nobody else is disturbed
    until(lambda: platform.replica("target-pro") not in (None, killed))
    until(lambda: platform.state("pro")["ready"] and platform.state("pro")["drafter_attached"])
    client.chat.completions.create(model="pro", messages=QUESTION, max_tokens=4)
