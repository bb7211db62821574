"""A change of policy over several gateways: all or none, one version at a time, the last good one through failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from outrider.database import open_database
from outrider.errors import DatabaseError, NotReady, PolicyConflict, PolicyError
from outrider.policy import Policy
from outrider.policy.following import Documents, Follower, Order, Report
from outrider.policy.loading import parse_policies
from outrider.policy.rollout import Rollout
from outrider.policy.sources import Source
from outrider.policy.store import PolicyStore

FENCE_S = 0.6
DEFAULT = (Path(__file__).resolve().parents[2] / "policies/default.yaml").read_text("utf-8")


def documents(output_usd: float) -> Documents:
    """The default policy with another price of Pro's output, by which versions are told apart here."""
    return (Source("platform.yaml", DEFAULT.replace("output: 1.00}", f"output: {output_usd:.2f}}}")),)


def price(policy: Policy) -> float:
    return round(policy.models["pro"].output_usd_per_token * 1e6, 2)


def read(sources: Documents) -> Policy:
    report = parse_policies(sources[0], sources[1:])
    assert report.policy is not None
    return report.policy


class Line:
    """The way from a gateway to control, which can be cut."""

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self.cut = False

    async def poll(self, gateway: str, report: Report) -> Order:
        if self.cut:
            raise ConnectionError
        order = await self.rollout.poll(gateway, report)
        if self.cut:
            raise ConnectionError
        return order


class Gateways:
    """Followers that run; each has a line of its own."""

    def __init__(self) -> None:
        self.followers: dict[str, Follower] = {}
        self.lines: dict[str, Line] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def add(self, name: str, rollout: Rollout, reader: object = read) -> Follower:
        line = self.lines[name] = Line(rollout)
        follower = self.followers[name] = Follower(name, line, reader, fence_s=FENCE_S)  # type: ignore[arg-type]
        self.tasks[name] = asyncio.create_task(follower.run())
        return follower

    async def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


@asynccontextmanager
async def platform(path: Path, *names: str) -> AsyncIterator[tuple[Rollout, Gateways]]:
    """Control with a store in `path`, and gateways that have the first version."""
    database = open_database(f"sqlite:///{path}/outrider.db")
    rollout = Rollout(PolicyStore(database), gateways=len(names), fence_s=FENCE_S, hold_s=0.2)
    gateways = Gateways()
    try:
        await rollout.start(documents(1.0))
        for name in names:
            gateways.add(name, rollout)
        await active(gateways)
        yield rollout, gateways
    finally:
        await gateways.close()
        database.close()


async def active(gateways: Gateways) -> None:
    for follower in gateways.followers.values():
        for _ in range(200):
            with suppress(NotReady):
                assert follower.policy
                break
            await asyncio.sleep(0.01)


async def test_when_apply_returns_every_gateway_has_it(tmp_path: Path) -> None:
    async with platform(tmp_path, "a", "b", "c") as (rollout, gateways):
        stored, checked = await rollout.apply(documents(2.0), author="ann", reason="dearer")
        assert [price(each.policy) for each in gateways.followers.values()] == [2.0, 2.0, 2.0]
        assert (stored.number, stored.author, price(rollout.policy)) == (2, "ann", 2.0)
        assert any("output" in change.what for change in checked.changes)


async def test_one_gateway_that_refuses_keeps_all_at_the_old_version(tmp_path: Path) -> None:
    def refuse(sources: Documents) -> Policy:
        policy = read(sources)
        if price(policy) == 2.0:
            raise PolicyError("no entry for a model that is served here")
        return policy

    async with platform(tmp_path, "a") as (rollout, gateways):
        gateways.add("b", rollout, refuse)
        await active(gateways)
        with pytest.raises(PolicyError, match="gateway b: no entry for a model"):
            await rollout.apply(documents(2.0), author="ann", reason="dearer")
        assert [price(each.policy) for each in gateways.followers.values()] == [1.0, 1.0]
        assert rollout.current.number == 1
        stored, _ = await rollout.apply(documents(3.0), author="ann", reason="dearer still")
        assert [price(each.policy) for each in gateways.followers.values()] == [3.0, 3.0]
        assert stored.number == 2
        assert [entry.action for entry in rollout._store.audit()] == ["apply", "refused", "seed"]


