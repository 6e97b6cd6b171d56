"""Rate limits: never more than the burst and the rate allow, for whatever key, clock and race."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshflow.clock import ManualClock
from meshflow.plugin import (
    Decision,
    Effect,
    NodeInput,
    Principal,
    Purpose,
    RateLease,
    StepContext,
    TenantScope,
    context_for,
)
from meshflow_limits import CODES, LimitsPlugin, LimitsSettings, RateSettings
from meshflow_limits.build import rule_of
from meshflow_limits.gcra import MemoryRateStore
from meshflow_limits.store import RateRule

SECOND = 1_000_000_000


def plugin(*rates: dict[str, Any], **more: Any) -> LimitsPlugin:
    return LimitsPlugin(LimitsSettings.model_validate({"rates": rates, **more}))


def rule(rate: str, burst: int | None = None, name: str = "r") -> RateRule:
    return rule_of(RateSettings.model_validate({"name": name, "rate": rate, "burst": burst}))


def step(
    clock: ManualClock,
    *,
    tenant: str = "acme",
    agent: str = "a1",
    subject: str = "alice",
    tool: str | None = None,
    run: str = "run",
) -> StepContext:
    node = NodeInput(node_id="n", run_id=run, kind="tool" if tool else "function", tool=tool)
    return context_for(
        node, clock=clock, identity_verification=Principal(subject, agent), tenant_scoping=TenantScope(tenant)
    )


def run_now(work: Coroutine[Any, Any, Any]) -> Any:
    """Drive a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the store waited")


async def admitted(limits: LimitsPlugin, context: StepContext) -> bool:
    decision = await limits.limit_rate(context)
    assert decision.effect is Effect.ALLOW or decision.code in CODES
    return decision.effect is Effect.ALLOW


async def admits(limits: LimitsPlugin, context: StepContext, tries: int = 50) -> int:
    return [await admitted(limits, context) for _ in range(tries)].count(True)


async def test_without_limits_every_step_gets_a_lease() -> None:
    decision = await plugin().limit_rate(context_for(NodeInput(node_id="n")))
    assert decision.effect is Effect.ALLOW
    assert decision.fact == RateLease()


async def test_the_burst_passes_at_once_and_then_the_rate() -> None:
    clock, limits = ManualClock(), plugin({"name": "r", "rate": "10/1s", "burst": 3})
    assert await admits(limits, step(clock)) == 3
    clock.advance(0.1)
    assert await admits(limits, step(clock)) == 1
    clock.advance(3600)
    assert await admits(limits, step(clock)) == 3


async def test_the_burst_is_the_count_unless_it_is_set() -> None:
    assert await admits(plugin({"name": "r", "rate": "7/h"}), step(ManualClock())) == 7


async def test_a_denial_names_the_rule_and_when_to_come_back_and_that_is_true() -> None:
    clock, limits = ManualClock(), plugin({"name": "mail", "rate": "3/1s", "burst": 1})
    assert await admitted(limits, step(clock))
    denied = await limits.limit_rate(step(clock))
    assert denied.code == "rate_limiting.exceeded"
    assert denied.evidence["rule"] == "mail"
    assert denied.evidence["retry_after_ms"] == 334
    clock.advance(0.332)
    assert not await admitted(limits, step(clock))
    clock.advance(0.002)
    assert await admitted(limits, step(clock))


async def test_the_lease_says_what_is_left_by_limit() -> None:
    limits = plugin({"name": "a", "rate": "5/s"}, {"name": "b", "rate": "2/s"})
    decision = await limits.limit_rate(step(ManualClock()))
    assert decision.fact == RateLease({"a": 4, "b": 1})


@pytest.mark.parametrize(
    ("per", "change"),
    [
        ("tenant", {"tenant": "globex"}),
        ("agent", {"agent": "a2"}),
        ("tool", {"tool": "mail"}),
        ("run", {"run": "other"}),
        ("principal", {"subject": "bob"}),
    ],
)
async def test_each_dimension_has_a_limit_of_its_own(per: str, change: dict[str, str]) -> None:
    clock, limits = ManualClock(), plugin({"name": "r", "rate": "2/h", "per": [per]})
    first = {"tool": "search"} if per == "tool" else {}
    assert await admits(limits, step(clock, **first)) == 2
    assert await admits(limits, step(clock, **{**first, **change})) == 2
    assert await admits(limits, step(clock, **first)) == 0


