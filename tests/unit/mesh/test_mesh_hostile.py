"""What handlers, callers and agents may do to a mesh that they should not be able to."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshflow import NodeInput, Policy, ReplayLedger
from meshflow.errors import ConfigError
from meshflow.facts import Principal
from meshflow.mesh import Event, Mesh, MeshEvent
from meshflow.record import StepRecord, Verdict

Make = Callable[..., Mesh]
NOT_BAD = 'package meshflow.policy\ndecision := {"allow": input.node.id != "bad"}'


def step(**fields: Any) -> NodeInput:
    return NodeInput(**{"node_id": "n", "input": "hello", "handler": str.upper, "run_id": "run-1", **fields})


class TestHandlers:
    @pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, GeneratorExit, BaseException])
    async def test_nothing_that_one_raises_keeps_events_from_others(
        self, make: Make, error: type[BaseException], caplog: pytest.LogCaptureFixture
    ) -> None:
        mesh, seen = make(), []

        async def broken(event: Event) -> None:
            raise error

        mesh.on(MeshEvent.STEP_COMPLETE, broken)
        mesh.on(MeshEvent.STEP_COMPLETE, lambda event: seen.append(event.step_id))
        with caplog.at_level(logging.ERROR):
            for name in ("a", "b"):
                await mesh.runtime.run(step(step_id=name))
            await mesh.drain()
        assert seen == ["a", "b"]

    async def test_one_that_never_returns_is_left_behind(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        mesh, seen = make(handler_timeout_s=0.1), list[str | None]()

        async def stuck(event: Event) -> None:
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    if let_go.is_set():
                        raise

        let_go = threading.Event()
        before = asyncio.all_tasks()
        mesh.on(MeshEvent.STEP_COMPLETE, stuck)
        mesh.on(MeshEvent.STEP_COMPLETE, lambda event: seen.append(event.step_id))
        async with asyncio.timeout(5):
            await mesh.runtime.run(step(step_id="a"))
            await mesh.drain()
        assert seen == ["a"]
        assert "took longer than 0.1 s" in caplog.text
        let_go.set()
        for task in asyncio.all_tasks() - before:
            task.cancel()

    async def test_one_may_take_itself_away(self, make: Make) -> None:
        mesh, seen = make(), []

        def once(event: Event) -> None:
            remove()
            seen.append(event.step_id)

        remove = mesh.on(MeshEvent.STEP_COMPLETE, once)
        for name in ("a", "b"):
            await mesh.runtime.run(step(step_id=name))
        await mesh.drain()
        assert seen == ["a"]


class TestLoops:
    async def test_events_of_blocking_callers_and_of_other_loops_all_arrive(self, make: Make) -> None:
        mesh, seen = make(), list[str]()
        mesh.on(MeshEvent.STEP_COMPLETE, lambda event: seen.append(str(event.step_id)))

        def elsewhere(number: int) -> None:
            for at in range(5):
                asyncio.run(mesh.runtime.run(step(step_id=f"loop-{number}-{at}")))
                mesh.runtime.run_sync(step(step_id=f"sync-{number}-{at}"))

        await asyncio.gather(*(asyncio.to_thread(elsewhere, number) for number in range(3)))
        async with asyncio.timeout(5):
            await mesh.drain()
        assert len(set(seen)) >= 15 + 14  # one under way when its loop was closed may be lost, and no more of them
        assert sum(name.startswith("sync") for name in seen) == 15

    async def test_a_quarantine_begun_by_a_blocking_caller_is_waited_for(self, make: Make) -> None:
        mesh = make(policy=Policy.from_rego(NOT_BAD), quarantine_after=1)
        await asyncio.to_thread(mesh.runtime.run_sync, step(node_id="bad", agent_id="bot"))
        await mesh.drain()
        assert [stop.code for stop in await mesh.stops()] == ["quarantine"]

    async def test_a_run_is_cancelled_from_another_thread_at_once(self, make: Make) -> None:
        mesh = make()
        with mesh._live.entered("run-1", "test", 0) as cancel:
            waiting = asyncio.create_task(cancel.wait())
            await asyncio.sleep(0)
            await asyncio.to_thread(mesh.cancel, "run-1")
            async with asyncio.timeout(5):
                assert await waiting


class TestQuarantine:
    async def test_a_claimed_name_does_not_get_another_stopped(self, make: Make) -> None:
        mesh = make(quarantine_after=3)
        for _ in range(3):
            mesh._count_denials(replace(_denied(""), principal=None), "victim")
        await mesh.drain()
        assert await mesh.stops() == ()

    async def test_steps_denied_because_of_a_pause_do_not_count(self, make: Make) -> None:
        mesh = make(quarantine_after=2)
        await mesh.pause(agent="bot", reason="lunch", authority="ops")
        for _ in range(4):
            assert not (await mesh.runtime.run(step(agent_id="bot"))).ok
        await mesh.drain()
        await mesh.release(agent="bot", reason="back", authority="ops")
        assert (await mesh.runtime.run(step(agent_id="bot"))).ok

    async def test_denials_in_several_tenants_are_not_added_up(self, make: Make) -> None:
        mesh = make(quarantine_after=3)
        for tenant in ("acme", "bolt", "core", "acme"):
            mesh._count_denials(_denied(tenant), "bot")
        await mesh.drain()
        assert await mesh.stops() == ()
        mesh._count_denials(_denied("acme"), "bot")
        await mesh.drain()
        assert [dict(stop.target) for stop in await mesh.stops()] == [{"agent": "bot", "tenant": "acme"}]


def _denied(tenant: str) -> StepRecord:
    return StepRecord(
        run_id="r", node_id="n", step_id="s", attempt=1, node_kind="function", verdict=Verdict.REJECT, code="x.y",
        reason="", tenant_id=tenant, principal=Principal("bot", "bot"),
    )  # fmt: skip


async def test_a_kill_holds_for_every_one_of_many_steps_at_once(make: Make) -> None:
    mesh = make()
    ran: list[int] = []

    async def work(value: Any) -> int:
        ran.append(1)
        await asyncio.sleep(0.01)
        return 1

    async def one(number: int) -> list[bool]:
        return [(await mesh.runtime.run(step(step_id=f"{number}-{at}", handler=work))).ok for at in range(4)]

    first = asyncio.gather(*(one(number) for number in range(64)))
    await asyncio.sleep(0.1)
    await mesh.kill(run="run-1", reason="stop", authority="ops")
    under_way = len(ran)
    held = [(await mesh.runtime.run(step(step_id=f"after-{at}", handler=work))).code for at in range(8)]
    assert held == ["compliance_profile.killed"] * 8
    outcomes = await first
    assert len(ran) <= under_way + 64  # those that had passed the switch go on to their end, each of them once
    assert not all(oks[-1] for oks in outcomes)


@pytest.mark.parametrize("through_mesh", [True, False])
async def test_a_reload_that_leaves_the_switch_out_is_refused_and_changes_nothing(
    make: Make, through_mesh: bool
) -> None:
    mesh = make()
    await mesh.runtime.run(step())
    before = mesh.runtime.fingerprint
    with pytest.raises(ConfigError, match="add mesh to stages"):
        await (mesh if through_mesh else mesh.runtime).reload(
            {"stages": {"compliance_profile": {"use": ["compliance"]}}}
        )
    assert mesh.runtime.fingerprint == before
    await mesh.kill(run="run-1", reason="stop", authority="ops")
    assert (await mesh.runtime.run(step())).code == "compliance_profile.killed"


class TestPostgres:
    async def test_a_kill_holds_for_whoever_shares_the_database(self, postgres_url: str) -> None:
        async with (
            ReplayLedger(postgres_url, key=None) as one, Mesh(ledger=one) as here,
            ReplayLedger(postgres_url, key=None) as two, Mesh(ledger=two) as there,
        ):  # fmt: skip
            assert (await there.runtime.run(step())).ok
            await here.kill(agent="local", reason="stop", authority="ops")
            assert (await there.runtime.run(step())).code == "compliance_profile.killed"

    async def test_a_ledger_that_hides_what_stops_all_is_refused(self, postgres_url: str) -> None:
        async with ReplayLedger(postgres_url, key=None, tenant="acme") as ledger:
            with pytest.raises(ConfigError, match="hide the stops that hold for all"):
                Mesh(ledger=ledger)


async def test_a_kill_for_all_holds_for_a_tenants_ledger_in_a_file(make: Make, path: Path) -> None:
    await make().kill(tool="wipe", reason="stop", authority="ops")
    async with ReplayLedger(path, key=None, tenant="default") as ledger, Mesh(ledger=ledger) as mesh:
        outcome = await mesh.runtime.run(step(kind="tool", tool="wipe", input={}))
    assert outcome.code == "compliance_profile.killed"
