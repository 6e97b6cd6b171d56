"""Budgets: a cap is a cap, whatever races, fails, over-runs or lies."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine
from decimal import Decimal
from typing import Any

import pytest

from meshflow.clock import ManualClock
from meshflow.plugin import (
    BudgetReservation,
    Decision,
    Effect,
    Host,
    NodeInput,
    Principal,
    Purpose,
    StepContext,
    StepRecord,
    TenantScope,
    Verdict,
    context_for,
)
from meshflow_limits import CODES, LimitsPlugin, LimitsSettings
from meshflow_limits.budget import MemoryBudgetStore
from meshflow_limits.store import Amount

DAY = 86_400


class Desk:
    """A plugin, a clock, and short words for a step's life."""

    def __init__(self, *caps: dict[str, Any], **more: Any) -> None:
        self.clock = ManualClock()
        settings = LimitsSettings.model_validate({"caps": caps, **more})
        self.limits = LimitsPlugin(settings, Host(clock=self.clock))
        self._number = 0

    def step(self, usd: object = None, *, tenant: str = "acme", agent: str = "a1", **node: Any) -> StepContext:
        self._number += 1
        node = {"node_id": "n", "run_id": "run", "step_id": f"s{self._number}", "estimate_usd": usd, **node}
        return context_for(
            NodeInput(**node),
            clock=self.clock,
            identity_verification=Principal("alice", agent),
            tenant_scoping=TenantScope(tenant),
        )

    async def reserve(self, context: StepContext) -> Decision:
        decision = await self.limits.check_budget(context)
        if decision.effect is Effect.ALLOW:
            assert type(decision.fact) is BudgetReservation
        else:
            assert decision.code in CODES
        return decision

    async def end(self, context: StepContext, cost: Any = 0, *, executed: bool = True, **more: Any) -> None:
        await self.limits.settle_step(context, record(context, cost_micro_usd=cost, executed=executed, **more))

    async def amounts(self) -> tuple[Amount, Amount]:
        (usage,) = await self.limits.usage()
        return usage.spent, usage.held


def record(context: StepContext, **fields: Any) -> StepRecord:
    return StepRecord(
        run_id=context.run_id, node_id="n", step_id=context.step_id, attempt=context.attempt,
        tenant_id=context.tenant_id or "default", **fields,
    )  # fmt: skip


