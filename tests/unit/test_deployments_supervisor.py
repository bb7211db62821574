"""A target finds its drafter again, whatever happened to it, and never argues with one that does not fit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from outrider.errors import DrafterMismatch, LinkError
from outrider_deployments.supervisor import BACKOFF_S, DrafterAddress, DrafterSupervisor


class World:
    """A drafter that can be down, restarted or wrong, and an engine that notices; `sleep` advances it."""

    def __init__(self) -> None:
        self.epoch = 1
        self.down: Exception | None = None
        self.mismatch = False
        self.attached: int | None = None
        self.pauses: list[float] = []
        self.script: list[Callable[[], Any]] = []

    @property
    def has_drafter(self) -> bool:
        return self.attached is not None

    def attach_drafter(self, link: Any) -> None:
        self.attached = link.welcome.epoch

    async def locate(self) -> DrafterAddress:
        if self.down is not None:
            raise self.down
        return DrafterAddress(f"ipc:///draft-{self.epoch}", self.epoch)

    def connect(self, endpoint: str) -> Any:
        if self.mismatch:
            raise DrafterMismatch("drafter x does not fit flash: hidden size 64, not 128")
        return SimpleNamespace(welcome=SimpleNamespace(epoch=self.epoch))

    async def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        if not self.script:
            raise asyncio.CancelledError
        self.script.pop(0)()


async def _run(world: World) -> DrafterSupervisor:
    supervisor = DrafterSupervisor(world, world.locate, world.connect, sleep=world.sleep)
    with contextlib.suppress(asyncio.CancelledError):
        await supervisor.run()
    return supervisor


async def test_attaches_and_stays() -> None:
    world = World()
    world.script = [lambda: None] * 3
    await _run(world)
    assert world.attached == 1


@pytest.mark.parametrize("failure", [LinkError("no answer"), RuntimeError("actor died")])
async def test_backs_off_while_the_drafter_is_away_and_comes_back(failure: Exception) -> None:
    world = World()
    world.down = failure
    world.script = [lambda: None] * 5 + [lambda: setattr(world, "down", None), lambda: None]
    await _run(world)
    first, longest = BACKOFF_S
    assert world.pauses[:6] == [first, 2 * first, 4 * first, 8 * first, longest, longest]
    assert world.attached == 1


async def test_a_lost_drafter_is_replaced_by_its_next_incarnation() -> None:
    world = World()

    def crash() -> None:
        world.attached, world.epoch = None, 2

    world.script = [lambda: None, crash, lambda: None]
    await _run(world)
    assert world.attached == 2


async def test_a_restart_is_noticed_by_an_idle_engine() -> None:
    world = World()
    world.script = [lambda: None, lambda: setattr(world, "epoch", 2)] + [lambda: None] * 12
    await _run(world)
    assert world.attached == 2


async def test_a_drafter_that_does_not_fit_is_refused_for_good(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.mismatch = True
    world.script = [lambda: None] * 20
    supervisor = await _run(world)
    assert supervisor.refusal == "drafter x does not fit flash: hidden size 64, not 128"
    assert world.attached is None
    assert sum("refused" in record.message for record in caplog.records) == 1
