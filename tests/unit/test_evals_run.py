"""Runs: concurrency, retries, errors that stay in the denominator, going on after a stop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from outrider.errors import ConfigurationError, EndpointError, EvalMismatch, SuiteError
from outrider.evals import Endpoint, Outcome, OutcomeLog, Prices, Result, Suite, configuration, evaluate, load_suite

Handler = Callable[[httpx.Request], httpx.Response]


def made_suite(folder: Path, count: int = 6, **sampling: Any) -> Suite:
    """Item n asks for n and is right when the answer's last number is n."""
    items = [{"id": f"i{n}", "prompt": f"say {n}", "check": {"answer": str(n)}} for n in range(count)]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "suite.yaml").write_text(
        "name: echo\ndomain: numbers\ndescription: Numbers.\nlicense: CC0-1.0\nitems: items.jsonl\n"
        f"sampling: {json.dumps(sampling)}\ncheck: {{type: exact, extract: last_number}}\n"
    )
    return load_suite(folder / "suite.yaml")


def sse(text: str, *, finish: str | None = "stop", usage: dict[str, Any] | None = None, done: bool = True) -> bytes:
    events: list[Any] = [{"choices": [{"delta": {"role": "assistant", "content": ""}}]}]
    events += [{"model": "m-1", "choices": [{"delta": {"content": part}}]} for part in text]
    if finish:
        events.append({"choices": [{"delta": {}, "finish_reason": finish}]})
    if usage is not None:
        events.append({"choices": [], "usage": usage})
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return (": a comment\n\n" + body + ("data: [DONE]\n\n" if done else "")).encode()


USAGE = {"prompt_tokens": 10, "completion_tokens": 4}


def streamed(text: str, **more: Any) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=sse(text, **more))


def asked(request: httpx.Request) -> int:
    return int(json.loads(request.content)["messages"][-1]["content"].split()[-1])


def echo(request: httpx.Request) -> httpx.Response:
    return streamed(f"It is {asked(request)}.", usage=USAGE)


def endpoint(handler: Any, **more: Any) -> Endpoint:
    return Endpoint("http://test", "m", "k", transport=httpx.MockTransport(handler), **{"backoff_s": 0.001, **more})


async def run(suite: Suite, handler: Any, log: Path, model: Endpoint | None = None, **more: Any) -> list[Outcome]:
    async with model or endpoint(handler) as asked_model:
        with OutcomeLog(log, configuration(asked_model, [suite], more.get("prices"))) as kept:
            return await evaluate(asked_model, [suite], kept, **more)


async def test_every_item_is_asked_once_judged_and_measured(tmp_path: Path) -> None:
    suite, log = made_suite(tmp_path), tmp_path / "log.jsonl"
    outcomes = await run(suite, lambda request: streamed("It is 3.", usage=USAGE), log)
    assert [each.id for each in outcomes] == [f"i{n}" for n in range(6)]
    assert [each.correct for each in outcomes] == [n == 3 for n in range(6)]
    assert outcomes[0].why == "expected '0', got '3'"
    assert outcomes[3].answer == "It is 3."
    assert outcomes[3].served_by == "m-1"
    assert (outcomes[3].prompt_tokens, outcomes[3].completion_tokens, outcomes[3].cost_usd) == (10, 4, None)
    assert 0 < (outcomes[3].first_s or 0) <= (outcomes[3].total_s or 0)
    assert len(log.read_text().splitlines()) == 7


async def test_no_more_than_so_many_at_a_time(tmp_path: Path) -> None:
    running = most = 0

    async def slow(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        return echo(request)

    outcomes = await run(made_suite(tmp_path, 20), slow, tmp_path / "log.jsonl", concurrency=3)
    assert most == 3
    assert all(each.correct for each in outcomes)


async def test_the_request_is_openai_s_and_carries_the_suite_s_sampling(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def keep(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content) | {"path": request.url.path, "key": request.headers["authorization"]})
        return echo(request)

    suite = made_suite(tmp_path, 3, temperature=0.7, max_tokens=9, seed=40, stop=["\n"], top_p=0.5)
    await run(suite, None, tmp_path / "log.jsonl", endpoint(keep, tags=True), concurrency=1)
    assert [body["seed"] for body in seen] == [40, 41, 42]
    body = seen[0]
    assert (body["path"], body["key"], body["model"]) == ("/v1/chat/completions", "Bearer k", "m")
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["stop"]) == (0.7, 0.5, 9, ["\n"])
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["outrider"] == {"tags": ["numbers"]}


