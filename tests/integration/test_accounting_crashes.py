"""`kill -9` of a real owner at random moments, under load: what was settled is there, nothing is left over."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

from outrider.accounting import LeasedAccountant
from outrider.database import open_database
from outrider.errors import OutriderError
from outrider.policy import Limits
from support.accounts import DAILY, ask, policy_of, settlement, totals
from support.databases import database_url, postgres
from support.owner_process import SocketOwner

__all__ = ["database_url", "postgres"]

LEASE_S = 3.0
KILLS = 5


async def start_owner(url: str, path: Path) -> asyncio.subprocess.Process:
    path.unlink(missing_ok=True)
    root = Path(__file__).resolve().parents[2]
    paths = [str(root / each) for each in ("platform", "kernels", "deployments", "tests")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "support.owner_process", url, str(path), str(LEASE_S),
        env={**os.environ, "PYTHONPATH": ":".join(paths)},
    )  # fmt: skip
    while not path.exists():
        assert process.returncode is None, "the owner did not start"
        await asyncio.sleep(0.02)
    return process


async def test_an_owner_that_is_killed_loses_no_settlement_and_nobody_overspends(
    database_url: str, tmp_path: Path
) -> None:
    policy, rng, path = policy_of({"acme": Limits(budgets=(DAILY,))}), random.Random(3), tmp_path / "owner"
    tenant, settled, stopping = policy.tenants["acme"], {}, asyncio.Event()
    gateways = [LeasedAccountant(SocketOwner(str(path)), lambda: policy, settle_patience_s=60) for _ in range(2)]

    async def client(accountant: LeasedAccountant) -> None:
        while not stopping.is_set():
            asked = ask(tenant, predicted_usd=0.004, floor_usd=0.0005)
            try:
                held = await accountant.reserve(asked)
            except OutriderError:
                await asyncio.sleep(0.02)
                continue
            await asyncio.sleep(rng.random() * 0.03)
            cost = min(rng.uniform(0.0005, 0.004), held.usd)
            await accountant.settle(held, settlement(asked, cost))
            settled[asked.decision_id] = cost

    process = await start_owner(database_url, path)
    clients = [asyncio.create_task(client(gateways[each % 2])) for each in range(16)]
    for _ in range(KILLS):
        await asyncio.sleep(rng.uniform(0.2, 0.8))
        process.send_signal(signal.SIGKILL)
        await process.wait()
        process = await start_owner(database_url, path)
    await asyncio.sleep(0.5)
    stopping.set()
    await asyncio.gather(*clients)
    before = totals(open_database(database_url))
    # The gateways are gone without a word, as killed ones are: after a lease nothing of theirs is left.
    for accountant in gateways:
        for task in accountant._tasks:
            task.cancel()
    database = open_database(database_url)
    for _ in range(200):
        if totals(database)["leases"] == 0:
            break
        await asyncio.sleep(0.1)
    process.kill()
    await process.wait()
    found = totals(database)
    assert len(settled) > 50, "there was load"
    assert found["rows"] == before["rows"] == len(settled), "every settlement, each once"
    assert abs(found["cost_nusd"] + found["forgiven_nusd"] - sum(settled.values()) * 1e9) <= len(settled)
    assert found["cost_nusd"] <= 1e9, "no overspend"
    assert found["leases"] == 0, "no reservation is left behind"
    database.close()