async def test_documents_that_do_not_load_change_nothing_and_are_on_record(tmp_path: Path) -> None:
    async with platform(tmp_path, "a") as (rollout, gateways):
        broken = (Source("platform.yaml", DEFAULT.replace("tier: standard", "tier: standrd")),)
        with pytest.raises(PolicyError, match=r"platform\.yaml:\d+:\d+: tenants\.demo\.tier: .*did you mean"):
            await rollout.apply(broken, author="ann", reason="typo")
        assert price(gateways.followers["a"].policy) == 1.0
        assert rollout._store.audit()[0].action == "refused"


async def test_a_gateway_out_of_reach_is_fenced_before_apply_returns(tmp_path: Path) -> None:
    async with platform(tmp_path, "a", "b") as (rollout, gateways):
        lost = gateways.followers["b"]
        gateways.lines["b"].cut = True
        await rollout.apply(documents(2.0), author="ann", reason="dearer")
        assert price(gateways.followers["a"].policy) == 2.0
        with pytest.raises(NotReady):
            assert lost.policy
        gateways.lines["b"].cut = False
        await asyncio.sleep(RECOVERS_S)
        assert price(lost.policy) == 2.0


RECOVERS_S = 1.0


async def test_no_two_versions_admit_once_apply_has_returned(tmp_path: Path) -> None:
    """Whatever lines are cut while versions change: after each apply, what any gateway admits under is the new one."""
    async with platform(tmp_path, "a", "b", "c") as (rollout, gateways):
        for turn, name in enumerate("abcab"):
            wanted = 2.0 + turn
            gateways.lines[name].cut = True
            await rollout.apply(documents(wanted), author="ann", reason="turn")
            for follower in gateways.followers.values():
                with suppress(NotReady):
                    assert price(follower.policy) == wanted
            gateways.lines[name].cut = False


async def test_a_lost_line_fences_by_itself_and_not_at_once(tmp_path: Path) -> None:
    async with platform(tmp_path, "a") as (_, gateways):
        gateways.lines["a"].cut = True
        assert gateways.followers["a"].policy
        await asyncio.sleep(FENCE_S + 0.5)
        with pytest.raises(NotReady, match="cannot reach control"):
            assert gateways.followers["a"].policy
        assert price(gateways.followers["a"].last) == 1.0


async def test_a_poll_that_is_never_answered_is_made_anew(tmp_path: Path) -> None:
    async with platform(tmp_path, "a") as (rollout, gateways):
        polls = 0

        class Deaf:
            """Takes the first call and says nothing, as a control that is stopped does."""

            async def poll(self, gateway: str, report: Report) -> Order:
                nonlocal polls
                polls += 1
                if polls == 1:
                    await asyncio.Event().wait()
                return await rollout.poll(gateway, report)

        follower = gateways.followers["b"] = Follower("b", Deaf(), read, fence_s=FENCE_S)
        gateways.tasks["b"] = asyncio.create_task(follower.run())
        await active(gateways)
        assert price(follower.policy) == 1.0


async def test_a_change_made_from_an_older_version_conflicts(tmp_path: Path) -> None:
    async with platform(tmp_path, "a") as (rollout, _):
        await rollout.apply(documents(2.0), author="ann", reason="first", expected_parent=1)
        with pytest.raises(PolicyConflict, match="version 2, not 1"):
            await rollout.apply(documents(3.0), author="bob", reason="second", expected_parent=1)
        assert rollout.current.number == 2


async def test_changes_at_once_come_one_after_another(tmp_path: Path) -> None:
    async with platform(tmp_path, "a", "b") as (rollout, gateways):
        await asyncio.gather(*(rollout.apply(documents(2.0 + n), author="ann", reason="race") for n in range(4)))
        assert [each.number for each in rollout._store.history()] == [5, 4, 3, 2, 1]
        assert {price(each.policy) for each in gateways.followers.values()} == {price(rollout.policy)}


async def test_rolling_back_is_a_new_version_with_the_old_content(tmp_path: Path) -> None:
    async with platform(tmp_path, "a") as (rollout, gateways):
        await rollout.apply(documents(2.0), author="ann", reason="dearer")
        stored, _ = await rollout.rollback(None, author="bob", reason="too dear")
        assert (stored.number, stored.restores, stored.action) == (3, 1, "rollback")
        assert price(gateways.followers["a"].policy) == 1.0
        with pytest.raises(PolicyConflict, match="no policy version 9"):
            await rollout.rollback(9, author="bob", reason="?")


