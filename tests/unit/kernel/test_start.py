"""Whatever has started is shut down again, also when the start of another plugin fails or is cut off."""

from __future__ import annotations

import asyncio
import threading

import pytest

from meshflow import NodeInput, StepDeniedError, StepRuntime
from meshflow.errors import PluginError
from meshflow.plugin import Plugin, Settings, hookimpl
from meshflow.stages import STAGES


class NoSettings(Settings):
    """None."""


class Opener(Plugin[NoSettings]):
    """Counts how often it is open."""

    settings_type = NoSettings

    def __init__(self, *, breaks=False, waits=None, sticks=False):
        super().__init__(NoSettings())
        self.open = 0
        self.begun = asyncio.Event()
        self._breaks, self._waits, self._sticks = breaks, waits, sticks

    @hookimpl
    async def startup(self):
        self.begun.set()
        if self._waits is not None:
            await self._waits.wait()
        if self._breaks:
            raise OSError("no such device")
        self.open += 1

    @hookimpl
    async def shutdown(self):
        self.open -= 1
        if self._sticks:
            raise OSError("stuck")

    @hookimpl
    async def record_sla(self, context, record):
        pass


STEP = NodeInput(node_id="n", input="x", handler=str.upper)


def with_plugins(*names):
    stages = {stage.name: {"use": "every"} for stage in STAGES}
    return {"stages": {**stages, "sla_record": {"use": ["every", *names]}}}


async def test_a_first_start_that_fails_shuts_down_what_it_had_started(kit, caplog):
    first, stuck, broken = Opener(), Opener(sticks=True), Opener(breaks=True)
    plugins = {"first": first, "stuck": stuck, "broken": broken}
    runtime = kit.runtime(stages={"sla_record": {"use": ["every", *plugins]}}, beside=plugins)
    for _ in range(2):
        with pytest.raises(PluginError, match="no such device"):
            await runtime.start()
        assert (first.open, stuck.open, broken.open) == (0, 0, 0)
    assert "stuck raised OSError" in caplog.text
    broken._breaks = False
    assert (await runtime.run(STEP)).ok
    assert (first.open, broken.open) == (1, 1)
    with pytest.raises(PluginError, match="stuck"):
        await runtime.aclose()
    assert (first.open, stuck.open, broken.open) == (0, 0, 0)


async def test_a_reload_that_fails_shuts_down_what_it_had_started_and_nothing_else(kit):
    kept, new, broken = Opener(), Opener(), Opener(breaks=True)
    runtime = kit.runtime(
        stages={"sla_record": {"use": ["every", "kept"]}}, beside={"kept": kept, "new": new, "broken": broken}
    )
    await runtime.start()
    before = runtime.fingerprint
    with pytest.raises(PluginError, match="no such device"):
        await runtime.reload(with_plugins("kept", "new", "broken"))
    assert (kept.open, new.open, broken.open, runtime.fingerprint) == (1, 0, 0, before)
    assert (await runtime.run(STEP)).ok
    broken._breaks = False
    await runtime.reload(with_plugins("kept", "new", "broken"))
    assert (kept.open, new.open, broken.open) == (1, 1, 1)
    await runtime.aclose()
    assert (kept.open, new.open, broken.open) == (0, 0, 0)


async def test_a_reload_that_is_cut_off_leaves_nothing_open(kit):
    new, slow = Opener(), Opener(waits=asyncio.Event())
    runtime = kit.runtime(beside={"new": new, "slow": slow})
    await runtime.start()
    reloading = asyncio.create_task(runtime.reload(with_plugins("new", "slow")))
    await slow.begun.wait()
    reloading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reloading
    slow._waits.set()
    assert (await runtime.run(STEP)).ok
    await runtime.aclose()
    assert (new.open, slow.open) == (0, 0)


async def test_a_reload_after_one_that_was_cut_off_works(kit):
    slow = Opener(waits=asyncio.Event())
    runtime = kit.runtime(beside={"slow": slow})
    await runtime.start()
    reloading = asyncio.create_task(runtime.reload(with_plugins("slow")))
    await slow.begun.wait()
    reloading.cancel()
    await asyncio.wait({reloading})
    slow._waits.set()
    await asyncio.gather(*map(asyncio.wrap_future, list(runtime._retiring)))
    await runtime.reload(with_plugins("slow"))
    assert slow.open == 1
    await runtime.aclose()
    assert slow.open == 0


async def test_a_reload_that_is_cut_off_while_it_waits_for_another_does_not_hold_up_the_next(kit):
    slow = Opener(waits=asyncio.Event())
    runtime = kit.runtime(beside={"slow": slow})
    await runtime.start()
    first = asyncio.create_task(runtime.reload(with_plugins("slow")))
    await slow.begun.wait()
    second = asyncio.create_task(runtime.reload(with_plugins()))
    await asyncio.sleep(0.05)
    second.cancel()
    await asyncio.wait({second})
    slow._waits.set()
    await first
    await asyncio.wait_for(runtime.reload(with_plugins()), 10)
    await runtime.aclose()
    assert slow.open == 0


class Awaits(Opener):
    """Waits, as it shuts down, for a task that it has just cancelled."""

    @hookimpl
    async def shutdown(self):
        await super().shutdown()
        task = asyncio.create_task(asyncio.sleep(1000))
        await asyncio.sleep(0)
        task.cancel()
        await task


async def test_a_plugin_that_awaits_what_it_cancelled_keeps_no_error_of_a_start_back(kit):
    first, awaits = Opener(), Awaits()
    plugins = {"first": first, "awaits": awaits, "broken": Opener(breaks=True)}
    runtime = kit.runtime(stages={"sla_record": {"use": ["every", *plugins]}}, beside=plugins)
    with pytest.raises(PluginError, match="no such device"):
        await asyncio.wait_for(runtime.start(), 10)
    assert (first.open, awaits.open) == (0, 0)


