"""A recorder that breaks one contract of stages 14 and 15 fails the test of that contract."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from meshflow.plugin import (
    NoSettings,
    Plugin,
    StepContext,
    StepRecord,
    hookimpl,
)
from meshflow.testing import RecorderConformance
from meshflow.testing.base import PluginConformance

Attempt = Callable[[object, str], None]


def broken(base: type[Plugin[Any]], /, **members: Any) -> type[Plugin[Any]]:
    return type("Broken", (base,), members)


def trial(kit: type[PluginConformance], plugin: type[Plugin[Any]]) -> PluginConformance:
    return type("Trial", (kit,), {"plugin_type": plugin, "stage": "audit_ledger"})()


def own_tests(kit: type) -> list[str]:
    """Return the tests that a kit adds to those of every plugin."""
    names = set(dir(kit)) - set(dir(PluginConformance))
    return sorted(name for name in names if name.startswith("test_"))


class Keeps(Plugin[NoSettings]):
    """A sound recorder: a file for each entry."""

    def path(self, record: StepRecord) -> Path:
        return self.host.base / f"{record.run_id}-{record.step_id}-{record.attempt}"

    @hookimpl
    async def record_intent(self, context: StepContext) -> None:
        return None

    @hookimpl
    async def record_audit(self, context: StepContext, record: StepRecord) -> None:
        path, text = self.path(record), repr(record.output)
        if path.exists() and path.read_text() != text:
            raise FileExistsError(path)
        path.write_text(text)


def without_intents(cls: type[Plugin[Any]]) -> type[Plugin[Any]]:
    return type("Broken", (Plugin,), {"record_audit": Keeps.record_audit, "path": Keeps.path})


@hookimpl
async def overwrites(self: Any, context: StepContext, record: StepRecord) -> None:
    self.path(record).write_text(repr(record.output))


@hookimpl
async def swallows_failure(self: Any, context: StepContext, record: StepRecord) -> None:
    with suppress(OSError):
        await Keeps.record_audit(self, context, record)


@hookimpl
async def keeps_later(self: Any, context: StepContext, record: StepRecord) -> None:
    self.tasks = [*getattr(self, "tasks", ()), asyncio.ensure_future(asyncio.sleep(0.05))]
    self.tasks[-1].add_done_callback(lambda _: self.path(record).write_text(repr(record.output)))


@hookimpl
async def insists_on_one(self: Any, context: StepContext, record: StepRecord) -> None:
    self.path(record).open("x").close()


@hookimpl
async def talks(self: Any, context: StepContext, record: StepRecord) -> str:
    return "done"


@hookimpl
async def dawdles(self: Any, context: StepContext, record: StepRecord) -> None:
    time.sleep(0.06)
    self.path(record).write_text("")


@hookimpl
async def stops_short(self: Any, context: StepContext, record: StepRecord) -> None:
    if len(list(self.host.base.iterdir())) < 20:
        self.path(record).write_text(repr(record.output))


@hookimpl
async def begins_anew(self: Any) -> None:
    for path in self.host.base.iterdir():
        path.unlink()


@hookimpl
async def breaks_when_cancelled(self: Any, context: StepContext, record: StepRecord) -> None:
    assert not getattr(self, "busy", False), "a call is under way"
    self.busy = True
    await asyncio.sleep(0.01)
    self.busy = False
    self.path(record).write_text(repr(record.output))


class KeepsTrial(RecorderConformance):
    async def stored(self, folder: Path) -> list[str]:
        return [path.name.removeprefix("run-1-").rpartition("-")[0] for path in folder.iterdir()]

    def break_storage(self, folder: Path, subject: Any) -> bool:
        shutil.rmtree(folder)
        return True


class SlaTrial(RecorderConformance):
    stage = "sla_record"


RECORDER_FAULTS: dict[str, tuple[type[Plugin[Any]], str]] = {
    "no intents": (without_intents(Keeps), "test_audit_provider_records_intents"),
    "answers": (broken(Keeps, record_audit=talks), "test_records_every_kind_of_ending"),
    "keeps later": (broken(Keeps, record_audit=keeps_later), "test_record_is_kept_before_the_hook_returns"),
    "insists on one": (broken(Keeps, record_audit=insists_on_one), "test_same_record_twice_is_kept_once"),
    "overwrites": (broken(Keeps, record_audit=overwrites), "test_record_that_contradicts_another_is_refused"),
    "swallows failure": (broken(Keeps, record_audit=swallows_failure), "test_failing_storage_raises"),
    "stops short": (broken(Keeps, record_audit=stops_short), "test_many_records_at_once_are_all_kept"),
    "dawdles": (broken(Keeps, record_audit=dawdles), "test_does_not_hold_up_the_event_loop"),
    "breaks when cancelled": (broken(Keeps, record_audit=breaks_when_cancelled), "test_survives_cancellation"),
    "begins anew": (broken(Keeps, startup=begins_anew), "test_opens_again_where_it_left_off"),
}


@pytest.mark.parametrize("name", own_tests(KeepsTrial))
def test_sound_recorder_passes(name: str, attempt: Attempt) -> None:
    attempt(trial(KeepsTrial, Keeps), name)


@pytest.mark.parametrize(("plugin", "name"), RECORDER_FAULTS.values(), ids=RECORDER_FAULTS)
def test_fault_of_a_recorder_is_found(plugin: type[Plugin[Any]], name: str, attempt: Attempt) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception, FileExistsError)):
        attempt(trial(KeepsTrial, plugin), name)


def test_every_test_of_the_recorder_kit_has_a_fault_that_it_finds() -> None:
    assert set(own_tests(KeepsTrial)) == {name for _, name in RECORDER_FAULTS.values()}


def test_stage_15_is_asked_for_less() -> None:
    left = {name for name in own_tests(KeepsTrial) if getattr(type(SlaTrial()), name) is not None}
    assert left == {
        "test_records_every_kind_of_ending",
        "test_many_records_at_once_are_all_kept",
        "test_does_not_hold_up_the_event_loop",
        "test_survives_cancellation",
        "test_opens_again_where_it_left_off",
    }