async def test_a_limited_run_keeps_the_seeds_of_the_whole(tmp_path: Path) -> None:
    seeds: dict[int, int] = {}

    def keep(request: httpx.Request) -> httpx.Response:
        seeds[asked(request)] = json.loads(request.content)["seed"]
        return echo(request)

    await run(made_suite(tmp_path, 9, temperature=1.0), keep, tmp_path / "log.jsonl", limit=4)
    assert len(seeds) == 4
    assert all(seed == item for item, seed in seeds.items())


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_endpoint_is_asked_again_after_what_it_says(
    tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: dict[int, int] = {}
    waits: list[float] = []

    async def no_sleep(seconds: float) -> None:
        waits.append(seconds)

    def busy(request: httpx.Request) -> httpx.Response:
        item = asked(request)
        tries[item] = tries.get(item, 0) + 1
        refusal = httpx.Response(status, headers={"retry-after": "7"}, json={"error": {"message": "full"}})
        return refusal if tries[item] < 3 else echo(request)

    monkeypatch.setattr("outrider.evals.endpoint.asyncio.sleep", no_sleep)
    outcomes = await run(made_suite(tmp_path, 2), busy, tmp_path / "log.jsonl")
    assert all(each.correct for each in outcomes)
    assert tries == {0: 3, 1: 3}
    assert len(waits) == 4
    assert all(7 <= wait <= 7 * 1.25 for wait in waits)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (httpx.Response(429, json={"error": {"message": "full"}}), "429 full, 3 times"),
        (httpx.Response(429, headers={"x-should-retry": "false"}, json={"error": {"message": "never"}}), "429 never"),
        (httpx.Response(400, json={"error": {"message": "too long"}}), "the endpoint answered 400 too long"),
        (httpx.Response(500, content=b"<html>oops"), "500 <html>oops, 3 times"),
        (httpx.Response(200, content=b"not json"), "not JSON"),
        (httpx.Response(200, json={"choices": []}), "no choices[0].message.content"),
        (streamed("a", finish=None, done=False), "ended before the answer did"),
        (
            httpx.Response(
                200,
                headers={"content-type": "text/event-stream"},
                content=b'data: {"error": {"message": "target lost"}}\n\n',
            ),
            "the stream broke: target lost",
        ),
        (httpx.ReadTimeout("slow"), "timed out (ReadTimeout), 3 times"),
        (httpx.RemoteProtocolError("cut"), "the connection broke"),
    ],
)
async def test_an_item_without_an_answer_is_an_error_in_the_denominator(
    tmp_path: Path, answer: httpx.Response | Exception, why: str
) -> None:
    def fails_once(request: httpx.Request) -> httpx.Response:
        if asked(request) != 2:
            return echo(request)
        if isinstance(answer, Exception):
            raise answer
        copied = answer.headers.multi_items()
        return httpx.Response(answer.status_code, headers=copied, content=answer.content)

    outcomes = await run(made_suite(tmp_path, 4), None, tmp_path / "log.jsonl", endpoint(fails_once, retries=2))
    assert [each.outcome for each in outcomes] == ["correct", "correct", "error", "correct"]
    assert why in outcomes[2].why
    result = Result.of("m", {}, outcomes)
    assert (result.overall.items, result.overall.errors, result.overall.accuracy) == (4, 1, 0.75)


async def test_an_endpoint_that_does_not_stream_is_understood(tmp_path: Path) -> None:
    def whole(request: httpx.Request) -> httpx.Response:
        choice = {"message": {"content": f"{asked(request)}"}, "finish_reason": "length"}
        return httpx.Response(200, json={"choices": [choice], "usage": USAGE, "model": "m"})

    outcomes = await run(made_suite(tmp_path, 2), whole, tmp_path / "log.jsonl")
    assert [each.correct for each in outcomes] == [True, True]
    assert outcomes[0].finish == "length"
    assert outcomes[0].first_s == outcomes[0].total_s


