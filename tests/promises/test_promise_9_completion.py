"""Promise 9: what did not do all it should is never reported as completed; and the public surface under abuse."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshflow import ReplayLedger, StepRuntime
from meshflow.errors import StepDeniedError
from meshflow.plugin import NoSettings, Plugin, hookimpl
from meshflow.step import Metered, NodeInput, StepContext

SECRET = "eyJhbGciOiJIUzI1NiJ9.secret-credential.x"


def _config(folder: Path) -> dict[str, Any]:
    return {"ledger": {"path": str(folder / "ledger.db")}}


@pytest.mark.parametrize("ending", [RuntimeError, KeyError, asyncio.CancelledError, TimeoutError, StopIteration])
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_handler_that_raises_anything_has_failed(
    open_desk: Callable[..., Any], ending: type[BaseException], kind: str
) -> None:
    def sync(_: Any) -> None:
        raise ending

    async def coroutine(_: Any) -> None:
        raise ending

    desk = open_desk()
    outcome = await desk.run(handler=sync if kind == "sync" else coroutine)
    assert (outcome.status.value, outcome.output, outcome.recorded) == ("failed", None, True)
    [step] = await desk.ledger.get_run("run-1")
    assert (step["verdict"], step["blocked"]) == ("error", True)
    summary = await desk.ledger.run_summary("run-1")
    assert summary["blocked_steps"] == 1


async def test_a_stream_that_broke_raises_after_its_last_part(open_desk: Callable[..., Any]) -> None:
    async def broken(_: Any) -> AsyncIterator[str]:
        yield "a" * 3_000
        raise RuntimeError("gone")

    desk = open_desk()
    stream = desk.runtime.stream(desk.step(handler=broken))
    with pytest.raises(StepDeniedError):
        async for _ in stream:
            pass
    assert stream.outcome is not None
    assert not stream.outcome.ok


async def test_a_cancel_storm_leaves_a_record_of_every_step_and_holds_nothing(open_desk: Callable[..., Any]) -> None:
    desk = open_desk({"limits": {"caps": [{"name": "all", "per": ["global"], "usd": "1000"}]}})
    await desk.runtime.start()

    async def handler(_: Any) -> str:
        await asyncio.sleep(0.02)
        return "done"

    tasks = [asyncio.create_task(desk.run(run_id="storm", handler=handler, estimate_usd="0.01")) for _ in range(100)]
    for round_ in range(8):
        await asyncio.sleep(0.004)
        for task in tasks[round_ % 2 :: 2]:
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    begun = await desk.ledger.get_run("storm")
    assert sum(not isinstance(result, BaseException) for result in results) <= len(begun) <= 100
    assert sum(step["verdict"] == "commit" for step in begun) >= sum(
        not isinstance(result, BaseException) and result.ok for result in results
    )
    usage = await desk.runtime.plugin("limits").usage()
    assert all(one.held.micro_usd == 0 for one in usage)
    assert (await desk.ledger.verify_chain("storm"))["valid"]


async def test_a_thousand_steps_at_once_all_end_and_verify(open_desk: Callable[..., Any]) -> None:
    desk = open_desk({"plugins": {"rego": {}}})
    await desk.runtime.start()

    async def echo(value: Any) -> Any:
        return value

    outcomes = await asyncio.gather(*(desk.run(number, run_id="many", handler=echo) for number in range(1_000)))
    assert [outcome.output for outcome in outcomes] == list(range(1_000))
    assert (await desk.ledger.run_summary("many"))["steps"] == 1_000
    assert (await desk.ledger.verify_chain("many"))["valid"]


def test_several_threads_and_loops_share_a_runtime(tmp_path: Path) -> None:
    runtime = StepRuntime(config=_config(tmp_path))
    done: list[Any] = []

    def step(number: int) -> NodeInput:
        return NodeInput(node_id="n", run_id="shared", input=number, handler=lambda value: value)

    async def several(first: int) -> None:
        outcomes = await asyncio.gather(*(runtime.run(step(first + number)) for number in range(20)))
        done.extend(outcome.output for outcome in outcomes if outcome.ok)

    def blocking(first: int) -> None:
        done.extend(runtime.run_sync(step(first + number)).unwrap() for number in range(20))

    jobs: list[Any] = [functools.partial(asyncio.run, several(100)), functools.partial(asyncio.run, several(200))]
    jobs += [functools.partial(blocking, 300), functools.partial(blocking, 400)]
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runtime.close()
    assert sorted(done) == sorted(first + number for first in (100, 200, 300, 400) for number in range(20))


async def test_a_blocking_call_works_where_a_loop_runs_and_is_refused_on_the_runtimes_own(tmp_path: Path) -> None:
    runtime = StepRuntime(config=_config(tmp_path))
    assert runtime.run_sync(NodeInput(node_id="n", input=1, handler=lambda value: value + 1)).output == 2

    async def inside(_: Any) -> Any:
        return runtime.run_sync(NodeInput(node_id="n", handler=lambda _: 1)).output

    outcome = await asyncio.to_thread(runtime.run_sync, NodeInput(node_id="n", handler=inside))
    assert outcome.code == "execution.handler_error"
    await runtime.aclose()


async def test_closing_waits_for_the_steps_that_run(tmp_path: Path) -> None:
    runtime = StepRuntime(config=_config(tmp_path))
    begun = asyncio.Event()

    async def slow(_: Any) -> str:
        begun.set()
        await asyncio.sleep(0.05)
        return "done"

    running = asyncio.create_task(runtime.run(NodeInput(node_id="n", handler=slow)))
    await begun.wait()
    await runtime.aclose()
    assert running.done()
    assert running.result().ok


class Watch(Plugin[NoSettings]):
    """Notes when the runtime starts it and shuts it down."""

    def __init__(self) -> None:
        super().__init__(NoSettings())
        self.seen: list[str] = []

    @hookimpl
    async def startup(self) -> None:
        self.seen.append("startup")

    @hookimpl
    async def shutdown(self) -> None:
        self.seen.append("shutdown")

    @hookimpl
    async def guard_input(self, context: StepContext) -> None:
        return None


async def test_a_stream_that_nobody_reads_does_not_keep_the_runtime_from_closing(tmp_path: Path) -> None:
    async def chunks(_: Any) -> AsyncIterator[str]:
        yield "x"

    watch = Watch()
    runtime = StepRuntime(config=_config(tmp_path), plugins={"watch": watch})
    await runtime.start()
    stream = runtime.stream(NodeInput(node_id="n", run_id="unread", handler=chunks))
    del stream
    gc.collect()
    await asyncio.wait_for(runtime.aclose(), 1)
    assert watch.seen == ["startup", "shutdown"]
    async with ReplayLedger(tmp_path / "ledger.db") as ledger:
        assert await ledger.get_run("unread") == await ledger.unfinished("unread") == []


async def test_a_stream_that_was_left_open_does_not_keep_the_runtime_from_closing(tmp_path: Path) -> None:
    async def chunks(_: Any) -> AsyncIterator[str]:
        for _ in range(100):
            yield "word " * 1_000

    watch = Watch()
    runtime = StepRuntime(config=_config(tmp_path), plugins={"watch": watch})
    stream = runtime.stream(NodeInput(node_id="n", run_id="left", handler=chunks))
    async for _ in stream:
        break
    del stream
    gc.collect()
    await asyncio.wait_for(runtime.aclose(), 1)
    assert watch.seen == ["startup", "shutdown"]
    async with ReplayLedger(tmp_path / "ledger.db") as ledger:
        assert [(one["verdict"], one["code"]) for one in await ledger.get_run("left")] == [("error", "step.abandoned")]


async def test_a_first_step_that_is_cancelled_while_plugins_start_takes_no_other_with_it(tmp_path: Path) -> None:
    runtime = StepRuntime(config=_config(tmp_path))
    tasks = [
        asyncio.create_task(runtime.run(NodeInput(node_id="n", run_id="r", handler=lambda _: "done"))) for _ in range(5)
    ]
    await asyncio.sleep(0)
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await runtime.aclose()
    assert [getattr(result, "ok", result) for result in results[1:]] == [True] * 4


async def test_a_resumed_step_never_raises(open_desk: Callable[..., Any]) -> None:
    desk = open_desk()
    assert (await desk.run()).ok
    for path in desk.path.parent.iterdir():
        if path.is_file():
            path.write_bytes(b"x" * 8192)  # a damaged disk
    outcome = await desk.run(step_id="s", resume=True)
    assert not outcome.ok
    assert len(desk.ran) == 1


def test_an_unclosed_runtime_is_collected_without_a_warning(tmp_path: Path) -> None:
    runtime = StepRuntime(config=_config(tmp_path))
    assert runtime.run_sync(NodeInput(node_id="n", handler=lambda _: "done")).ok
    del runtime
    gc.collect()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_blocking_call_after_a_fork_ends(tmp_path: Path) -> None:
    runtime = StepRuntime(config=_config(tmp_path))
    assert runtime.run_sync(NodeInput(node_id="n", handler=lambda _: "done")).ok
    child = os.fork()
    if child == 0:
        # Ended by the alarm if it hangs; any answer or error will do.
        import signal

        signal.alarm(2)
        try:
            runtime.run_sync(NodeInput(node_id="n", handler=lambda _: "done"))
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    runtime.close()
    assert os.WIFEXITED(status), "the child hung"


def test_what_the_runtime_gives_back_can_be_pickled_and_shows_no_credential(tmp_path: Path) -> None:
    runtime = StepRuntime(config=_config(tmp_path))
    outcome = runtime.run_sync(NodeInput(node_id="n", handler=lambda _: 1 / 0, credential=SECRET))
    runtime.close()
    with pytest.raises(StepDeniedError) as caught:
        outcome.unwrap()
    for shown in (repr(outcome), str(caught.value), repr(caught.value), repr(runtime)):
        assert SECRET not in shown
    assert SECRET not in repr(NodeInput(node_id="n", credential=SECRET))
    assert pickle.loads(pickle.dumps(outcome)).code == outcome.code


class Desk:
    """Callables of every kind."""

    def __init__(self, name: str) -> None:
        self.name = name

    def method(self, value: str, *more: str, loud: bool = False, **rest: int) -> str:
        """Say it."""
        return f"{self.name} {value} {more} {loud} {rest}"

    @classmethod
    def made(cls, value: str) -> str:
        return f"{cls.__name__} {value}"

    @staticmethod
    def plain(value: str) -> str:
        return f"plain {value}"

    def __call__(self, value: str) -> str:
        return f"called {value}"

    async def __aenter__(self) -> Desk:
        return self


def test_every_kind_of_callable_can_be_governed(tmp_path: Path) -> None:
    runtime = StepRuntime(config=_config(tmp_path))
    govern = runtime.session(run_id="g").govern
    desk = Desk("desk")
    method = govern(desk.method)
    assert method("a", "b", "c", loud=True, x=1, y=2) == "desk a ('b', 'c') True {'x': 1, 'y': 2}"
    assert method("a") == "desk a () False {}"
    assert (method.__name__, method.__doc__) == ("method", "Say it.")
    assert inspect.signature(method) == inspect.signature(desk.method)
    assert govern(Desk.made)("v") == "Desk v"
    assert govern(Desk.plain)("v") == "plain v"
    assert govern(desk)("v") == "called v"
    assert govern(functools.partial(desk.method, "first", loud=True))("b") == "desk first ('b',) True {}"
    assert govern(lambda a, /, b=2, *, c=3: (a, b, c))(1, c=5) == (1, 2, 5)
    with pytest.raises(TypeError):
        method()
    runtime.close()


async def test_async_callables_stay_async(tmp_path: Path) -> None:
    class Caller:
        async def __call__(self, value: str) -> str:
            return value

    async def coroutine(value: str) -> str:
        return value

    async def chunks(value: str) -> AsyncIterator[str]:
        yield value

    async with StepRuntime(config=_config(tmp_path)) as runtime:
        assert inspect.iscoroutinefunction(runtime.govern(coroutine))
        assert await runtime.govern(coroutine)("a") == "a"
        assert inspect.isasyncgenfunction(runtime.govern(chunks))
        assert [part async for part in runtime.govern(chunks)("a")] == ["a"]
        assert await runtime.govern(functools.partial(coroutine, "p"))() == "p"


async def test_an_object_whose_call_is_async_stays_awaitable(tmp_path: Path) -> None:
    class Caller:
        async def __call__(self, value: str) -> str:
            return value

    async with StepRuntime(config=_config(tmp_path)) as runtime:
        answer = await asyncio.to_thread(runtime.govern(Caller()), "a")
        assert (await answer if inspect.isawaitable(answer) else "not awaitable") == "a"


def test_a_governed_generator_still_gives_its_parts(tmp_path: Path) -> None:
    def parts() -> Iterator[str]:
        yield "one"
        yield "two"

    runtime = StepRuntime(config=_config(tmp_path))
    found = list(runtime.govern(parts)())
    runtime.close()
    assert found == ["one", "two"] or "".join(found) == "onetwo"
    assert all(len(part) > 1 for part in found)


def test_the_gates_see_arguments_that_were_left_to_their_defaults(tmp_path: Path) -> None:
    def pay(to: str, amount: int = 1_000_000) -> str:
        return f"paid {amount} to {to}"

    schema = {"type": "object", "properties": {"to": {}, "amount": {"maximum": 100}}}
    tools = {"tools": {"pay": {"risk": "internal", "schema": schema}}}
    runtime = StepRuntime(config={**_config(tmp_path), "tools": tools})
    governed = runtime.govern(pay, kind="tool", tool="pay")
    assert governed("ann", 5) == "paid 5 to ann"
    try:
        with pytest.raises(StepDeniedError):
            governed("ann")
    finally:
        runtime.close()


async def test_a_metered_value_of_a_stream_is_no_way_around_the_cap(open_desk: Callable[..., Any]) -> None:
    async def chunks(_: Any) -> AsyncIterator[str]:
        yield "x"

    desk = open_desk({"limits": {"caps": [{"name": "all", "per": ["global"], "usd": "1.00"}]}})
    outcome = await desk.run(handler=lambda _: Metered(chunks(1), "0.70"), estimate_usd="0.10")
    assert outcome.output == "x"
    assert (await desk.run(estimate_usd="0.40")).code == "budget_check.exhausted"
