"""Retry, circuits, caps, and worker threads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from meshflow.clock import ManualClock
from meshflow.plugin import Decision, Execution, Metered, NodeInput, RiskTier, StepContext, TenantScope, context_for
from meshflow_executor import CODES, ExecutorPlugin, ExecutorSettings


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., ExecutorPlugin]]:
    made: list[ExecutorPlugin] = []

    def executor(**settings: Any) -> ExecutorPlugin:
        made.append(ExecutorPlugin(ExecutorSettings.model_validate({"shutdown_ms": 500, "grace_ms": 50} | settings)))
        return made[-1]

    yield executor
    for plugin in made:
        await plugin.shutdown()


Make = Callable[..., ExecutorPlugin]


def context(
    handler: Any, *, tier: RiskTier = RiskTier.EXTERNAL_IO, tenant: str = "t", clock: Any = None, **fields: Any
) -> StepContext:
    step = NodeInput(node_id=fields.pop("node_id", "n"), handler=handler, **fields)
    return context_for(step, clock=clock, risk_classification=tier, tenant_scoping=TenantScope(tenant))


def code_of(answer: Execution | Decision | None) -> str:
    assert answer is not None
    code = answer.code if isinstance(answer, Decision) else answer.failure_code
    assert not code or code in CODES
    return code


class Flaky:
    """Fails so many times, then answers."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.left = failures
        self.calls = 0
        self.error = error or ConnectionError("down")

    async def __call__(self, _: Any) -> Metered:
        self.calls += 1
        if self.left > 0:
            self.left -= 1
            raise self.error
        return Metered("up", cost_usd=1, tokens=10)


RETRY = {"max_attempts": 3, "backoff_ms": 1}


@pytest.mark.parametrize(
    ("idempotent", "tier", "tries"),
    [
        (True, RiskTier.IRREVERSIBLE, 3),
        (None, RiskTier.READ_ONLY, 3),
        (None, RiskTier.INTERNAL, 1),
        (None, RiskTier.IRREVERSIBLE, 1),
        (False, RiskTier.READ_ONLY, 1),
        ("yes", RiskTier.INTERNAL, 1),
    ],
)
async def test_only_idempotent_and_read_only_steps_are_retried(
    make: Make, idempotent: Any, tier: RiskTier, tries: int
) -> None:
    handler = Flaky(2)
    answer = await make(retry=RETRY).execute_step(context(handler, idempotent=idempotent, tier=tier))
    assert isinstance(answer, Execution)
    assert (answer.tries, handler.calls) == (tries, tries)
    assert answer.output == ("up" if tries == 3 else None)


async def test_tries_end_at_the_last_attempt(make: Make) -> None:
    handler = Flaky(10)
    answer = await make(retry=RETRY).execute_step(context(handler, idempotent=True))
    assert isinstance(answer, Execution)
    assert answer.failure_code == "execution.handler_error"
    assert (answer.tries, handler.calls) == (3, 3)


@pytest.mark.parametrize(("on", "calls"), [(["ConnectionError"], 3), (["OSError"], 3), (["ValueError"], 1)])
async def test_retry_can_be_limited_to_exceptions_and_their_bases(make: Make, on: list[str], calls: int) -> None:
    handler = Flaky(5)
    await make(retry=RETRY | {"on": on}).execute_step(context(handler, idempotent=True))
    assert handler.calls == calls


async def test_a_tool_has_its_own_retry(make: Make) -> None:
    plugin = make(tools={"get": {"retry": RETRY}})
    handler, other = Flaky(2), Flaky(2)
    await plugin.execute_step(context(handler, kind="tool", tool="get", idempotent=True))
    await plugin.execute_step(context(other, kind="tool", tool="put", idempotent=True))
    assert (handler.calls, other.calls) == (3, 1)


class CostlyError(ConnectionError):
    cost_usd: Any = 0.5
    tokens = 7


async def test_the_cost_of_all_tries_is_reported(make: Make) -> None:
    answer = await make(retry=RETRY).execute_step(context(Flaky(2, CostlyError()), idempotent=True))
    assert isinstance(answer, Execution)
    assert (answer.cost_micro_usd, answer.tokens) == (2_000_000, 24)


