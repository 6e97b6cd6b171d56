"""Streams: chunks come in order, and every stream ends."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from meshflow.plugin import Decision, Execution, Metered, NodeInput, context_for, current_step
from meshflow_executor import ExecutorPlugin, ExecutorSettings, StreamTimeoutError


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


async def stream_of(plugin: ExecutorPlugin, handler: Any) -> Any:
    answer = await plugin.execute_step(context_for(NodeInput(node_id="n", handler=handler, input=5)))
    assert isinstance(answer, Execution)
    assert answer.output is None
    assert answer.stream is not None
    return answer.stream


async def async_numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        assert current_step() is not None
        yield number


def sync_numbers(count: int) -> Iterator[int]:
    for number in range(count):
        assert current_step() is not None
        yield number


async def coroutine_with_a_stream(count: int) -> AsyncIterator[int]:
    return async_numbers(count)


HANDLERS = [
    async_numbers,
    sync_numbers,
    coroutine_with_a_stream,
    lambda count: sync_numbers(count),
    lambda n: map(int, range(n)),
]


@pytest.mark.parametrize("handler", HANDLERS)
async def test_chunks_arrive_in_order(make: Make, handler: Any) -> None:
    stream = await stream_of(make(), handler)
    assert [chunk async for chunk in stream] == [0, 1, 2, 3, 4]
    assert [chunk async for chunk in stream] == []
    assert current_step() is None


async def test_a_metered_stream_keeps_its_cost(make: Make) -> None:
    answer = await make().execute_step(
        context_for(NodeInput(node_id="n", handler=lambda _: Metered(sync_numbers(2), cost_usd=1)))
    )
    assert isinstance(answer, Execution)
    assert answer.cost_micro_usd == 1_000_000
    assert answer.stream is not None
    assert [chunk async for chunk in answer.stream] == [0, 1]


async def read_into(chunks: list[Any], stream: Any) -> None:
    while True:
        chunks.append(await anext(stream))


async def endless(_: Any) -> AsyncIterator[int]:
    while True:
        await asyncio.sleep(0.001)
        yield 1


def endless_sync(_: Any) -> Iterator[int]:
    while True:
        time.sleep(0.001)
        yield 1


async def silent(_: Any) -> AsyncIterator[int]:
    yield 1
    await asyncio.sleep(30)


def silent_sync(_: Any) -> Iterator[int]:
    yield 1
    time.sleep(0.5)


async def stubborn(_: Any) -> AsyncIterator[int]:
    yield 1
    for _ in range(20):
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            continue


@pytest.mark.parametrize("handler", [endless, endless_sync, silent, silent_sync, stubborn])
async def test_a_stream_that_never_ends_is_stopped_in_its_time(make: Make, handler: Any) -> None:
    stream = await stream_of(make(timeout_ms=60), handler)
    begun = time.monotonic()
    chunks: list[Any] = []
    with pytest.raises(StreamTimeoutError) as caught:
        await read_into(chunks, stream)
    assert caught.value.code == "execution.timeout"
    assert chunks
    assert time.monotonic() - begun < 5
    assert [chunk async for chunk in stream] == []
    await asyncio.sleep(0.6 if handler in (silent_sync, stubborn) else 0.01)


async def fails(_: Any) -> AsyncIterator[int]:
    yield 1
    raise ValueError("mid-way")


def fails_sync(_: Any) -> Iterator[int]:
    yield 1
    raise ValueError("mid-way")


@pytest.mark.parametrize("handler", [fails, fails_sync])
async def test_an_error_in_a_stream_reaches_the_reader_after_the_chunks_before_it(make: Make, handler: Any) -> None:
    stream = await stream_of(make(), handler)
    assert await anext(stream) == 1
    with pytest.raises(ValueError, match="mid-way"):
        await anext(stream)


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_closing_a_stream_closes_the_handlers_generator(make: Make, asynchronous: bool) -> None:
    closed = threading.Event()

    async def numbers(_: Any) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    def numbers_sync(_: Any) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    stream = await stream_of(make(), numbers if asynchronous else numbers_sync)
    assert await anext(stream) == 1
    await stream.aclose()
    assert await asyncio.to_thread(closed.wait, 5)


async def test_a_stream_that_nobody_reads_to_its_end_is_closed_in_its_time(make: Make) -> None:
    closed = asyncio.Event()

    async def numbers(_: Any) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    stream = await stream_of(make(timeout_ms=50), numbers)
    assert await anext(stream) == 1
    del stream
    gc.collect()
    async with asyncio.timeout(5):
        await closed.wait()


async def test_an_async_generator_stays_in_one_task_for_its_whole_life(make: Make) -> None:
    async def scoped(_: Any) -> AsyncIterator[int]:
        async with asyncio.timeout(5):
            for number in range(3):
                yield number

    stream = await stream_of(make(), scoped)
    found = [await asyncio.create_task(anext(stream)) for _ in range(3)]
    assert found == [0, 1, 2]
    await stream.aclose()


async def test_a_generator_stays_in_one_thread_for_its_whole_life(make: Make) -> None:
    def threads(_: Any) -> Iterator[int]:
        for _ in range(10):
            yield threading.get_ident()

    stream = await stream_of(make(), threads)
    assert len({ident async for ident in stream}) == 1


async def test_cancelling_the_reader_stops_the_handler(make: Make) -> None:
    stopped = asyncio.Event()

    async def hang(_: Any) -> AsyncIterator[int]:
        try:
            await asyncio.sleep(30)
            yield 1
        finally:
            stopped.set()

    stream = await stream_of(make(), hang)
    task = asyncio.create_task(anext(stream))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped.is_set()


async def test_a_stream_holds_its_place_until_it_ends(make: Make) -> None:
    plugin = make(tools={"t": {"max_concurrent": 1}})

    def step(timeout_ms: int) -> Any:
        return context_for(
            NodeInput(node_id="n", kind="tool", tool="t", handler=async_numbers, input=2, timeout_ms=timeout_ms)
        )

    first = await plugin.execute_step(step(5_000))
    assert isinstance(first, Execution)
    second = await plugin.execute_step(step(20))
    assert isinstance(second, Decision)
    assert second.code == "execution.concurrency_limit"
    assert first.stream is not None
    assert [chunk async for chunk in first.stream] == [0, 1]
    assert isinstance(await plugin.execute_step(step(1_000)), Execution)
