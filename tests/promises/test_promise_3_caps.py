"""Promise 3: a cap is a cap, whatever the steps do at once and whatever is reloaded meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from meshflow.clock import ManualClock
from meshflow.step import Metered

CAP = {"limits": {"caps": [{"name": "all", "per": ["global"], "usd": "1.00"}]}}


def _cap(usd: str, **more: Any) -> dict[str, Any]:
    return {"limits": {"caps": [{"name": "all", "per": ["global"], "usd": usd, **more}]}}


async def _spent(desk: Any) -> tuple[int, int]:
    usage = await desk.runtime.plugin("limits").usage()
    return sum(one.spent.micro_usd for one in usage), sum(one.held.micro_usd for one in usage)


async def test_300_steps_at_once_of_every_ending_never_pass_the_cap(open_desk: Callable[..., Any]) -> None:
    desk = open_desk({**CAP, "plugins": {"executor": {"timeout_ms": 200, "circuit": {"failures": 0}}}})
    running: set[int] = set()
    most_running = 0

    async def handler(kind: int) -> Any:
        nonlocal most_running
        me = random.getrandbits(60)
        running.add(me)
        most_running = max(most_running, len(running))
        try:
            await asyncio.sleep(0)
            if kind == 0:
                raise RuntimeError("crash")
            if kind == 1:
                await asyncio.sleep(60)
            if kind == 2:
                return Metered("bad", float("nan"))
            if kind == 3:
                return Metered("bad", -5)
            if kind == 4:
                return Metered("bad", "1e400")
            return Metered("ok", "0.01")
        finally:
            running.discard(me)

    async def one(number: int) -> Any:
        # A third of the steps share run, step and attempt.
        shared = {"step_id": "same"} if number % 3 == 0 else {}
        step = desk.step(number % 6, handler=handler, estimate_usd="0.10", **shared)
        return await desk.runtime.run(step)

    await desk.runtime.start()
    tasks = [asyncio.create_task(one(number)) for number in range(300)]
    await asyncio.sleep(0.05)
    for task in tasks[::7]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    spent, held = await _spent(desk)
    assert most_running <= 10
    assert held == 0
    assert 0 < spent <= 1_000_000


async def test_an_over_run_is_recorded_and_stops_the_next_step(open_desk: Callable[..., Any]) -> None:
    desk = open_desk(CAP)
    outcome = await desk.run(handler=lambda _: Metered("dear", 3), estimate_usd="0.10")
    assert outcome.ok
    assert outcome.record.overrun_micro_usd == 2_900_000
    refused = await desk.run(estimate_usd="0.000001")
    assert refused.code == "budget_check.exhausted"
    assert desk.ran == []


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -1, "x", True, 10**400, [1]])
async def test_a_cost_that_is_no_number_spends_the_whole_reservation(open_desk: Callable[..., Any], cost: Any) -> None:
    desk = open_desk(CAP)
    outcome = await desk.run(handler=lambda _: Metered("x", cost), estimate_usd="0.40")
    assert (outcome.code, outcome.output) == ("execution.invalid_cost", None)
    assert await _spent(desk) == (400_000, 0)


async def test_what_was_spent_survives_a_reload_that_changes_the_cap(open_desk: Callable[..., Any]) -> None:
    desk = open_desk(CAP)
    assert (await desk.run(handler=lambda _: Metered("x", "0.90"), estimate_usd="0.90")).ok
    await desk.runtime.reload({**desk.config, **_cap("1.05")})
    assert (await desk.run(estimate_usd="0.20")).code == "budget_check.exhausted"
    assert (await desk.run(handler=lambda _: Metered("x", "0.15"), estimate_usd="0.15")).ok
    assert await _spent(desk) == (1_050_000, 0)


async def test_a_step_in_flight_over_a_reload_settles_on_the_new_books(open_desk: Callable[..., Any]) -> None:
    desk = open_desk(CAP)
    go, begun = asyncio.Event(), asyncio.Event()

    async def slow(_: Any) -> Metered:
        begun.set()
        await go.wait()
        return Metered("x", "0.60")

    running = asyncio.create_task(desk.run(handler=slow, estimate_usd="0.80"))
    await begun.wait()
    await desk.runtime.reload({**desk.config, **_cap("0.95")})
    assert (await desk.run(estimate_usd="0.20")).code == "budget_check.exhausted"
    go.set()
    assert (await running).ok
    assert await _spent(desk) == (600_000, 0)
    assert (await desk.run(handler=lambda _: Metered("x", "0.35"), estimate_usd="0.35")).ok
    assert (await desk.run(estimate_usd="0.01")).code == "budget_check.exhausted"


async def test_a_failed_reload_leaves_cap_and_spending_alone(open_desk: Callable[..., Any]) -> None:
    desk = open_desk(CAP)
    assert (await desk.run(handler=lambda _: Metered("x", "0.90"), estimate_usd="0.90")).ok
    with pytest.raises(Exception, match="key"):
        await desk.runtime.reload(
            {
                **desk.config,
                **_cap("9.00"),
                "plugins": {"identity": {"jwks_file": "is-not-there.json", "audience": "a"}},
            }
        )
    assert (await desk.run(estimate_usd="0.20")).code == "budget_check.exhausted"


async def test_a_rate_is_not_refilled_by_a_reload(open_desk: Callable[..., Any]) -> None:
    rates = {"rates": [{"name": "few", "per": ["agent"], "rate": "2/1h"}]}
    desk = open_desk({"limits": rates})
    assert (await desk.run()).ok
    assert (await desk.run()).ok
    await desk.runtime.reload({**desk.config, "limits": {**rates, "caps": CAP["limits"]["caps"]}})
    assert (await desk.run()).code == "rate_limiting.exceeded"


async def test_a_wall_clock_that_steps_does_not_open_a_new_window(open_desk: Callable[..., Any]) -> None:
    clock = ManualClock()
    desk = open_desk(_cap("0.10", period="1d"), clock=clock)
    assert (await desk.run(handler=lambda _: Metered("x", "0.10"), estimate_usd="0.10")).ok
    for wall in (clock.now_us() + 40 * 86_400_000_000, clock.now_us() - 40 * 86_400_000_000):
        clock.set_wall(wall)
        assert (await desk.run(estimate_usd="0.10")).code == "budget_check.exhausted"
    await desk.runtime.reload({**desk.config, **_cap("0.10", period="1d"), "approvals": {"expires_s": 60}})
    assert (await desk.run(estimate_usd="0.10")).code == "budget_check.exhausted"