@pytest.mark.parametrize("cost", [None, float("nan"), -1, "x"])
async def test_a_try_of_unknown_cost_makes_the_whole_unknown(make: Make, cost: Any) -> None:
    error = CostlyError()
    error.cost_usd = cost
    answer = await make(retry=RETRY).execute_step(context(Flaky(1, error), idempotent=True))
    assert isinstance(answer, Execution)
    assert answer.output == "up"
    assert answer.cost_micro_usd is None


async def test_retries_share_the_steps_time(make: Make) -> None:
    plugin = make(timeout_ms=80, retry={"max_attempts": 50, "backoff_ms": 30, "jitter": 0})
    handler = Flaky(100)
    begun = time.monotonic()
    assert code_of(await plugin.execute_step(context(handler, idempotent=True))) == "execution.handler_error"
    assert time.monotonic() - begun < 2
    assert 1 < handler.calls < 5


async def test_a_circuit_opens_tries_once_and_closes(make: Make) -> None:
    plugin, clock = make(circuit={"failures": 3, "open_ms": 1_000}), ManualClock()

    async def attempt(handler: Any) -> str:
        return code_of(await plugin.execute_step(context(handler, kind="tool", tool="x", clock=clock)))

    down = Flaky(1_000)
    assert [await attempt(down) for _ in range(5)] == ["execution.handler_error"] * 3 + ["execution.circuit_open"] * 2
    assert down.calls == 3
    clock.advance(1)
    assert await attempt(down) == "execution.handler_error"
    assert await attempt(down) == "execution.circuit_open"
    clock.advance(1)
    assert await attempt(Flaky(0)) == ""
    assert await attempt(Flaky(0)) == ""
    assert not plugin._circuits._states


async def test_only_failures_in_a_row_open_a_circuit(make: Make) -> None:
    plugin = make(circuit={"failures": 2})
    for _ in range(5):
        assert code_of(await plugin.execute_step(context(Flaky(1)))) == "execution.handler_error"
        assert code_of(await plugin.execute_step(context(Flaky(0)))) == ""


async def test_one_tenants_failures_do_not_shut_out_another(make: Make) -> None:
    plugin = make(circuit={"failures": 1})
    await plugin.execute_step(context(Flaky(1), tenant="a"))
    assert code_of(await plugin.execute_step(context(Flaky(0), tenant="a"))) == "execution.circuit_open"
    assert code_of(await plugin.execute_step(context(Flaky(0), tenant="b"))) == ""


async def test_a_half_open_circuit_lets_one_through_and_survives_its_cancellation(make: Make) -> None:
    plugin, clock = make(circuit={"failures": 1, "open_ms": 1_000}), ManualClock()
    await plugin.execute_step(context(Flaky(1), clock=clock))
    clock.advance(2)
    begun = asyncio.Event()

    async def hang(_: Any) -> None:
        begun.set()
        await asyncio.sleep(30)

    probe = asyncio.create_task(plugin.execute_step(context(hang, clock=clock)))
    await begun.wait()
    assert code_of(await plugin.execute_step(context(Flaky(0), clock=clock))) == "execution.circuit_open"
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert code_of(await plugin.execute_step(context(Flaky(0), clock=clock))) == ""


async def test_a_circuit_of_zero_never_opens(make: Make) -> None:
    plugin = make(circuit={"failures": 0})
    codes = {code_of(await plugin.execute_step(context(Flaky(1)))) for _ in range(20)}
    assert codes == {"execution.handler_error"}


async def test_circuits_take_bounded_memory(make: Make) -> None:
    plugin = make()
    for index in range(10_050):
        await plugin.execute_step(context(Flaky(1), node_id=f"n{index}"))
    assert len(plugin._circuits._states) == 10_000