async def test_a_plugin_that_awaits_what_it_cancelled_keeps_no_other_up(kit):
    first, awaits = Opener(), Awaits()
    plugins = {"first": first, "awaits": awaits}
    runtime = kit.runtime(stages={"sla_record": {"use": ["every", *plugins]}}, beside=plugins)
    await runtime.start()
    with pytest.raises(PluginError, match="awaits raised CancelledError"):
        await runtime.aclose()
    assert (first.open, awaits.open) == (0, 0)


class Lingers(Opener):
    """Takes its time to shut down."""

    def __init__(self):
        super().__init__()
        self.ending, self.go_on = asyncio.Event(), asyncio.Event()

    @hookimpl
    async def shutdown(self):
        self.ending.set()
        await self.go_on.wait()
        self.open -= 1


async def test_an_end_that_is_cut_off_shuts_every_plugin_down_all_the_same(kit):
    first, lingers = Opener(), Lingers()
    plugins = {"first": first, "lingers": lingers}
    runtime = kit.runtime(stages={"sla_record": {"use": ["every", *plugins]}}, beside=plugins)
    await runtime.start()
    closing = asyncio.create_task(runtime.aclose())
    await lingers.ending.wait()
    closing.cancel()
    await asyncio.sleep(0)
    lingers.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert (first.open, lingers.open) == (0, 0)


@pytest.mark.parametrize("blocking", [False, True])
async def test_an_end_that_is_cut_off_while_a_step_runs_disturbs_neither_it_nor_the_next_end(kit, blocking):
    going, go_on = threading.Event(), threading.Event()

    async def waits(value):
        going.set()
        await asyncio.to_thread(go_on.wait, 20)
        return value

    plugin = Opener()
    runtime = kit.runtime(stages={"sla_record": {"use": ["every", "one"]}}, beside={"one": plugin})
    step = NodeInput(node_id="slow", handler=waits)
    run = asyncio.to_thread(runtime.run_sync, step) if blocking else runtime.run(step)
    running = asyncio.create_task(run)
    assert await asyncio.to_thread(going.wait, 20)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(runtime.aclose(), 0.05)
    go_on.set()
    assert (await asyncio.wait_for(running, 10)).ok
    await runtime.aclose()
    assert plugin.open == 0


async def test_a_replaced_plugin_that_fails_to_shut_down_is_told_and_keeps_nothing_up(kit, caplog):
    stuck, kept = Opener(sticks=True), Opener()
    runtime = kit.runtime(stages={"sla_record": {"use": ["every", "stuck", "kept"]}},
                          beside={"stuck": stuck, "kept": kept})  # fmt: skip
    await runtime.start()
    stream = runtime.stream(NodeInput(node_id="s", handler=two))
    assert await anext(stream)
    await runtime.reload(with_plugins("kept"))  # the old core waits for the stream
    closing = asyncio.create_task(runtime.aclose())
    await asyncio.sleep(0.05)
    await stream.aclose()
    await closing
    assert (stuck.open, kept.open) == (0, 0)
    assert "what a reload replaced was not shut down: shutdown failed: stuck raised OSError" in caplog.text


async def two(_):
    yield {"part": 1}
    yield {"part": 2}


def test_a_blocking_end_waits_for_a_step_on_a_core_that_was_replaced(kit):
    going, go_on, outcomes = threading.Event(), threading.Event(), []

    async def waits(value):
        going.set()
        await asyncio.to_thread(go_on.wait, 20)
        return value

    runtime = kit.runtime()
    step = NodeInput(node_id="slow", handler=waits)
    thread = threading.Thread(target=lambda: outcomes.append(runtime.run_sync(step)), daemon=True)
    thread.start()
    assert going.wait(20)
    runtime.reload_blocking()
    closing = threading.Thread(target=runtime.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    go_on.set()
    closing.join(10)
    thread.join(10)
    assert [outcome.ok for outcome in outcomes] == [True]


@pytest.mark.parametrize("end", [StepRuntime.close, lambda runtime: asyncio.run(runtime.aclose())])
def test_an_end_that_fails_leaves_no_thread(kit, end):
    runtime = kit.runtime(stages={"sla_record": {"use": ["every", "stuck"]}}, beside={"stuck": Opener(sticks=True)})
    assert runtime.run_sync(STEP).ok
    thread = runtime._loop_thread._thread
    with pytest.raises(PluginError, match="stuck"):
        end(runtime)
    assert not thread.is_alive()


async def test_a_stream_runs_by_what_is_in_force_when_it_is_read(kit):
    replaced = Opener()
    runtime = kit.runtime(stages={"sla_record": {"use": ["every", "old"]}}, beside={"old": replaced})
    await runtime.start()
    stream = runtime.stream(NodeInput(node_id="s", handler=two))
    fingerprint = await runtime.reload(with_plugins())
    await asyncio.gather(*map(asyncio.wrap_future, list(runtime._retiring)))
    assert [part async for part in stream] == [{"part": 1}, {"part": 2}]
    assert stream.outcome.record.fingerprint == fingerprint
    assert replaced.open == 0
    await runtime.aclose()


async def test_a_stream_that_was_closed_unread_does_not_run(kit):
    stream = kit.runtime().stream(NodeInput(node_id="s", handler=two))
    await stream.aclose()
    with pytest.raises(StepDeniedError, match=r"step\.interrupted"):
        await anext(stream)
    assert kit.plugin.calls == []
