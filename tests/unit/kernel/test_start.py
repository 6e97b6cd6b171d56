"""Whatever has started is shut down again, also when the start of another plugin fails or is cut off."""

from __future__ import annotations

import asyncio

import pytest

from meshflow import NodeInput
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