@pytest.mark.parametrize(("status", "hint"), [(401, "--key"), (403, "--key"), (404, "--model")])
async def test_an_endpoint_that_refuses_everything_ends_the_run(tmp_path: Path, status: int, hint: str) -> None:
    calls = 0

    def refuse(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        return httpx.Response(status, json={"error": {"message": "no"}})

    with pytest.raises(EndpointError, match=hint):
        await run(made_suite(tmp_path, 50), refuse, tmp_path / "log.jsonl", concurrency=2)
    assert calls <= 4


async def test_an_absent_server_ends_the_run_and_what_is_done_is_kept(tmp_path: Path) -> None:
    suite, log = made_suite(tmp_path, 30), tmp_path / "log.jsonl"

    def dies(request: httpx.Request) -> httpx.Response:
        if asked(request) < 5:
            return echo(request)
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(EndpointError, match=r"no answer to 4 items in a row.*no connection to http://test.*goes on"):
        await run(suite, None, log, endpoint(dies, retries=0), concurrency=1, give_up_after=4)
    again: list[int] = []

    def count(request: httpx.Request) -> httpx.Response:
        again.append(asked(request))
        return echo(request)

    outcomes = await run(suite, count, log, concurrency=1)
    assert again == list(range(5, 30))
    assert all(each.correct for each in outcomes)
    assert len(outcomes) == 30


async def test_a_cancelled_run_keeps_what_is_done_and_goes_on(tmp_path: Path) -> None:
    suite, log = made_suite(tmp_path, 12), tmp_path / "log.jsonl"
    stuck = asyncio.Event()

    async def sticks(request: httpx.Request) -> httpx.Response:
        if asked(request) >= 4:
            stuck.set()
            await asyncio.sleep(60)
        return echo(request)

    task = asyncio.create_task(run(suite, sticks, log, concurrency=2))
    await stuck.wait()
    while len(log.read_text().splitlines()) < 5:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(log.read_text().splitlines()) == 5
    assert all(each.correct for each in await run(suite, echo, log))


async def test_a_torn_last_line_is_asked_again(tmp_path: Path) -> None:
    suite, log = made_suite(tmp_path, 4), tmp_path / "log.jsonl"
    before = await run(suite, echo, log, concurrency=1)
    content = log.read_bytes()
    log.write_bytes(content[:-9])
    count = 0

    def counted(request: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        return echo(request)

    after = await run(suite, counted, log)
    assert count == 1
    assert [each.id for each in after] == [each.id for each in before]
    assert all(json.loads(line) for line in log.read_text().splitlines())


async def test_outcomes_of_another_run_are_not_mixed(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    await run(made_suite(tmp_path, 4), echo, log)
    kept = log.read_bytes()
    with pytest.raises(EvalMismatch, match=r"suites was .* is .*--restart"):
        await run(made_suite(tmp_path, 5), echo, log)
    with pytest.raises(EvalMismatch, match="prices"):
        await run(made_suite(tmp_path, 4), echo, log, prices=Prices(1, 1))
    assert log.read_bytes() == kept


@pytest.mark.parametrize("content", [b"notes\n", b"notes", b'{"a": 1}\n'])
async def test_a_file_that_holds_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(content)
    with pytest.raises(EvalMismatch, match="holds no eval outcomes"):
        await run(made_suite(tmp_path), echo, log)
    assert log.read_bytes() == content


async def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    suite, log = made_suite(tmp_path), tmp_path / "log.jsonl"
    await run(suite, echo, log)
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:2], '{"outcome": "great"}', *lines[3:]]) + "\n")
    with pytest.raises(EvalMismatch, match=r"log\.jsonl:3: not an outcome"):
        await run(suite, echo, log)


async def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    with OutcomeLog(tmp_path / "log.jsonl", {}), pytest.raises(ConfigurationError, match="another eval writes there"):
        OutcomeLog(tmp_path / "log.jsonl", {})
    with pytest.raises(ConfigurationError, match="cannot be kept there"):
        OutcomeLog(tmp_path, {})


async def test_cost_is_the_endpoint_s_else_from_list_prices(tmp_path: Path) -> None:
    def says(request: httpx.Request) -> httpx.Response:
        told = {"outrider": {"cost_usd": 0.25}} if asked(request) == 0 else {}
        return streamed(f"{asked(request)}", usage=USAGE | told)

    outcomes = await run(made_suite(tmp_path, 2), says, tmp_path / "log.jsonl", prices=Prices(0.01, 0.1))
    assert [each.cost_usd for each in outcomes] == [0.25, pytest.approx(0.5)]
    overall = Result.of("m", {}, outcomes).overall
    assert overall.cost_usd == pytest.approx(0.75)
    assert overall.cost_per_correct_usd == pytest.approx(0.375)


async def test_two_suites_of_one_name_are_refused(tmp_path: Path) -> None:
    suite = made_suite(tmp_path)
    async with endpoint(echo) as model:
        with pytest.raises(SuiteError, match="'echo'"):
            configuration(model, [suite, suite], None)


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:abc", "::"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="--url must be like"):
        Endpoint(url, "m")


@pytest.mark.parametrize(
    "url", ["http://user:pw@h:1", "h:1", "http://h:1/v1", "http://h:1/v1/", "http://h:1/v1/chat/completions?api=s"]
)
def test_a_url_is_completed_and_said_without_secrets(url: str) -> None:
    assert Endpoint(url, "m", "sk").about() == {
        "model": "m", "endpoint": "http://h:1/v1/chat/completions", "tags": False
    }  # fmt: skip
