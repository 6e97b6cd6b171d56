"""A changed bundle comes into force whole or not at all, and no step is lost over it."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshflow import ConfigError, NodeInput, ReplayLedger, StepRuntime
from meshflow.kernel.watch import ReloadEvent
from meshflow.record import RuntimeOutcome, Status

SWAPS = 100
CALLERS = 64


def write(folder: Path, version: int, *, allow: bool = True, test: str = "") -> None:
    """Write a bundle of two files that must agree: what a rule says and what the data says."""
    folder.mkdir(exist_ok=True)
    text = "true" if allow else "false"
    rules = (
        f"package meshflow.policy\n\ndecision := {{\"allow\": {text}, \"reasons\": [{{\"code\": \"v{version}\", "
        f'"message": sprintf("%d", [data.version])}}]}}\n'
    )  # fmt: skip
    for name, content in (("p.rego", rules), ("data.json", f'{{"version": {version}}}'), ("p_test.rego", test)):
        if content:
            (folder / name).write_text(content)


def versions(outcome: RuntimeOutcome) -> tuple[str, str]:
    """Return the version that the rule said, and that of the bundle that the record names."""
    result = next(one for one in outcome.results if one.stage == "policy_evaluation")
    return result.evidence["codes"][0], result.evidence["bundle_digest"]


def step(**more: Any) -> NodeInput:
    return NodeInput(**{"node_id": "n", "input": 1, "handler": str, **more})


@asynccontextmanager
async def running(folder: Path, **reload: Any) -> AsyncIterator[StepRuntime]:
    config = {"version": 1, "plugins": {"rego": {"bundle": str(folder), "reload": reload}}}
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, config=config) as runtime:
        yield runtime


async def until(met: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not met():
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_no_step_is_lost_or_decided_by_half_a_bundle_while_it_is_swapped(tmp_path: Path) -> None:
    write(tmp_path / "b", 0)
    seen: dict[str, set[str]] = {}
    begun, ended = 0, 0
    done = asyncio.Event()
    async with running(tmp_path / "b") as runtime:

        async def caller() -> None:
            nonlocal begun, ended
            while not done.is_set():
                begun += 1
                outcome = await runtime.run(step())
                assert outcome.status is Status.COMPLETED, outcome.reason
                rule, digest = versions(outcome)
                seen.setdefault(digest, set()).add(rule)
                ended += 1
                await asyncio.sleep(0)

        callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
        fingerprints = {runtime.fingerprint}
        for version in range(1, SWAPS + 1):
            write(tmp_path / "b", version)
            fingerprints.add(await runtime.reload())
        done.set()
        await asyncio.gather(*callers)
    assert len(fingerprints) == SWAPS + 1
    assert begun == ended >= CALLERS
    assert all(len(rules) == 1 for rules in seen.values()), "a bundle's digest names one version"
    assert len(seen) > SWAPS / 4


async def test_a_step_in_flight_ends_by_the_bundle_it_began_with(tmp_path: Path) -> None:
    write(tmp_path / "b", 1)
    (tmp_path / "b" / "o.rego").write_text(
        "package meshflow.output\n\n"
        'decision := {"allow": true, "reasons": [{"code": sprintf("v%d", [data.version])}]}\n'
    )
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(value: Any) -> Any:
        entered.set()
        await go_on.wait()
        return value

    async with running(tmp_path / "b") as runtime:
        before = runtime.fingerprint
        task = asyncio.create_task(runtime.run(step(handler=slow)))
        await entered.wait()
        write(tmp_path / "b", 2)
        after = await runtime.reload()
        go_on.set()
        old, new = await task, await runtime.run(step())
    assert (old.record.fingerprint, new.record.fingerprint) == (before, after)
    for outcome, version in ((old, "v1"), (new, "v2")):
        said = [one.evidence["codes"] for one in outcome.results if one.plugin == "rego" and one.evidence.get("codes")]
        assert said == [[version], [version]]


async def test_a_changed_file_comes_into_force_by_itself_and_is_told(tmp_path: Path) -> None:
    write(tmp_path / "b", 1)
    events: list[ReloadEvent] = []
    async with running(tmp_path / "b", watch_ms=20) as runtime:
        runtime.on_reload.append(events.append)
        assert versions(await runtime.run(step()))[0] == "v1"
        write(tmp_path / "b", 2)
        await until(lambda: bool(events))
        assert versions(await runtime.run(step()))[0] == "v2"
        assert events == [ReloadEvent("rego", runtime.fingerprint)]


FAULTS = {
    "syntax": ("p.rego", "package meshflow.policy\n\ndecision := {", "p.rego:3"),
    "unknown built-in": ("p.rego", 'package meshflow.policy\n\ndecision := {"allow": no.such(1)}', "no.such"),
    "a ring": ("p.rego", 'package meshflow.policy\n\nf(x) := f(x)\n\ndecision := {"allow": f(1)}', "call themselves"),
    "no entry point": ("p.rego", "package other\n\nx := 1", "lacks data.meshflow.policy.decision"),
    "broken data": ("data.json", "{", "data.json:1"),
    "a test that crashes the engine": (
        "p_test.rego",
        'package t\n\ntest_it if strings.count("abc", input.q) with input as {"q": ""}',
        "test_it the policy engine crashed",
    ),
    "rules that crash the engine": (
        "p.rego",
        'package meshflow.policy\n\ndecision := {"allow": strings.count("abc", object.get(input, "q", "")) > 0}',
        "decision crashes the policy engine",
    ),
    "a failing test": ("p_test.rego", "package t\n\ntest_it if data.version == 99", "test_it"),
    "ten megabytes and a tail": ("data.json", '{"a": "' + "x" * 10_000_000 + '", }', "data.json"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_bad_change_is_refused_and_the_last_good_bundle_stays(tmp_path: Path, fault: str) -> None:
    write(tmp_path / "b", 1)
    name, content, said = FAULTS[fault]
    events: list[ReloadEvent] = []
    async with running(tmp_path / "b", watch_ms=20) as runtime:
        runtime.on_reload.append(events.append)
        before = runtime.fingerprint
        (tmp_path / "b" / name).write_text(content)
        if name == "p_test.rego":
            write(tmp_path / "b", 2)  # rules that did not change need no test
        await until(lambda: bool(events))
        assert said in events[0].problem
        assert runtime.fingerprint == before
        outcome = await runtime.run(step())
        assert (versions(outcome)[0], outcome.status) == ("v1", Status.COMPLETED)
        await asyncio.sleep(0.1)
        assert len(events) == 1, "the same bad change is tried once"
        (tmp_path / "b" / "p_test.rego").unlink(missing_ok=True)
        write(tmp_path / "b", 3)
        await until(lambda: len(events) == 2)
        assert versions(await runtime.run(step()))[0] == "v3"


async def test_tests_can_be_left_out(tmp_path: Path) -> None:
    write(tmp_path / "b", 1)
    async with running(tmp_path / "b", tests=False) as runtime:
        write(tmp_path / "b", 2, test="package t\n\ntest_it if false")
        await runtime.reload()
        assert versions(await runtime.run(step()))[0] == "v2"
    async with running(tmp_path / "b") as runtime:
        write(tmp_path / "b", 3)
        with pytest.raises(ConfigError, match="test_it"):
            await runtime.reload()


async def test_a_folder_that_is_swapped_by_a_link_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "one", 1)
    write(tmp_path / "two", 2)
    (tmp_path / "now").symlink_to("one")
    events: list[ReloadEvent] = []
    async with running(tmp_path / "now", watch_ms=20) as runtime:
        runtime.on_reload.append(events.append)
        await runtime.run(step())
        (tmp_path / "next").symlink_to("two")
        os.replace(tmp_path / "next", tmp_path / "now")
        await until(lambda: bool(events))
        assert versions(await runtime.run(step()))[0] == "v2"


def by_renaming(path: Path, content: str) -> None:
    """Write as editors do that keep the old file until the new one is whole."""
    path.with_name(f".{path.name}.swp").write_text(content)
    os.replace(path.with_name(f".{path.name}.swp"), path)


def with_the_old_time(path: Path, content: str) -> None:
    """Write as a copy does that keeps times."""
    old = path.stat()
    path.write_text(content)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))


@pytest.mark.parametrize("write_as", [by_renaming, with_the_old_time])
async def test_a_file_of_the_same_size_is_noticed_however_it_is_written(
    tmp_path: Path, write_as: Callable[[Path, str], None]
) -> None:
    write(tmp_path / "b", 1)
    events: list[ReloadEvent] = []
    async with running(tmp_path / "b", watch_ms=20) as runtime:
        runtime.on_reload.append(events.append)
        await runtime.run(step())
        await asyncio.sleep(0.2)
        rules = tmp_path / "b" / "p.rego"
        write_as(rules, rules.read_text().replace('"v1"', '"v2"'))
        await until(lambda: bool(events))
        assert versions(await runtime.run(step()))[0] == "v2"


async def test_what_is_written_within_the_same_tick_of_the_clock_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshflow_rego.source.snapshot", lambda *paths: "the times are the same")
    write(tmp_path / "b", 1)
    events: list[ReloadEvent] = []
    async with running(tmp_path / "b", watch_ms=20) as runtime:
        runtime.on_reload.append(events.append)
        write(tmp_path / "b", 2)
        await until(lambda: bool(events))
        assert versions(await runtime.run(step()))[0] == "v2"


async def test_reloads_from_several_places_follow_one_another(tmp_path: Path) -> None:
    write(tmp_path / "b", 1)
    async with running(tmp_path / "b") as runtime:
        write(tmp_path / "b", 2)
        threads = [threading.Thread(target=runtime.reload_blocking) for _ in range(3)]
        for thread in threads:
            thread.start()
        await asyncio.gather(*(runtime.reload() for _ in range(5)))
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert versions(await runtime.run(step()))[0] == "v2"


def watching() -> int:
    return sum(thread.name == "meshflow-watch" for thread in threading.enumerate())


async def test_nothing_watches_unless_asked_and_the_thread_ends_with_its_runtime(tmp_path: Path) -> None:
    write(tmp_path / "b", 1)
    before = watching()
    async with running(tmp_path / "b"):
        assert watching() == before
    async with running(tmp_path / "b", watch_ms=20):
        assert watching() == before + 1
    assert watching() == before


def test_a_runtime_that_is_lost_is_not_kept_by_its_watcher(tmp_path: Path) -> None:
    write(tmp_path / "b", 1)
    before = watching()
    config = {"version": 1, "plugins": {"rego": {"bundle": str(tmp_path / "b"), "reload": {"watch_ms": 20}}}}
    runtime = StepRuntime(ledger=ReplayLedger(":memory:"), config=config)
    assert runtime.run_sync(step()).ok
    assert watching() == before + 1
    runtime.close()
    del runtime
    gc.collect()
    end = time.monotonic() + 10
    while watching() > before and time.monotonic() < end:
        time.sleep(0.02)
    assert watching() == before
