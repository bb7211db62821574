"""The control plane on real Ray Serve: two gateways, two replicas of Flash, one owner of policy and money."""

from __future__ import annotations

import os
import signal
import sqlite3
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from support.platform_process import DEMO_KEY, PlatformProcess, running, until

SHIPPED = Path("deployments/outrider_deployments/configs/local.yaml")
OPERATOR = {"authorization": "Bearer sk-outrider-operator-local-only"}
DEMO = {"authorization": f"Bearer {DEMO_KEY}"}
BUDGET_USD = 0.0002
LEASES_BACK_S = 2.0
"""Until gateways have given back what they held of a larger budget."""

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def policy() -> dict[str, Any]:
    """The shipped policy; the demo tenant has a budget, large enough for these tests but one."""
    document: dict[str, Any] = yaml.safe_load(Path("policies/default.yaml").read_text("utf-8"))
    document["tenants"]["demo"]["budgets"] = [{"usd": 100, "per": "day"}]
    return document


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, policy: dict[str, Any]) -> Iterator[PlatformProcess]:
    folder = tmp_path_factory.mktemp("control")
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy), "utf-8")
    document = yaml.safe_load(SHIPPED.read_text("utf-8"))
    arguments = document["applications"][0]["args"]
    flash = arguments["models"]["flash"]
    flash |= {"drafter": "none", "replicas": 2}
    flash["target"] |= {"num_cpus": 0.1}
    flash.pop("draft")
    arguments |= {"policy": str(folder / "policy.yaml"), "models": {"flash": flash}}
    arguments["gateway"] |= {"replicas": 2, "num_cpus": 0.1}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(document), "utf-8")
    with running("--config", str(config)) as platform:
        until(lambda: len(_serving(platform)) == 2)
        yield platform


def _ask(platform: PlatformProcess, tokens: int = 8, **more: Any) -> httpx.Response:
    body = {
        "model": "flash",
        "messages": [{"role": "user", "content": "What is 2 + 3?"}],
        "max_tokens": tokens,
        "ignore_eos": True,
        **more,
    }
    # A connection of its own each time: the kernel spreads connections, not requests, over the gateways.
    return httpx.post(f"{platform.url}/v1/chat/completions", json=body, headers=DEMO, timeout=120)


