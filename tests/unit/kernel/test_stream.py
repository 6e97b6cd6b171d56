"""Streams: only what the output guardrails have seen is released, and the record holds just that."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from meshflow import Decision, NodeInput, ReplayLedger, StepDeniedError, StepRuntime
from meshflow.kernel.release import HOLD_BACK
from meshflow.plugin import NoSettings, Plugin, hookimpl


def chunked(text, size):
    async def handler(_):
        for start in range(0, len(text), size):
            yield text[start : start + size]

    return NodeInput(node_id="n", handler=handler, kind="model")


def forbids(word):
    def guard(context, output):
        if isinstance(output, str) and word in output:
            return Decision.deny("output_guardrails.keyword", "a forbidden word")
        return None

    return guard


def masks(word):
    def guard(context, output):
        if isinstance(output, str) and word in output:
            return Decision.allow(replacement=output.replace(word, "*" * len(word)))
        return None

    return guard


async def drain(stream):
    parts = []
    try:
        async for part in stream:
            parts.append(part)  # noqa: PERF401
    except StepDeniedError as error:
        return parts, error
    return parts, None


@pytest.mark.parametrize("size", [1, 7, 300, 5000])
async def test_a_clean_stream_comes_out_whole_and_is_recorded_whole(kit, size):
    text = "all is well. " * 200
    stream = kit.runtime().stream(chunked(text, size))
    parts, error = await drain(stream)
    assert error is None
    assert "".join(parts) == text
    assert stream.outcome.ok
    assert kit.plugin.records[0].output == text


@pytest.mark.parametrize("size", [1, 3, 64, 511, 2000])
@pytest.mark.parametrize("at", [0, 500, 1020, 1500, 2990])
async def test_a_forbidden_word_never_leaves_wherever_the_chunks_cut_it(kit, size, at):
    text = "." * at + "FORBIDDEN" + "." * (3000 - at)
    stream = kit.runtime({"guard_output": forbids("FORBIDDEN")}).stream(chunked(text, size))
    parts, error = await drain(stream)
    released = "".join(parts)
    assert "F" not in released
    assert error.outcome.code == "output_guardrails.keyword"
    assert (kit.plugin.records[0].output or "") == released
    assert not stream.outcome.ok


@pytest.mark.parametrize("size", [1, 64, 2000])
async def test_a_masked_word_is_masked_wherever_the_chunks_cut_it(kit, size):
    text = ("." * 601 + "SECRET") * 5
    parts, error = await drain(kit.runtime({"guard_output": masks("SECRET")}).stream(chunked(text, size)))
    assert error is None
    assert "".join(parts) == text.replace("SECRET", "******")


async def test_each_character_is_looked_at_about_twice_whatever_the_chunks(kit):
    looked = 0

    def counts(context, output):
        nonlocal looked
        if not context.stream.final:
            looked += len(output)

    text = "x" * 100_000
    await drain(kit.runtime({"guard_output": counts}).stream(chunked(text, 1)))
    assert looked <= 3 * len(text)


async def test_what_only_the_whole_shows_withholds_the_completion(kit):
    def whole(context, output):
        if context.stream.final and output.count("a") > 1500:
            return Decision.deny("output_guardrails.too_long", "too much")

    stream = kit.runtime({"guard_output": whole}).stream(chunked("a" * 2000, 100))
    parts, error = await drain(stream)
    assert error.outcome.code == "output_guardrails.too_long"
    assert len("".join(parts)) <= 2000 - HOLD_BACK


async def test_changing_the_whole_after_it_was_released_denies(kit):
    def late(context, output):
        return Decision.allow(replacement="other") if context.stream.final else None

    _, error = await drain(kit.runtime({"guard_output": late}).stream(chunked("a" * 2000, 100)))
    assert error.outcome.code == "output_guardrails.too_late"


async def test_a_stream_that_breaks_is_a_failure_with_its_prefix_recorded(kit):
    async def handler(_):
        yield "a" * 3000
        raise ConnectionError("gone")

    stream = kit.runtime().stream(NodeInput(node_id="n", handler=handler))
    parts, error = await drain(stream)
    assert error.outcome.code == "execution.handler_error"
    assert kit.plugin.records[0].output == "".join(parts)
    assert 0 < len("".join(parts)) < 3000


async def test_a_reader_who_stops_leaves_a_record_of_what_was_released(kit):
    stream = kit.runtime().stream(chunked("b" * 5000, 100))
    async with stream:
        first = await anext(stream)
    assert stream.outcome.code == "step.abandoned"
    assert kit.plugin.records[0].output == first
    assert len(kit.plugin.settled) == 1


async def test_a_cancelled_reader_leaves_a_record(kit):
    async def handler(_):
        yield "c" * 3000
        await asyncio.sleep(60)

    stream = kit.runtime().stream(NodeInput(node_id="n", handler=handler))

    async def read():
        async for _ in stream:
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (record,) = kit.plugin.records
    assert record.code == "step.cancelled"
    assert record.output.startswith("ccc")


async def test_a_denied_step_streams_nothing(kit):
    runtime = kit.runtime({"evaluate_policy": Decision.deny("policy_evaluation.denied", "no")})
    parts, error = await drain(runtime.stream(chunked("text", 1)))
    assert parts == []
    assert error.outcome.code == "policy_evaluation.denied"


async def test_run_collects_a_stream_through_the_same_guard(kit):
    outcome = await kit.runtime({"guard_output": masks("SECRET")}).run(chunked("a SECRET b" * 300, 7))
    assert outcome.output == "a ****** b" * 300


async def test_items_that_are_not_text_pass_one_by_one(kit):
    async def handler(_):
        for number in range(3):
            yield {"n": number}

    stream = kit.runtime().stream(NodeInput(node_id="n", handler=handler))
    parts, error = await drain(stream)
    assert error is None
    assert parts == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_a_stream_that_is_stopped_is_closed(kit):
    closed = []

    async def handler(_):
        try:
            while True:
                yield "FORBIDDEN" * 200
        finally:
            closed.append(True)

    step = NodeInput(node_id="n", handler=handler)
    _, error = await drain(kit.runtime({"guard_output": forbids("FORBIDDEN")}).stream(step))
    assert error.outcome.code == "output_guardrails.keyword"
    assert closed == [True]


async def test_stage_thirteen_knows_how_much_went_out_before(kit):
    counts = []

    def notes(context, output):
        counts.append((context.stream.released_chars, len(output), context.stream.final))

    await drain(kit.runtime({"guard_output": notes}).stream(chunked("z" * 5000, 1000)))
    *windows, last_window, whole = counts
    assert all(before + size <= 5000 for before, size, _ in windows)
    assert last_window[0] + last_window[1] == 5000
    assert whole[1:] == (5000, True)


def cut_by_items(text, size):
    async def handler(_):
        for start in range(0, len(text), size):
            yield text[start : start + size]
            yield {"between": start}

    return NodeInput(node_id="n", handler=handler, kind="model")


@pytest.mark.parametrize("size", [1, 3, 5, 8])
@pytest.mark.parametrize("at", [0, 20, 1000])
@pytest.mark.parametrize("guard", [forbids, masks])
async def test_a_word_that_lies_on_both_sides_of_an_item_is_not_completed(kit, guard, size, at):
    text = "." * at + "FORBIDDEN" + "." * 600
    stream = kit.runtime({"guard_output": guard("FORBIDDEN")}).stream(cut_by_items(text, size))
    parts, error = await drain(stream)
    released = "".join(part for part in parts if isinstance(part, str))
    assert "FORBIDDEN" not in released
    assert text.startswith(released)
    assert error.outcome.code in ("output_guardrails.keyword", "output_guardrails.too_late")
    assert not stream.outcome.ok


@pytest.mark.parametrize("size", [1, 7, 700])
async def test_clean_text_with_items_between_comes_out_whole_and_in_order(kit, size):
    text = "all is well. " * 100
    stream = kit.runtime({"guard_output": masks("SECRET")}).stream(cut_by_items(text, size))
    parts, error = await drain(stream)
    assert error is None
    assert "".join(part for part in parts if isinstance(part, str)) == text
    assert [part for part in parts if isinstance(part, dict)] == [
        {"between": start} for start in range(0, len(text), size)
    ]


async def test_stage_thirteen_sees_the_end_of_what_went_out_across_items(kit):
    tails = []

    def remembers(context, output):
        tails.append(context.stream.released)

    await drain(kit.runtime({"guard_output": remembers}).stream(cut_by_items("abcdefgh", 2)))
    assert "abcdef" in tails


async def test_the_two_sides_of_an_item_are_not_taken_for_the_whole(kit):
    wholes = []

    def whole_is_a_list(context, output):
        if context.stream.final:
            wholes.append(output)
            if not isinstance(output, list):
                return Decision.deny("output_guardrails.schema", "not a list")

    stream = kit.runtime({"guard_output": whole_is_a_list}).stream(cut_by_items("abcdefgh", 4))
    parts, error = await drain(stream)
    assert error is None
    assert wholes == [parts] == [["abcd", {"between": 0}, "efgh", {"between": 4}]]


def asks_about(word, *, at_end=False):
    def guard(context, output):
        if context.stream is not None and word in str(output) and (context.stream.final or not at_end):
            return Decision.escalate("output_guardrails.look", "a person should look")
        return None

    return guard


class Asks(Plugin[NoSettings]):
    """Looks at outputs with a function."""

    def __init__(self, look):
        super().__init__(NoSettings())
        self._look = look

    @hookimpl
    async def guard_output(self, context, output):
        return self._look(context, output)


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("text", ["hello world", "." * 3000 + "world"])
@pytest.mark.parametrize("size", [4, 300])
async def test_a_stream_held_at_its_end_is_held_with_what_was_not_released(at_end, text, size):
    asks = Asks(asks_about("world", at_end=at_end))
    async with ReplayLedger(":memory:", key=None) as ledger, StepRuntime(ledger, plugins={"asks": asks}) as runtime:
        step = replace(chunked(text, size), run_id="r", step_id="s")
        stream = runtime.stream(step)
        parts, _ = await drain(stream)
        assert text.startswith("".join(parts))
        assert "world" not in "".join(parts)
        assert (stream.outcome.code, stream.outcome.record.output) == ("output_guardrails.look", text)
        await ledger.decide_approval(stream.outcome.approval_id, approve=True, approver="bob")
        stream = runtime.stream(replace(step, resume=True))
        assert await drain(stream) == ([text], None)
        assert stream.outcome.output == text


@pytest.mark.parametrize("item", [False, True])
async def test_a_stream_held_before_its_end_is_denied_since_its_rest_is_not_there(kit, item):
    step = cut_by_items("world", 5) if item else chunked("world" + "." * 3000, 50)
    stream = kit.runtime({"guard_output": asks_about("world" if not item else "between")}).stream(step)
    _, error = await drain(stream)
    assert error.outcome.code == "output_guardrails.not_held"
    assert error.outcome.approval_id is None