async def test_a_limit_without_dimensions_is_one_for_all() -> None:
    clock, limits = ManualClock(), plugin({"name": "r", "rate": "2/h"})
    assert await admits(limits, step(clock, tenant="acme"), 1) == 1
    assert await admits(limits, step(clock, tenant="globex", agent="a2", run="other")) == 1


async def test_runs_of_one_name_in_two_tenants_do_not_share_a_limit() -> None:
    clock, limits = ManualClock(), plugin({"name": "r", "rate": "2/h", "per": ["run"]})
    assert await admits(limits, step(clock, tenant="acme")) == 2
    assert await admits(limits, step(clock, tenant="globex")) == 2


async def test_keys_do_not_run_into_each_other() -> None:
    clock, limits = ManualClock(), plugin({"name": "r", "rate": "1/h", "per": ["tenant", "agent"]})
    assert await admitted(limits, step(clock, tenant="a", agent="b.c"))
    assert await admitted(limits, step(clock, tenant="a.b", agent="c"))


async def test_a_rule_applies_only_to_the_steps_that_it_matches() -> None:
    clock = ManualClock()
    limits = plugin({"name": "r", "rate": "1/h", "match": {"tool": ["mail*", "pay"], "tenant": ["acme"]}})
    assert await admits(limits, step(clock), 5) == 5
    assert await admits(limits, step(clock, tool="search"), 5) == 5
    assert await admits(limits, step(clock, tool="mail_send", tenant="globex"), 5) == 5
    assert await admits(limits, step(clock, tool="mail_send"), 5) == 1
    assert await admits(limits, step(clock, tool="pay"), 5) == 0
    assert await admits(limits, step(clock, tool="payout"), 5) == 5


async def test_a_limit_by_tool_does_not_count_steps_without_one() -> None:
    limits = plugin({"name": "r", "rate": "1/h", "per": ["tool"]})
    assert await admits(limits, step(ManualClock()), 5) == 5


@pytest.mark.parametrize("dimension", ["tenant", "agent", "principal"])
async def test_a_limit_by_what_no_stage_has_named_denies(dimension: str) -> None:
    limits = plugin({"name": "r", "rate": "100/s", "per": [dimension]})
    decision = await limits.limit_rate(context_for(NodeInput(node_id="n")))
    assert decision.code == "rate_limiting.unscoped"
    assert dimension in decision.reason


async def test_a_step_that_one_rule_refuses_consumes_nothing_of_the_others() -> None:
    clock = ManualClock()
    limits = plugin({"name": "wide", "rate": "3/h"}, {"name": "mail", "rate": "1/h", "match": {"tool": ["mail"]}})
    assert await admits(limits, step(clock, tool="mail"), 10) == 1
    assert await admits(limits, step(clock, tool="search"), 10) == 2


async def test_of_several_refusals_the_longest_wait_is_named() -> None:
    clock = ManualClock()
    limits = plugin({"name": "short", "rate": "1/s"}, {"name": "long", "rate": "1/h"}, {"name": "mid", "rate": "1/m"})
    assert await admitted(limits, step(clock))
    decision = await limits.limit_rate(step(clock))
    assert decision.evidence["rule"] == "long"
    assert decision.evidence["retry_after_ms"] == 3_600_000


async def test_looking_answers_the_same_and_counts_nothing() -> None:
    clock, limits = ManualClock(), plugin({"name": "r", "rate": "1/h"})
    looking = StepContext(step(clock)._state.look(Purpose.SHADOW))
    assert await admits(limits, looking, 5) == 5
    assert await admitted(limits, step(clock))
    denied: Decision = await limits.limit_rate(looking)
    assert denied.code == "rate_limiting.exceeded"


async def test_a_wall_clock_that_is_set_back_or_ahead_changes_nothing() -> None:
    clock, limits = ManualClock(), plugin({"name": "r", "rate": "2/h"})
    assert await admits(limits, step(clock)) == 2
    for wall in (0, 4_000_000_000_000_000, 1_600_000_000_000_000):
        clock.set_wall(wall)
        assert await admits(limits, step(clock)) == 0
    clock.advance(1800)
    assert await admits(limits, step(clock)) == 1


