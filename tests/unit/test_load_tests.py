"""The load driver: scenarios that ship or are refused, and loads driven against a real HTTP server in this process."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from typer import Typer
from typer.testing import CliRunner

from drive import main, measure
from figures import LATE_S, notes_of, tables_of
from outrider.bench.client import Streamed
from outrider.bench.goodput import Fate
from outrider.bench.report import Table
from outrider.bench.spread import Spread
from outrider.errors import ConfigurationError
from outrider.policy import load_policy
from scenario import Scenario
from traffic import Level, Seen, requests_of

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "load_tests"
SHIPPED = sorted((FOLDER / "scenarios").glob("*.yaml"))
CHAT: dict[str, Any] = {"body": {"model": "pro", "max_tokens": 4}}


def scenario(**fields: Any) -> Scenario:
    base: dict[str, Any] = {
        "arrivals": {"process": "closed", "users": (2,)},
        "duration_s": 0.3,
        "classes": {"chat": CHAT},
    }
    return Scenario.model_validate(base | fields)


def rows(table: Table) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def named(tables: list[Table], title: str) -> list[dict[str, Any]]:
    return rows(next(table for table in tables if table.title.startswith(title)))


# Scenarios


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_scenarios_load_and_have_requests(file: Path) -> None:
    loaded = Scenario.load(file)
    assert {each.traffic for each in islice(requests_of(loaded, 0), 200)} == set(loaded.classes)
    assert all(traffic.body["model"] in ("auto", "flash", "pro") for traffic in loaded.classes.values())


def test_what_ships_covers_each_kind_of_load() -> None:
    loaded = [Scenario.load(file) for file in SHIPPED]
    classes = [traffic for each in loaded for traffic in each.classes.values()]
    assert {each.arrivals.process for each in loaded} == {"closed", "poisson", "gamma"}
    assert any(each.arrivals.bursts for each in loaded)
    assert any(traffic.cancel for traffic in classes)
    assert any(traffic.prompt_characters for traffic in classes)


def test_keys_of_scenarios_are_tenants_of_the_policy_beside_them_which_is_else_the_default() -> None:
    policy, default = (load_policy(file) for file in (FOLDER / "policy.yaml", ROOT / "policies/default.yaml"))
    tiers = Scenario.load(FOLDER / "scenarios/tiers.yaml")
    for name, traffic in tiers.classes.items():
        tenant = policy.tenant_for_key(traffic.key_or(""), 0.0)
        assert tenant.name == name
        assert (tenant.tier.ttft_s, tenant.tier.tpot_s) == (traffic.slo.slo.ttft_s, traffic.slo.slo.tpot_s)
    written = [yaml.safe_load(file.read_text()) for file in (FOLDER / "policy.yaml", ROOT / "policies/default.yaml")]
    extra = {name: written[0]["tenants"].pop(name) for name in tiers.classes}
    assert written[0] == written[1]
    assert all(key["name"] == "load-test" for tenant in extra.values() for key in tenant["keys"])
    assert set(default.models) == set(policy.models)


CLOSED = "arrivals: {process: closed, users: [1]}\nduration_s: 1\n"
CLASSES = "classes: {a: {body: {model: pro}}}\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CLOSED + CLASSES + "surprise: 1", r"bad.yaml:4:1: surprise: unknown field .*known: arrivals, classes"),
        ("arrivals: {process: poison}\nduration_s: 1\n" + CLASSES, r":1:21: arrivals.process: .*'poisson'\?.*gamma"),
        ("arrivals: {process: closed}\nduration_s: 1\n" + CLASSES, r"arrivals: process 'closed' needs 'users'"),
        ("arrivals: {process: gamma, rate_per_s: [1]}\nduration_s: 1\n" + CLASSES, r"'gamma' needs 'cv'"),
        (
            "arrivals: {process: closed, users: [1], cv: 2}\nduration_s: 1\n" + CLASSES,
            r"'closed' takes users, not 'cv'",
        ),
        ("arrivals: {process: closed, users: [0]}\nduration_s: 1\n" + CLASSES, r"users\[0\]: must be at least 1"),
        ("arrivals: {process: closed, users: [1]}\nduration_s: -1\n" + CLASSES, r":2:13: duration_s: must be greater"),
        (CLOSED + "classes: {}", r"classes: must not be empty"),
        (CLOSED + "classes: {a: {body: {}}}", r"classes.a: 'body' needs 'model'"),
        (CLOSED + "classes: {a: {body: {model: pro, messages: []}}}", r"classes.a: 'body' may not have 'messages'"),
        (CLOSED + "classes: {a: {body: {model: pro}, budgets: {ttft: 1}}}", r"classes.a.budgets.ttft: .*'ttft_ms'\?"),
        (CLOSED + "classes: {a: {body: {model: pro}, cancel: {share: 1}}}", r"a.cancel: give one of 'after_tokens'"),
        (
            "arrivals: {process: poisson, rate_per_s: [1], bursts: [{at_s: 9, requests: 1}]}\nduration_s: 1\n"
            + CLASSES,
            r"a burst at 9 s is past the end",
        ),
        ("- 1", r"a scenario is a mapping"),
    ],
)  # fmt: skip
def test_a_bad_scenario_is_refused_by_file_field_and_fix(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=said):
        Scenario.load(file)


def test_unknown_domains_and_absent_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"classes.chat.domains: unknown domain 'cod'.*'code'"):
        requests_of(scenario(classes={"chat": CHAT | {"domains": ("cod",)}}), 0)
    secret = scenario(classes={"chat": CHAT | {"key": "env:LOAD_TEST_KEY"}})
    with pytest.raises(ConfigurationError, match="LOAD_TEST_KEY is not set"):
        secret.classes["chat"].key_or("")
    monkeypatch.setenv("LOAD_TEST_KEY", "sk-hidden")
    assert secret.classes["chat"].key_or("") == "sk-hidden"
    literal = scenario(classes={"chat": CHAT | {"key": "sk-hidden"}})
    assert "sk-hidden" not in literal.model_dump_json()


# Requests


def test_classes_come_by_weight_and_leave_by_share() -> None:
    many = scenario(
        classes={
            "often": CHAT | {"weight": 3, "cancel": {"share": 0.25, "after_tokens": 2}},
            "seldom": CHAT | {"weight": 1, "budgets": {"tpot_ms": 30.0}},
        }
    )
    found = list(islice(requests_of(many, 0), 4_000))
    counts = Counter(each.traffic for each in found)
    assert counts["often"] / 4_000 == pytest.approx(0.75, abs=0.03)
    assert sum(each.leave is not None for each in found) / counts["often"] == pytest.approx(0.25, abs=0.03)
    assert all(each.traffic == "often" for each in found if each.leave)
    assert {json.dumps(each.body.get("outrider")) for each in found} == {"null", '{"tpot_ms": 30.0}'}
    assert found[:50] == list(islice(requests_of(many, 0), 50)) != list(islice(requests_of(many, 1), 50))


def test_long_prompts_have_the_asked_length_and_no_common_beginning() -> None:
    long = scenario(classes={"long": CHAT | {"prompt_characters": 30_000, "domains": ("maths",)}})
    found = [each.body["messages"] for each in islice(requests_of(long, 0), 8)]
    assert [sum(len(message["content"]) for message in messages) for messages in found] == [30_000] * 8
    assert len({messages[-1]["content"][:100] for messages in found}) > 4


def test_the_warm_up_is_before_zero_and_bursts_are_counted() -> None:
    arrivals = {"process": "gamma", "rate_per_s": (20.0,), "cv": 2.0, "bursts": ({"at_s": 1.0, "requests": 7},)}
    due = scenario(arrivals=arrivals, duration_s=50.0).arrivals.due_s(20.0, 10.0, 50.0, np.random.default_rng(0))
    assert np.all(np.diff(due) >= 0)
    assert due[0] < 0
    assert np.count_nonzero(due == 1.0) == 7
    assert np.count_nonzero(due >= 0) == pytest.approx(1_007, rel=0.25)


# Figures


def seen(fate: Fate = Fate.ANSWERED, *, late_s: float = 0.0, traffic: str = "chat", reason: str = "") -> Seen:
    first_s = 0.1 if fate is Fate.ANSWERED else None
    tokens = 11 if fate is Fate.ANSWERED else 0
    return Seen(traffic, late_s, Streamed(fate, first_s, 0.2, 0.03, 5, tokens, 4, reason, reason and "in its words"))


def test_latency_counts_from_when_a_request_was_due() -> None:
    found = seen(late_s=0.4).outcome
    assert (found.ttft_s, found.e2e_s) == pytest.approx((0.5, 0.6))
    assert found.tpot_s == pytest.approx(0.01)


def test_lost_requests_stay_in_the_denominator_and_are_told_apart() -> None:
    plan = scenario(classes={"chat": CHAT | {"slo": {"ttft_ms": 200.0}}, "other": CHAT})
    level = Level([seen(), seen(late_s=0.2), seen(Fate.REFUSED, reason="overloaded"), seen(Fate.CANCELLED)], 2.0)
    tables = tables_of(plan, {2: [level]})
    whole, chat, other = named(tables, "service levels")
    assert (whole["attained %"], whole["good requests/s"], whole["good tok/s"]) == (25.0, 0.5, 5.5)
    assert chat["attained % of who stayed"] == pytest.approx(100 / 3)
    assert other["attained %"] is None
    requests = named(tables, "requests")[1]
    assert [requests[fate.value] for fate in Fate] == [2, 1, 1, 0, 0]
    assert requests["tok/s per user"] == pytest.approx(22 / (0.2 + 0.4 + 0.2 + 0.2))
    ends = [tuple(row.values()) for row in named(tables, "ends")]
    assert ends == [("2 users", "chat", "cancelled", "", 1), ("2 users", "chat", "refused", "overloaded", 1)]
    assert notes_of(plan, {2: [level]}) == ["overloaded: in its words"]


def test_repetitions_become_a_spread() -> None:
    levels = {2.0: [Level([seen()] * count, 2.0) for count in (2, 4, 8)]}
    row = named(tables_of(scenario(), levels), "requests")[0]
    assert row["offered"] == Spread(4, 2, 8, 3)
    assert row["completed/s"] == Spread(2.0, 1.0, 4.0, 3)
    assert row["offered/s"].median == pytest.approx(4 / 0.3)


def test_a_late_generator_is_said_of_an_open_loop() -> None:
    plan = scenario(arrivals={"process": "poisson", "rate_per_s": (2.0,)})
    late, in_time = (Level([seen(late_s=late_s)] * 9, 2.0) for late_s in (2 * LATE_S, LATE_S / 2))
    assert notes_of(plan, {2.0: [in_time]}) == []
    assert "GENERATOR WAS LATE" in notes_of(plan, {2.0: [in_time, late]})[0]


def test_nothing_answered_has_no_latency() -> None:
    row = named(tables_of(scenario(), {2: [Level([], 1.0)]}), "latency")[0]
    assert set(row.values()) == {"2 users", "chat", None}


# Loads against a real server


@dataclass
class Server:
    """Speaks OpenAI's streaming protocol; each answer waits for `gate` before its last token."""

    keys: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    refuse_every: int = 0
    running: int = 0
    most_running: int = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", lambda _: JSONResponse({"data": [{"id": "pro"}]})),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ]
        )

    async def chat(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        self.keys[request.headers["authorization"].removeprefix("Bearer ")] += 1
        if self.refuse_every and len(self.bodies) % self.refuse_every == 0:
            return JSONResponse({"error": {"message": "full", "code": "overloaded"}}, 429)
        headers = {"x-outrider-depth-cap": "5", "x-outrider-lossless": "coupled", "x-outrider-policy": "v1"}
        headers["x-outrider-decision"] = f"dec-{len(self.bodies)}"
        return StreamingResponse(self.answer(), media_type="text/event-stream", headers=headers)

    async def answer(self) -> AsyncIterator[bytes]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for count in range(1, 4):
                if count == 3 and self.gate is not None:
                    await self.gate.wait()
                usage = {"prompt_tokens": 9, "completion_tokens": 2 * count}
                yield event({"choices": [{"delta": {"content": "ab"}}], "usage": usage})
                await asyncio.sleep(0.005)
            speculation = {"rounds": 2, "admitted_tokens": 8, "accepted_tokens": 4}
            details = {"cached_tokens": 3}
            yield event({"choices": [], "usage": usage | {"outrider": speculation, "prompt_tokens_details": details}})
        finally:
            self.running -= 1

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        server = uvicorn.Server(uvicorn.Config(self.app(), host="127.0.0.1", port=0, log_level="warning"))
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


def event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def quiet(_: str) -> None:
    pass


async def test_users_ask_again_with_their_class_s_key_and_the_engine_s_facts_are_told() -> None:
    server = Server()
    plan = scenario(
        arrivals={"process": "closed", "users": (1, 3)},
        classes={
            "a": CHAT | {"key": "sk-a", "budgets": {"deadline_ms": 5000.0}},
            "b": CHAT | {"slo": {"e2e_ms": 60000.0}},
        },
    )
    async with server.served() as url:
        report = await measure(plan, "two", url, "sk-default", 2, quiet)
    assert server.keys.keys() == {"sk-a", "sk-default"}
    assert server.most_running == 3
    assert {json.dumps(body.get("outrider")) for body in server.bodies} == {"null", '{"deadline_ms": 5000.0}'}
    written = report.as_dict()
    assert "sk-a" not in json.dumps(written)
    assert written["configuration"]["models"] == ["pro"]
    requests, engine = named(report.tables, "requests"), named(report.tables, "engine")
    assert [row["load"] for row in requests] == ["1 user"] * 3 + ["3 users"] * 3
    assert sum(row["offered"].median for row in requests if row["class"] == "all") > 4
    assert engine[0]["tokens per round"].median == 3.0
    assert (engine[0]["accepted %"].median, engine[0]["of them cached"].median) == (50.0, 3.0)
    assert named(report.tables, "decisions")[0] == {
        "load": "1 user", "class": "all", "depth-cap": "5 100", "lossless": "coupled 100",
    }  # fmt: skip
    assert named(report.tables, "service levels")[0]["attained %"].median == 100.0


async def test_an_open_loop_waits_for_no_answer() -> None:
    """No answer can end before all of a burst have been sent: a loop that waited would never finish."""
    server = Server(gate=asyncio.Event())
    plan = scenario(arrivals={"process": "poisson", "rate_per_s": (20.0,), "bursts": ({"at_s": 0.2, "requests": 30},)})
    async with server.served() as url:
        running = asyncio.create_task(measure(plan, "open", url, "k", 1, quiet))
        async with asyncio.timeout(20):
            while server.running < 30:
                await asyncio.sleep(0.01)
        assert server.gate is not None
        server.gate.set()
        report = await running
    row = named(report.tables, "requests")[0]
    assert row["offered"] == row["answered"] == len(server.bodies) >= 30
    assert named(report.tables, "generator")[0]["late p99 ms"] >= 0


async def test_refusals_and_clients_that_leave_are_counted_and_the_server_notices() -> None:
    server = Server(refuse_every=3)
    plan = scenario(
        arrivals={"process": "poisson", "rate_per_s": (60.0,)},
        classes={"hasty": CHAT | {"cancel": {"share": 0.5, "after_tokens": 3}}},
    )
    async with server.served() as url:
        report = await measure(plan, "hasty", url, "k", 1, quiet)
        async with asyncio.timeout(20):
            while server.running:
                await asyncio.sleep(0.01)
    row = named(report.tables, "requests")[0]
    assert row["refused"] == len(server.bodies) // 3
    assert row["cancelled"] > 0
    assert row["offered"] == len(server.bodies) == row["answered"] + row["cancelled"] + row["refused"]
    assert row["tok/s"] == pytest.approx((6 * row["answered"] + 4 * row["cancelled"]) / named(
        report.tables, "generator")[0]["counted s"])  # fmt: skip
    level = named(report.tables, "service levels")[0]
    assert level["attained %"] == pytest.approx(100 * row["answered"] / row["offered"])


async def test_patience_ends(tmp_path: Path) -> None:
    server = Server(gate=asyncio.Event())
    plan = scenario(timeout_s=0.2, duration_s=0.1)
    async with server.served() as url:
        report = await measure(plan, "slow", url, "k", 1, quiet)
    row = named(report.tables, "requests")[0]
    assert row["timed out"] == row["offered"] == 2
    assert named(report.tables, "service levels")[0]["attained %"] == 0


def test_an_absent_server_is_one_line_and_exit_code_1() -> None:
    app = Typer()
    app.command()(main)
    done = CliRunner().invoke(app, [str(SHIPPED[0]), "--url", "http://127.0.0.1:9"])
    assert done.exit_code == 1
    assert "http://127.0.0.1:9 does not list its models: ConnectError" in done.output