async def test_a_cap_on_concurrent_calls_holds(make: Make) -> None:
    plugin = make(tools={"x": {"max_concurrent": 3}})
    running = most = 0

    async def work(_: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1

    calls = [plugin.execute_step(context(work, kind="tool", tool="x")) for _ in range(30)]
    assert {code_of(answer) for answer in await asyncio.gather(*calls)} == {""}
    assert most == 3
    assert not plugin._caps._caps


async def test_a_cap_that_stays_full_refuses_in_the_steps_time(make: Make) -> None:
    plugin = make(tools={"x": {"max_concurrent": 1}})
    release = asyncio.Event()

    async def hold(_: Any) -> None:
        await release.wait()

    first = asyncio.create_task(plugin.execute_step(context(hold, kind="tool", tool="x")))
    await asyncio.sleep(0.01)
    late = await plugin.execute_step(context(hold, kind="tool", tool="x", timeout_ms=20))
    assert code_of(late) == "execution.concurrency_limit"
    release.set()
    assert code_of(await first) == ""


async def test_sync_handlers_run_side_by_side_and_never_on_the_loop(make: Make) -> None:
    barrier = threading.Barrier(4, timeout=5)
    plugin = make(workers=4)
    answers = await asyncio.gather(*(plugin.execute_step(context(lambda _: barrier.wait())) for _ in range(4)))
    assert {code_of(answer) for answer in answers} == {""}


async def test_a_stuck_thread_is_replaced_and_comes_back(make: Make) -> None:
    plugin, release = make(workers=1, max_stuck_workers=1), threading.Event()
    stuck = context(lambda _: release.wait(10), timeout_ms=30)
    assert code_of(await plugin.execute_step(stuck)) == "execution.timeout"
    assert code_of(await plugin.execute_step(context(lambda _: 1))) == ""
    assert code_of(await plugin.execute_step(stuck)) == "execution.timeout"
    assert code_of(await plugin.execute_step(context(lambda _: 1, timeout_ms=30))) == "execution.no_worker"
    release.set()
    assert code_of(await plugin.execute_step(context(lambda _: 1))) == ""


async def test_a_handler_that_no_worker_took_never_runs_later(make: Make) -> None:
    plugin, release, ran = make(workers=1, max_stuck_workers=0), threading.Event(), threading.Event()
    holder = asyncio.create_task(plugin.execute_step(context(lambda _: release.wait(10))))
    await asyncio.sleep(0.02)
    refused = await plugin.execute_step(context(lambda _: ran.set(), timeout_ms=20))
    assert code_of(refused) == "execution.no_worker"
    release.set()
    assert code_of(await holder) == ""
    assert code_of(await plugin.execute_step(context(lambda _: 1))) == ""
    assert not ran.is_set()


async def test_a_thousand_sync_calls_all_answer(make: Make) -> None:
    plugin = make(workers=8)
    calls = [plugin.execute_step(context(lambda value: value * 2, input=index)) for index in range(1_000)]
    answers = await asyncio.gather(*calls)
    outputs = [answer.output for answer in answers if isinstance(answer, Execution)]
    assert outputs == [index * 2 for index in range(1_000)]


async def test_shutdown_does_not_wait_for_ever_and_startup_begins_anew(make: Make) -> None:
    plugin, release = make(shutdown_ms=50), threading.Event()
    await plugin.execute_step(context(lambda _: release.wait(10), timeout_ms=20))
    begun = time.monotonic()
    await plugin.shutdown()
    assert time.monotonic() - begun < 2
    await plugin.startup()
    assert code_of(await plugin.execute_step(context(lambda _: 1))) == ""
    release.set()


def test_a_stuck_thread_does_not_keep_the_process_alive() -> None:
    code = """
import asyncio, time
from meshflow.plugin import NodeInput, context_for
from meshflow_executor import ExecutorPlugin, ExecutorSettings
async def main():
    plugin = ExecutorPlugin(ExecutorSettings(shutdown_ms=50))
    step = NodeInput(node_id="n", handler=lambda _: time.sleep(300), timeout_ms=50)
    print((await plugin.execute_step(context_for(step))).failure_code)
    await plugin.shutdown()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout.strip() == "execution.timeout"
    assert done.returncode == 0


def test_the_plugin_moves_to_another_event_loop() -> None:
    plugin = ExecutorPlugin(ExecutorSettings(tools={"x": {"max_concurrent": 1}}))  # type: ignore[dict-item]

    async def once() -> str:
        await plugin.startup()
        answers = await asyncio.gather(
            *(plugin.execute_step(context(lambda _: 1, kind="tool", tool="x")) for _ in range(3))
        )
        return "".join(code_of(answer) for answer in answers)

    assert asyncio.run(once()) == ""
    assert asyncio.run(once()) == ""
    asyncio.run(plugin.shutdown())


def test_every_code_belongs_to_execution_and_is_explained() -> None:
    assert all(code.startswith("execution.") and text.endswith(".") for code, text in CODES.items())