async def test_a_disk_that_does_not_take_the_version_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with platform(tmp_path, "a") as (rollout, gateways):

        def full(*_: object, **__: object) -> None:
            raise DatabaseError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(rollout._store, "add", full)
            with pytest.raises(DatabaseError):
                await rollout.apply(documents(2.0), author="ann", reason="dearer")
        assert (price(gateways.followers["a"].policy), rollout.current.number) == (1.0, 1)
        await rollout.apply(documents(2.0), author="ann", reason="again")
        assert price(gateways.followers["a"].policy) == 2.0


async def test_restarting_keeps_what_was_applied_and_takes_files_only_when_they_changed(tmp_path: Path) -> None:
    async with platform(tmp_path, "a") as (rollout, _):
        await rollout.apply(documents(2.0), author="ann", reason="dearer")
    database = open_database(f"sqlite:///{tmp_path}/outrider.db")
    same = Rollout(PolicyStore(database))
    await same.start(documents(1.0))
    assert (price(same.policy), same.current.number) == (2.0, 2)
    changed = Rollout(PolicyStore(database))
    await changed.start(documents(4.0))
    assert (price(changed.policy), changed.current.action) == (4.0, "seed")
    broken = Rollout(PolicyStore(database))
    await broken.start((Source("platform.yaml", "version: 2"),))
    assert price(broken.policy) == 4.0
    assert broken._store.audit()[0].action == "refused"
    database.close()


async def test_a_file_that_was_in_force_at_a_start_is_not_taken_again(tmp_path: Path) -> None:
    """It had been applied by hand; what an operator does after the start outlives the next one."""
    async with platform(tmp_path, "a") as (rollout, _):
        await rollout.apply(documents(2.0), author="ann", reason="dearer")
    database = open_database(f"sqlite:///{tmp_path}/outrider.db")
    restarted = Rollout(PolicyStore(database), gateways=0)
    await restarted.start(documents(2.0))
    await restarted.rollback(1, author="bob", reason="too dear")
    again = Rollout(PolicyStore(database))
    await again.start(documents(2.0))
    assert (price(again.policy), again.current.action) == (1.0, "rollback")
    database.close()


async def test_two_configurations_that_differ_do_not_take_turns(tmp_path: Path) -> None:
    """The Serve config's files and a deployment's user_config are each compared with what they said themselves."""
    database = open_database(f"sqlite:///{tmp_path}/outrider.db")
    numbers = []
    for _ in range(3):
        rollout = Rollout(PolicyStore(database), gateways=0)
        await rollout.start(documents(1.0))
        await rollout.seed(documents(2.0), author="serve user_config", reason="as deployed")
        numbers.append((rollout.current.number, price(rollout.policy)))
    assert numbers == [(2, 2.0)] * 3
    database.close()


async def test_who_leaves_while_a_change_is_written_leaves_it_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with platform(tmp_path, "a") as (rollout, gateways):
        writing, add = asyncio.Event(), rollout._store.add
        loop = asyncio.get_running_loop()

        def slowly(*args: object, **kwargs: object) -> object:
            loop.call_soon_threadsafe(writing.set)
            time.sleep(0.1)
            return add(*args, **kwargs)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(rollout._store, "add", slowly)
            change = asyncio.create_task(rollout.apply(documents(2.0), author="ann", reason="dearer"))
            await writing.wait()
            change.cancel()
            with pytest.raises(asyncio.CancelledError):
                await change
            for _ in range(200):
                await asyncio.sleep(0.01)
                if rollout.current.number == 2:
                    break
        stored, _ = await rollout.apply(documents(3.0), author="bob", reason="dearer still")
        assert (stored.number, price(gateways.followers["a"].policy)) == (3, 3.0)


async def test_nothing_kept_and_nothing_that_loads_is_an_error(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/outrider.db")
    with pytest.raises(PolicyError):
        await Rollout(PolicyStore(database)).start((Source("platform.yaml", "version: 2"),))
    database.close()


async def test_after_a_restart_changes_wait_for_gateways_that_may_still_admit(tmp_path: Path) -> None:
    """A gateway that control has not heard of since its start may live on the old version for a fence."""
    async with platform(tmp_path, "a") as (_, gateways):
        database = open_database(f"sqlite:///{tmp_path}/outrider.db")
        second = Rollout(PolicyStore(database), gateways=1, fence_s=FENCE_S, hold_s=0.2)
        await second.start(documents(1.0))
        began_s = time.monotonic()
        change = asyncio.create_task(second.apply(documents(2.0), author="ann", reason="after a restart"))
        await asyncio.sleep(0.1)
        assert not change.done()
        gateways.lines["a"].rollout = second
        await change
        assert price(gateways.followers["a"].policy) == 2.0
        assert time.monotonic() - began_s < 60
        database.close()