async def test_even_a_monotonic_clock_that_steps_back_gives_no_burst_and_no_lock_out() -> None:
    store, limit = MemoryRateStore(100), rule("10/1s", burst=10)
    for _ in range(10):
        assert (await store.acquire([(limit, ())], 1000 * SECOND, consume=True)).refused_by is None
    assert (await store.acquire([(limit, ())], 0, consume=True)).refused_by is limit
    later = [await store.acquire([(limit, ())], SECOND * tenth // 10, consume=True) for tenth in range(1, 21)]
    assert [answer.refused_by for answer in later].count(None) == 20


async def test_a_hundred_racing_steps_pass_exactly_the_burst() -> None:
    clock, limits = ManualClock(), plugin({"name": "r", "rate": "10/h", "per": ["agent"]})
    answers = await asyncio.gather(*(admitted(limits, step(clock)) for _ in range(100)))
    assert answers.count(True) == 10


def test_racing_threads_pass_exactly_the_burst() -> None:
    clock, limits = ManualClock(), plugin({"name": "r", "rate": "500/h"}, {"name": "s", "rate": "900/h"})
    passed: list[int] = []
    barrier = threading.Barrier(8)

    def race() -> None:
        barrier.wait()
        passed.append(sum(run_now(limits.limit_rate(step(clock))).effect is Effect.ALLOW for _ in range(200)))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 500


async def test_keys_whose_time_has_passed_are_dropped() -> None:
    clock, limits = ManualClock(), plugin({"name": "r", "rate": "10/1s", "per": ["run"]})
    store = limits._rates
    assert isinstance(store, MemoryRateStore)
    most = 0
    for number in range(20_000):
        clock.advance(0.001)
        assert await admitted(limits, step(clock, run=str(number)))
        most = max(most, store.keys_followed())
    assert most <= 102


async def test_more_keys_than_allowed_are_refused_until_others_are_free() -> None:
    clock, limits = ManualClock(), plugin({"name": "r", "rate": "1/s", "per": ["run"]}, max_keys=3)
    assert [await admitted(limits, step(clock, run=str(number))) for number in range(3)] == [True] * 3
    assert (await limits.limit_rate(step(clock, run="3"))).code == "rate_limiting.too_many_keys"
    assert (await limits.limit_rate(step(clock, run="1"))).code == "rate_limiting.exceeded"
    clock.advance(1)
    assert await admitted(limits, step(clock, run="3"))


WAITS = st.sampled_from(["early", "due"]) | st.integers(0, 10**6) | st.integers(0, 10 * SECOND)


@settings(max_examples=80, deadline=None)
@given(
    count=st.integers(1, 1000),
    seconds=st.integers(1, 90),
    burst=st.integers(1, 40),
    tries=st.lists(st.tuples(st.sampled_from("abc"), st.just(0) | WAITS), max_size=150),
)
def test_never_more_than_the_burst_and_the_rate_in_any_span(
    count: int, seconds: int, burst: int, tries: list[tuple[str, int | str]]
) -> None:
    store, limit = MemoryRateStore(10), rule(f"{count}/{seconds}s", burst)
    now, told = 0, 0
    times: dict[str, list[int]] = {key: [] for key in "abc"}
    for key, wait in tries:
        now += wait if isinstance(wait, int) else max(0, told - (wait == "early"))
        answer = run_now(store.acquire([(limit, (key,))], now, consume=True))
        told = answer.retry_after_ns
        if answer.refused_by is None:
            times[key].append(now)
    for passed in times.values():
        for first in range(len(passed)):
            for last in range(first, len(passed)):
                span = passed[last] - passed[first]
                assert last - first + 1 <= burst + Fraction(span * count, seconds * SECOND)


async def test_time_without_steps_saves_up_no_more_than_the_burst_for_a_key_that_was_not_dropped() -> None:
    store, limit = MemoryRateStore(10), rule("1/1s", burst=5)
    for key, times in (("busy", 5), ("rare", 1)):
        for _ in range(times):
            await store.acquire([(limit, (key,))], 0, consume=True)
    answers = [await store.acquire([(limit, ("rare",))], 4 * SECOND, consume=True) for _ in range(10)]
    assert store.keys_followed() == 2
    assert [answer.refused_by for answer in answers].count(None) == 5


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 1000), seconds=st.integers(1, 90), burst=st.integers(1, 40))
def test_whoever_waits_as_told_is_admitted_and_not_a_nanosecond_earlier(count: int, seconds: int, burst: int) -> None:
    store, limit = MemoryRateStore(10), rule(f"{count}/{seconds}s", burst)
    while (answer := run_now(store.acquire([(limit, ())], 7, consume=True))).refused_by is None:
        pass
    early, due = 7 + answer.retry_after_ns - 1, 7 + answer.retry_after_ns
    assert run_now(store.acquire([(limit, ())], early, consume=False)).refused_by is limit
    assert run_now(store.acquire([(limit, ())], due, consume=True)).refused_by is None