def _serving(platform: PlatformProcess) -> set[str]:
    """Replicas that decisions of some requests chose."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: _ask(platform, 24), range(24)))
    return {replica for answer in answers if answer.status_code == 200 for replica in [_replica(platform, answer)]}


def _replica(platform: PlatformProcess, answer: httpx.Response) -> str:
    """Which replica a decision named; the gateway that took it alone remembers, so others are asked as well."""
    name = answer.headers["x-outrider-decision"]
    for _ in range(50):
        found = httpx.get(f"{platform.url}/v1/outrider/decisions/{name}", headers=DEMO, timeout=30)
        if found.status_code == 200:
            replica: str = found.json()["decision"]["replica"]
            return replica
    raise AssertionError(f"no gateway remembers {name}")


def _apply(platform: PlatformProcess, policy: dict[str, Any], reason: str) -> dict[str, Any]:
    body = {"documents": [{"file": "policy.yaml", "text": yaml.safe_dump(policy)}], "reason": reason}
    answer = httpx.post(f"{platform.url}/v1/outrider/policy/apply", json=body, headers=OPERATOR, timeout=60)
    assert answer.status_code == 200, answer.text
    applied: dict[str, Any] = answer.json()
    return applied


def _priced(policy: dict[str, Any], output_usd: float) -> dict[str, Any]:
    models = {**policy["models"]}
    models["flash"] = {**models["flash"], "price_usd_per_million": {"input": 0.05, "output": output_usd}}
    return {**policy, "models": models}


def _ledger(platform: PlatformProcess) -> dict[str, int]:
    """Completion tokens by decision, as another connection to the database sees them."""
    with sqlite3.connect(f"file:{platform.folder}/outrider.db?mode=ro", uri=True) as connection:
        return dict(connection.execute("SELECT decision_id, completion_tokens FROM ledger"))


def test_a_change_under_load_is_whole_and_over_when_it_returns(
    platform: PlatformProcess, policy: dict[str, Any]
) -> None:
    stop, seen = threading.Event(), list[tuple[float, float, str]]()

    def load() -> None:
        while not stop.is_set():
            sent_s = time.monotonic()
            answer = _ask(platform)
            assert answer.status_code == 200, answer.text
            seen.append((sent_s, answer.json()["usage"]["outrider"]["cost_usd"], answer.headers["x-outrider-policy"]))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    digest = _apply(platform, _priced(policy, 0.4), "dearer")["version"]["digest"]
    over_s = time.monotonic()
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    by_version = Counter(version for _, _, version in seen)
    assert len(by_version) == 2
    assert {version for sent_s, _, version in seen if sent_s > over_s} == {digest}
    prices = {version: {cost for _, cost, each in seen if each == version} for version in by_version}
    assert all(len(costs) <= 2 for costs in prices.values())  # the prompt may have been cached
    assert min(prices[digest]) > max(cost for version, costs in prices.items() if version != digest for cost in costs)


def test_what_an_answer_said_is_in_the_ledger_before_its_end(platform: PlatformProcess) -> None:
    with httpx.stream(
        "POST",
        f"{platform.url}/v1/chat/completions",
        headers=DEMO,
        timeout=60,
        json={
            "model": "flash",
            "messages": [{"role": "user", "content": "Count."}],
            "max_tokens": 12,
            "ignore_eos": True,
            "stream": True,
        },
    ) as answer:
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                assert _ledger(platform)[answer.headers["x-outrider-decision"]] == 12
                break
        else:
            raise AssertionError("the stream had no end")


def test_a_replica_that_is_slow_gets_less(platform: PlatformProcess) -> None:
    """One of two is stopped for most of the time; every request runs on the replica that its decision names."""
    slow = _replica_processes(platform)[0]
    stop = threading.Event()

    def slow_down() -> None:
        while not stop.is_set():
            os.kill(slow, signal.SIGSTOP)
            time.sleep(0.57)
            os.kill(slow, signal.SIGCONT)
            time.sleep(0.03)

    thread = threading.Thread(target=slow_down)
    thread.start()
    try:
        before = _cpu_ticks(platform)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: _ask(platform, 48), range(120)))
        after = _cpu_ticks(platform)
    finally:
        stop.set()
        thread.join()
        os.kill(slow, signal.SIGCONT)
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    waited: dict[str, list[float]] = {}
    for answer in answers:
        waited.setdefault(_replica(platform, answer), []).append(answer.elapsed.total_seconds())
    assert len(waited) == 2, "one replica got nothing: the other was never slow enough to be compared"
    quick, laggard = sorted(waited.values(), key=statistics.median)
    assert statistics.median(laggard) > 2 * statistics.median(quick)  # what a decision names is what served
    assert len(quick) > len(laggard)
    worked = {pid: after[pid] - before[pid] for pid in after}
    assert worked[slow] < max(worked.values()), worked


def test_a_budget_over_two_gateways_is_never_overspent(platform: PlatformProcess, policy: dict[str, Any]) -> None:
    spent_before = _spent_usd(platform)
    limited = {**policy, "tenants": {**policy["tenants"]}}
    limit = spent_before + BUDGET_USD
    limited["tenants"]["demo"] = {**policy["tenants"]["demo"], "budgets": [{"usd": limit, "per": "day"}]}
    _apply(platform, limited, "a small budget")
    time.sleep(LEASES_BACK_S)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: _ask(platform, 64), range(64)))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[200] > 0
    assert set(statuses) <= {200, 403, 429}, statuses
    final = _ask(platform, 64)
    until(lambda: _ask(platform, 64).status_code == 403, limit_s=60)
    refused = _ask(platform, 64)
    assert refused.json()["error"]["code"] == "budget_exhausted"
    assert refused.headers["x-should-retry"] == "false"
    assert final.status_code in (200, 403, 429)
    assert _spent_usd(platform) <= limit + 1e-12
    usage = httpx.get(f"{platform.url}/v1/usage", headers=DEMO, timeout=30).json()
    assert usage["tenant"] == "demo"
    _apply(platform, policy, "enough again")
    until(lambda: _ask(platform).status_code == 200, limit_s=60)


def _spent_usd(platform: PlatformProcess) -> float:
    with sqlite3.connect(f"file:{platform.folder}/outrider.db?mode=ro", uri=True) as connection:
        nusd: int = connection.execute("SELECT COALESCE(SUM(cost_nusd), 0) FROM ledger").fetchone()[0]
    return nusd / 1e9


@pytest.mark.parametrize("deployment", ["control", "gateway"])
def test_killed_under_load_it_comes_back_and_no_settled_answer_is_lost(
    platform: PlatformProcess, deployment: str
) -> None:
    stop, ended = threading.Event(), list[tuple[str, int]]()

    def load() -> None:
        while not stop.is_set():
            try:
                answer = _ask(platform)
            except httpx.HTTPError:
                continue  # the gateway that was killed had it
            if answer.status_code == 200:
                ended.append((answer.headers["x-outrider-decision"], answer.json()["usage"]["completion_tokens"]))
            else:
                assert answer.status_code in (429, 503), answer.text
                time.sleep(0.1)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    victim = platform.replica(deployment)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    until(lambda: platform.replica(deployment) not in (None, victim), limit_s=120)
    before = len(ended)
    until(lambda: len(ended) > before + 10, limit_s=120)
    stop.set()
    for thread in threads:
        thread.join()
    ledger = _ledger(platform)
    assert len(ended) > 20
    assert {decision: tokens for decision, tokens in ended if ledger.get(decision) != tokens} == {}
    url = f"{platform.url}/v1/outrider/policy"
    until(lambda: httpx.get(url, headers=OPERATOR, timeout=60).status_code == 200, limit_s=60)


def _replica_processes(platform: PlatformProcess) -> list[int]:
    return sorted(pid for pid, line in platform.descendants().items() if "ServeReplica:outrider:target-flash" in line)


def _cpu_ticks(platform: PlatformProcess) -> dict[int, int]:
    found = {}
    for pid in _replica_processes(platform):
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        found[pid] = int(fields[11]) + int(fields[12])
    return found