def run_now(work: Coroutine[Any, Any, Any]) -> Any:
    """Drive a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the store waited")


async def test_without_caps_the_estimate_is_the_reservation() -> None:
    decision = await Desk().reserve(context_for(NodeInput(node_id="n", estimate_usd="0.25", estimate_tokens=7)))
    assert (decision.fact.micro_usd, decision.fact.tokens, decision.fact.scopes) == (250_000, 7, ())


async def test_a_hundred_concurrent_ten_cent_steps_under_one_dollar_complete_exactly_ten() -> None:
    desk = Desk({"name": "run", "per": ["run"], "usd": "1.00", "period": "run"})

    async def one() -> bool:
        context = desk.step(0.1)
        await asyncio.sleep(random.random() / 100)
        decision = await desk.reserve(context)
        completed = decision.effect is Effect.ALLOW
        await asyncio.sleep(random.random() / 100)
        await desk.end(context, 100_000 if completed else 0, executed=completed)
        return completed

    assert (await asyncio.gather(*(one() for _ in range(100)))).count(True) == 10
    assert await desk.amounts() == (Amount(1_000_000, 0, 10), Amount())


def test_racing_threads_never_hold_or_spend_more_than_the_cap() -> None:
    desk = Desk({"name": "all", "usd": "3.00"}, {"name": "agent", "per": ["agent"], "steps": 250})
    contexts = [[desk.step("0.01", agent=f"a{lane % 2}") for _ in range(200)] for lane in range(8)]
    completed: list[int] = []
    barrier = threading.Barrier(8)

    def race(lane: list[StepContext]) -> None:
        barrier.wait()
        done = 0
        for context in lane:
            if run_now(desk.limits.check_budget(context)).effect is Effect.ALLOW:
                done += 1
                run_now(desk.end(context, 10_000))
        completed.append(done)

    threads = [threading.Thread(target=race, args=(lane,)) for lane in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(completed) == 300
    usage = {account.cap: account for account in run_now(desk.limits.usage())}
    assert usage["all"].spent.micro_usd == 3_000_000
    assert usage["agent"].spent.steps <= 250
    assert all(not any(account.held) for account in usage.values())


async def test_a_denied_or_paused_step_gives_its_reservation_back() -> None:
    desk = Desk({"name": "c", "usd": 1})
    for verdict in (Verdict.REJECT, Verdict.ESCALATE, Verdict.ERROR):
        context = desk.step(1)
        assert (await desk.reserve(context)).effect is Effect.ALLOW
        assert (await desk.reserve(desk.step("0.000001"))).code == "budget_check.exhausted"
        await desk.end(context, 0, executed=False, verdict=verdict)
    assert await desk.limits.usage() == []


async def test_a_step_that_executed_is_spent_even_if_it_failed_or_its_output_waits() -> None:
    desk = Desk({"name": "c", "usd": 1})
    for verdict in (Verdict.ERROR, Verdict.ESCALATE, Verdict.REJECT):
        context = desk.step("0.2")
        await desk.reserve(context)
        await desk.end(context, 150_000, executed=True, verdict=verdict, tokens=3)
    assert await desk.amounts() == (Amount(450_000, 9, 3), Amount())


async def test_what_a_step_did_not_use_is_free_again() -> None:
    desk = Desk({"name": "c", "usd": 1})
    context = desk.step(1)
    await desk.reserve(context)
    await desk.end(context, 400_000)
    assert (await desk.reserve(desk.step("0.6"))).effect is Effect.ALLOW
    assert (await desk.reserve(desk.step("0.000001"))).code == "budget_check.exhausted"


async def test_an_over_run_is_recorded_and_blocks_the_next_reservation_of_nothing() -> None:
    desk = Desk({"name": "c", "usd": 1})
    context = desk.step("0.1")
    await desk.reserve(context)
    await desk.end(context, 1_500_000)
    denied = await desk.reserve(desk.step(0))
    assert denied.code == "budget_check.exhausted"
    assert denied.evidence["spent"] == 1_500_000
    (usage,) = await desk.limits.usage()
    assert usage.overrun == Amount(500_000, 0, 0)


async def test_settling_twice_counts_once() -> None:
    desk = Desk({"name": "c", "usd": 1})
    context = desk.step("0.5")
    await desk.reserve(context)
    await desk.end(context, 500_000)
    await desk.end(context, 500_000)
    await desk.end(context, 0, executed=False)
    assert await desk.amounts() == (Amount(500_000, 0, 1), Amount())


@pytest.mark.parametrize("cost", [-1, None, 0.5, float("nan"), True, "1"])
async def test_a_record_with_a_cost_that_is_none_spends_the_whole_reservation(cost: object) -> None:
    desk = Desk({"name": "c", "usd": 1})
    context = desk.step("0.5", estimate_tokens=9)
    await desk.reserve(context)
    await desk.end(context, cost, tokens=cost)
    assert (await desk.amounts())[0] == Amount(500_000, 9, 1)


BAD_COSTS = [
    float("nan"), float("inf"), float("-inf"), -1, -0.01, "NaN", "-Infinity", "sNaN", "ten", "", Decimal("NaN"),
    Decimal(-1), 1e300, "1e999999999", True, [], {}, b"1", 1j, object(),
]  # fmt: skip


@pytest.mark.parametrize("capped", [True, False])
@pytest.mark.parametrize("estimate", BAD_COSTS)
async def test_an_estimate_that_is_no_amount_is_refused_with_a_cap_or_without(estimate: object, capped: bool) -> None:
    desk = Desk(*([{"name": "c", "usd": 1}] if capped else []))
    decision = await desk.reserve(desk.step(estimate))
    assert decision.code == "budget_check.invalid_estimate"
    assert len(decision.reason) < 200
    assert await desk.limits.usage() == []


@pytest.mark.parametrize("tokens", [-1, 1.5, "7", True, None, float("nan"), 2**53])
async def test_tokens_that_are_no_count_are_refused(tokens: object) -> None:
    desk = Desk({"name": "c", "tokens": 10})
    assert (await desk.reserve(desk.step(0, estimate_tokens=tokens))).code == "budget_check.invalid_estimate"


async def test_a_hostile_estimate_is_not_echoed() -> None:
    decision = await Desk().reserve(Desk().step("my secret " * 100_000))
    assert decision.code == "budget_check.invalid_estimate"
    assert "secret" not in decision.reason + str(dict(decision.evidence))


async def test_estimates_are_rounded_up_so_that_many_small_ones_do_not_slip_under_the_cap() -> None:
    desk = Desk({"name": "c", "usd": "0.000003"})
    answers = [await desk.reserve(desk.step("0.0000001")) for _ in range(10)]
    assert [answer.effect for answer in answers].count(Effect.ALLOW) == 3


@pytest.mark.parametrize("kind", ["function", "tool", "human", "subgraph"])
async def test_a_function_tool_or_person_without_an_estimate_costs_the_default(kind: str) -> None:
    node: dict[str, Any] = {"kind": kind, "tool": "t" if kind == "tool" else None}
    free = await Desk({"name": "c", "usd": 1, "tokens": 1}).reserve(Desk().step(None, **node))
    assert (free.fact.micro_usd, free.fact.tokens) == (0, 0)
    priced = await Desk({"name": "c", "usd": 1}, default_estimate_usd="0.3").reserve(Desk().step(None, **node))
    assert priced.fact.micro_usd == 300_000


@pytest.mark.parametrize("kind", ["agent", "model", "mcp", "http"])
async def test_a_step_of_unknown_cost_under_a_cap_is_refused_unless_a_setting_says_otherwise(kind: str) -> None:
    step = Desk().step(None, kind=kind)
    refused = await Desk({"name": "c", "usd": 1}).reserve(step)
    assert refused.code == "budget_check.no_estimate"
    assert "estimate_usd" in refused.reason
    assert (await Desk({"name": "c", "usd": 1}).reserve(Desk().step(0, kind=kind))).effect is Effect.ALLOW
    defaulted = await Desk({"name": "c", "usd": 1}, default_estimate_usd="0.3").reserve(step)
    assert defaulted.fact.micro_usd == 300_000
    assert (await Desk({"name": "c", "usd": 1}, require_estimate=False).reserve(step)).effect is Effect.ALLOW
    assert (await Desk({"name": "c", "steps": 1}).reserve(step)).effect is Effect.ALLOW
    assert (await Desk({"name": "c", "usd": 1, "match": {"tool": ["t"]}}).reserve(step)).effect is Effect.ALLOW
    assert (await Desk().reserve(step)).effect is Effect.ALLOW


async def test_a_cap_on_tokens_needs_an_estimate_of_tokens() -> None:
    desk = Desk({"name": "c", "tokens": 100})
    assert (await desk.reserve(desk.step(0, kind="model"))).code == "budget_check.no_estimate"
    assert (await desk.reserve(desk.step(0, kind="model", estimate_tokens=60))).effect is Effect.ALLOW
    assert (await desk.reserve(desk.step(0, kind="model", estimate_tokens=41))).code == "budget_check.exhausted"
    defaulted = Desk({"name": "c", "tokens": 100}, default_estimate_tokens=100)
    assert (await defaulted.reserve(defaulted.step(0, kind="model"))).fact.tokens == 100


@pytest.mark.parametrize(
    ("cap", "node", "unit"),
    [
        ({"usd": "0.5"}, {"usd": "0.3"}, "micro_usd"),
        ({"tokens": 50}, {"estimate_tokens": 30}, "tokens"),
        ({"steps": 1}, {}, "steps"),
    ],
)
async def test_money_tokens_and_steps_are_each_capped_and_the_denial_says_which(
    cap: dict[str, Any], node: dict[str, Any], unit: str
) -> None:
    desk = Desk({"name": "c", **cap})
    assert (await desk.reserve(desk.step(**node))).effect is Effect.ALLOW
    denied = await desk.reserve(desk.step(**node))
    assert denied.code == "budget_check.exhausted"
    assert (denied.evidence["cap"], denied.evidence["unit"]) == ("c", unit)


async def test_a_step_that_one_cap_refuses_holds_nothing_on_the_others() -> None:
    desk = Desk({"name": "wide", "usd": 5}, {"name": "narrow", "per": ["agent"], "usd": 1})
    assert (await desk.reserve(desk.step(1))).effect is Effect.ALLOW
    for _ in range(5):
        denied = await desk.reserve(desk.step(1))
        assert denied.evidence["cap"] == "narrow"
    held = {account.cap: account.held.micro_usd for account in await desk.limits.usage()}
    assert held == {"wide": 1_000_000, "narrow": 1_000_000}


async def test_each_agent_tenant_and_run_has_its_own_account() -> None:
    desk = Desk({"name": "c", "per": ["tenant", "agent", "run"], "steps": 1})
    for change in ({}, {"agent": "a2"}, {"tenant": "globex"}, {"run_id": "other"}):
        assert (await desk.reserve(desk.step(**change))).effect is Effect.ALLOW
        assert (await desk.reserve(desk.step(**change))).code == "budget_check.exhausted"
    keys = [dict(account.key) for account in await desk.limits.usage()]
    assert {"tenant": "globex", "agent": "a1", "run": "globex/run"} in keys


async def test_another_tenants_run_of_the_same_name_does_not_spend_this_ones_budget() -> None:
    desk = Desk({"name": "c", "usd": 1, "period": "run"})
    assert (await desk.reserve(desk.step(1, tenant="globex"))).effect is Effect.ALLOW
    assert (await desk.reserve(desk.step(1, tenant="acme"))).effect is Effect.ALLOW


@pytest.mark.parametrize("dimension", ["tenant", "agent", "principal"])
async def test_a_cap_by_what_no_stage_has_named_denies(dimension: str) -> None:
    decision = await Desk({"name": "c", "usd": 1, "per": [dimension]}).reserve(context_for(NodeInput(node_id="n")))
    assert decision.code == "budget_check.unscoped"


async def test_a_new_window_starts_empty_and_a_late_end_counts_in_its_own() -> None:
    desk = Desk({"name": "c", "usd": 1, "period": "1d"})
    desk.clock.set_wall(1_700_000_000_000_000 // (DAY * 10**6) * (DAY * 10**6))
    late = desk.step(1)
    assert (await desk.reserve(late)).effect is Effect.ALLOW
    desk.clock.advance(DAY - 1)
    assert (await desk.reserve(desk.step(1))).code == "budget_check.exhausted"
    desk.clock.advance(1)
    fresh = desk.step("0.4")
    assert (await desk.reserve(fresh)).effect is Effect.ALLOW
    await desk.end(late, 5_000_000)
    await desk.end(fresh, 400_000)
    assert (await desk.amounts())[0] == Amount(400_000, 0, 1)


async def test_a_wall_clock_that_is_set_gives_no_new_window() -> None:
    desk = Desk({"name": "c", "usd": 1, "period": "1h"})
    assert (await desk.reserve(desk.step(1))).effect is Effect.ALLOW
    for wall in (0, 1_600_000_000_000_000, 1_900_000_000_000_000):
        desk.clock.set_wall(wall)
        assert (await desk.reserve(desk.step(1))).code == "budget_check.exhausted"
    desk.clock.advance(3600)
    assert (await desk.reserve(desk.step(1))).effect is Effect.ALLOW


async def test_looking_answers_the_same_and_reserves_nothing() -> None:
    desk = Desk({"name": "c", "usd": 1})
    looking = StepContext(desk.step(1)._state.look(Purpose.EXPLAIN))
    for _ in range(3):
        assert (await desk.reserve(looking)).fact.micro_usd == 1_000_000
    assert await desk.limits.usage() == []
    real = desk.step(1)
    await desk.reserve(real)
    assert (await desk.reserve(looking)).code == "budget_check.exhausted"
    await desk.end(StepContext(real._state.look(Purpose.SHADOW)), 1_000_000)
    assert (await desk.amounts())[1].micro_usd == 1_000_000


async def test_two_instances_settle_their_own_holds_of_one_step() -> None:
    base, tenant = Desk({"name": "c", "usd": 10}), Desk({"name": "c", "usd": 1})
    context = base.step("0.5")
    first = await base.reserve(context)
    second = await tenant.reserve(context)
    assert first.fact.hold_id != second.fact.hold_id
    context._state.facts["budget_check"] = first.fact
    for desk in (tenant, base):
        await desk.end(context, 700_000)
        assert await desk.amounts() == (Amount(700_000, 0, 1), Amount())


async def test_a_refused_twin_of_a_running_step_does_not_give_its_hold_back() -> None:
    desk = Desk({"name": "c", "usd": 1})
    running, refused, unseen = (desk.step(1, step_id="twin") for _ in range(3))
    assert (await desk.reserve(running)).effect is Effect.ALLOW
    assert (await desk.reserve(refused)).code == "budget_check.exhausted"
    await desk.end(refused, executed=False)
    await desk.end(unseen, executed=False)
    assert (await desk.amounts())[1].micro_usd == 1_000_000
    await desk.end(running, 1_000_000)
    assert await desk.amounts() == (Amount(1_000_000, 0, 1), Amount())


async def test_a_step_that_ends_by_another_view_of_itself_is_settled() -> None:
    desk = Desk({"name": "c", "usd": 1})
    context = desk.step(1)
    await desk.reserve(context)
    await desk.end(StepContext(context._state), 600_000)
    assert await desk.amounts() == (Amount(600_000, 0, 1), Amount())


async def test_a_hold_stays_until_it_is_settled_and_is_reported_when_overdue() -> None:
    desk = Desk({"name": "c", "usd": 1}, hold_ttl_s=60)
    await desk.reserve(desk.step(1))
    desk.clock.advance(61)
    assert await desk.limits.overdue_holds() == 1
    assert (await desk.reserve(desk.step(1))).code == "budget_check.exhausted"


async def test_accounts_of_past_windows_and_idle_runs_are_dropped() -> None:
    desk = Desk(
        {"name": "hour", "per": ["agent"], "steps": 5, "period": "1h"},
        {"name": "run", "steps": 5, "period": "run"},
        forget_runs_after="1h",
    )
    store = desk.limits._budget
    assert isinstance(store, MemoryBudgetStore)
    most = 0
    for number in range(5_000):
        desk.clock.advance(60)
        context = desk.step(agent=f"a{number}", run_id=f"r{number}")
        assert (await desk.reserve(context)).effect is Effect.ALLOW
        await desk.end(context)
        most = max(most, store._books.accounts)
    assert most <= 250
    assert store._books.accounts == sum(map(len, store._books.tables.values()))


async def test_an_open_hold_keeps_its_account_however_long_it_is_idle() -> None:
    desk = Desk({"name": "run", "usd": 1, "period": "run"}, forget_runs_after="1h")
    slow = desk.step(1, run_id="slow")
    await desk.reserve(slow)
    for number in range(100):
        desk.clock.advance(3601)
        other = desk.step(1, run_id=f"r{number}")
        await desk.reserve(other)
        await desk.end(other, 1)
    assert (await desk.reserve(desk.step(1, run_id="slow"))).code == "budget_check.exhausted"


async def test_more_accounts_than_allowed_are_refused() -> None:
    desk = Desk({"name": "c", "per": ["agent"], "usd": 1}, max_keys=2)
    for agent in ("a", "b"):
        context = desk.step("0.1", agent=agent)
        await desk.reserve(context)
        await desk.end(context, 100_000)
    assert (await desk.reserve(desk.step(0, agent="c"))).code == "budget_check.too_many_keys"
    assert (await desk.reserve(desk.step(0, agent="a"))).effect is Effect.ALLOW


async def test_nothing_is_kept_of_steps_that_are_over() -> None:
    desk = Desk({"name": "c", "usd": 1})
    for cost in (0, 0, 0):
        context = desk.step("0.5")
        await desk.reserve(context)
        await desk.end(context, cost, executed=False)
    assert desk.limits._holds._by_step == {}
    assert run_now(desk.limits._budget.overdue(2**62)) == 0
