"""`outrider policy apply|rollback|history` against the operators' routes over HTTP, with control in this process."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from typer.testing import CliRunner, Result

from outrider.cli.policy import app as policy_app
from outrider.database import open_database
from outrider.errors import OutriderError
from outrider.gateway.errors import error_response
from outrider.gateway.operators import operator_router
from outrider.policy import hash_key
from outrider.policy.control import RolloutControl
from outrider.policy.following import Follower
from outrider.policy.loading import load_policy
from outrider.policy.rollout import Rollout
from outrider.policy.sources import Source
from outrider.policy.store import PolicyStore

KEY = "sk-outrider-ann"
POLICY = f"""version: 1
operators:
  - {{name: ann, sha256: {hash_key(KEY)}}}
models:
  flash: {{price_usd_per_million: {{input: 1, output: 2}}, quality: {{default: 0.5}}}}
  pro: {{price_usd_per_million: {{input: 5, output: 10}}, quality: {{default: 0.7}}}}
batch_classes:
  balanced: {{}}
tiers:
  standard: {{tpot_ms: 30, batch_class: balanced}}
tenants:
  acme:
    keys: [{{name: main, sha256: {hash_key("sk-outrider-acme")}}}]
    tier: standard
    models: [flash, pro]
"""
CHANGED = POLICY.replace("models: [flash, pro]", "models: [flash]").replace("tpot_ms: 30", "tpot_ms: 50")


@dataclass
class Platform:
    url: str
    follower: Follower

    def run(self, *arguments: str, key: str = KEY) -> Result:
        environment = {"OUTRIDER_OPERATOR_KEY": key, "OUTRIDER_URL": self.url}
        return CliRunner().invoke(policy_app, list(arguments), env=environment)

    def models(self) -> tuple[str, ...]:
        return self.follower.policy.tenants["acme"].models


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """Control, one gateway that follows it, and the operators' routes on a port of their own."""
    started: list[Platform] = []
    ready = threading.Event()
    server = uvicorn.Server(uvicorn.Config(app := FastAPI(), port=0, log_level="warning"))

    async def serve() -> None:
        database = open_database(f"sqlite:///{tmp_path}/outrider.db")
        store = PolicyStore(database)
        rollout = Rollout(store, fence_s=2.0, hold_s=0.2)
        await rollout.start((Source("platform.yaml", POLICY),))
        read = lambda sources: load_policy(_written(tmp_path, sources[0]))  # noqa: E731
        follower = Follower("gateway", rollout, read, fence_s=2.0)

        def operator(request: Request) -> str:
            _, _, key = request.headers.get("authorization", "").partition(" ")
            return rollout.policy.operator_for_key(key, 0.0)

        app.include_router(operator_router(RolloutControl(rollout, store), operator))
        app.add_exception_handler(OutriderError, lambda _, error: error_response(error))  # type: ignore[arg-type]
        running = asyncio.create_task(follower.run())
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        started.append(Platform(f"http://127.0.0.1:{port}", follower))
        ready.set()
        await serving
        running.cancel()
        database.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(30)
    yield started[0]
    server.should_exit = True
    thread.join(30)


def _written(folder: Path, source: Source) -> Path:
    file = folder / "seen-by-the-gateway.yaml"
    file.write_text(source.text, "utf-8")
    return file


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    file = tmp_path / "changed.yaml"
    file.write_text(CHANGED, "utf-8")
    return file


def test_apply_says_the_consequences_and_the_gateway_has_them(platform: Platform, changed: Path) -> None:
    done = platform.run("apply", str(changed), "--reason", "Pro is too dear for acme")
    assert done.exit_code == 0, done.output
    assert re.search(r"acme.*loses.*pro", done.output)
    assert re.search(r"30.*50", done.output)
    assert "version 2" in done.output
    assert platform.models() == ("flash",)


def test_a_dry_run_changes_nothing(platform: Platform, changed: Path) -> None:
    done = platform.run("apply", str(changed), "--dry-run")
    assert done.exit_code == 0, done.output
    assert "acme" in done.output
    assert platform.models() == ("flash", "pro")
    assert len(json.loads(platform.run("history", "--json").output)["versions"]) == 1


def test_rolling_back_and_the_history_that_tells_it(platform: Platform, changed: Path) -> None:
    platform.run("apply", str(changed), "--reason", "dear")
    done = platform.run("rollback", "--reason", "acme needs it")
    assert done.exit_code == 0, done.output
    assert platform.models() == ("flash", "pro")
    shown = platform.run("history").output
    assert [line.split()[0] for line in shown.splitlines()[1:]] == ["3", "2", "1"]
    assert "rollback to 1" in shown
    assert "acme needs it" in shown
    audit = json.loads(platform.run("history", "--json").output)["audit"]
    assert [(each["actor"], each["action"]) for each in audit] == [
        ("ann", "rollback"),
        ("ann", "apply"),
        ("serve config", "seed"),
    ]


def test_a_policy_that_does_not_load_is_refused_line_by_line(platform: Platform, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(POLICY.replace("tier: standard", "tier: standrd"), "utf-8")
    done = platform.run("apply", str(broken), "--reason", "typo")
    assert done.exit_code == 1
    assert "did you mean 'standard'?" in str(done.exception)
    assert re.search(r"broken\.yaml:14:\d+: tenants\.acme\.tier", str(done.exception))
    assert platform.models() == ("flash", "pro")


def test_somebody_else_s_change_in_between_is_a_conflict(platform: Platform, changed: Path) -> None:
    done = platform.run("apply", str(changed), "--reason", "late", "--expected-version", "7")
    assert done.exit_code == 1
    assert "409" in str(done.exception)
    assert platform.models() == ("flash", "pro")


@pytest.mark.parametrize("arguments", [["apply", "CHANGED"], ["rollback"]])
def test_a_change_without_a_reason_is_not_made(platform: Platform, changed: Path, arguments: list[str]) -> None:
    done = platform.run(*(str(changed) if each == "CHANGED" else each for each in arguments))
    assert done.exit_code == 2
    assert "--reason" in done.output
    assert platform.models() == ("flash", "pro")


def test_strangers_and_nobody_listening_are_said_plainly(platform: Platform, changed: Path) -> None:
    assert "401" in str(platform.run("history", key="sk-outrider-eve").exception)
    gone = platform.run("history", "--url", "http://127.0.0.1:9")
    assert "nobody listens there" in str(gone.exception)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("apply", {"documents": [{"file": "a", "text": "b"}]}, "reason"),
        ("apply", {"documents": [], "reason": "x"}, "documents"),
        ("check", {"documents": [{"file": "a", "txt": "b"}]}, "documents[0].text"),
        ("rollback", {"reason": "x", "version": 0}, "version"),
    ],
)
def test_bodies_that_make_no_sense_name_their_field(
    platform: Platform, path: str, body: dict[str, object], field: str
) -> None:
    answer = httpx.post(
        f"{platform.url}/v1/outrider/policy/{path}", json=body, headers={"authorization": f"Bearer {KEY}"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


def test_the_schema_is_served(platform: Platform) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    schema = httpx.get(f"{platform.url}/v1/outrider/policy/schema", headers=headers).json()
    assert "tenants" in schema["properties"]
