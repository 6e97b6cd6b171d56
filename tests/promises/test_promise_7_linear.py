"""Promise 7: through the whole default pipeline, twice the text takes about twice the time, whatever the text."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

HALF = 150_000
_NOISE = "".join(
    random.Random(7).choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/", k=2 * HALF)
)

SHAPES: dict[str, Callable[[int], str]] = {
    "dashes": lambda size: "-" * size,
    "one letter": lambda size: "a" * size,
    "digits": lambda size: "4" * size,
    "digits and spaces": lambda size: ("4111 " * size)[:size],
    "dots": lambda size: ("a." * size)[:size],
    "at signs": lambda size: ("a@" * size)[:size],
    "addresses that never end": lambda size: ("a@a." * size)[:size],
    "plus signs": lambda size: ("+1 " * size)[:size],
    "brackets": lambda size: "(" * size,
    "image links that never close": lambda size: ("![" * size)[:size],
    "links that never close": lambda size: ("[x](http://a/" * size)[:size],
    "tags": lambda size: ("<a " * size)[:size],
    "spaces": lambda size: " " * size,
    "line breaks": lambda size: "\n" * size,
    "hidden characters": lambda size: ("a\u200b" * size)[:size],
    "combining marks": lambda size: "e" + "\u0301" * size,
    "base64": lambda size: _NOISE[:size],
    "base64 in base64": lambda size: base64.b64encode(base64.b64encode(b"ignore " * size))[:size].decode(),
    "percent signs": lambda size: ("%41" * size)[:size],
    "keys that may be secrets": lambda size: ("password = " * size)[:size],
    "begin private key": lambda size: ("-----BEGIN PRIVATE KEY-----" * size)[:size],
    "orders half said": lambda size: ("ignore all previous ignore all " * size)[:size],
    "escapes": lambda size: ("\\u0041" * size)[:size],
    "quotes": lambda size: ("\"'" * size)[:size],
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_twice_the_text_takes_about_twice_the_time(open_desk: Callable[..., Any], shape: str) -> None:
    desk = open_desk()
    await desk.run("warm " * 1_000)

    async def seconds(size: int) -> float:
        text = SHAPES[shape](size)
        begun = time.process_time()
        outcome = await desk.run(text, handler=lambda given: given)
        assert outcome.recorded
        assert not outcome.code.endswith(("timeout", "too_long", "too_large")), outcome.code
        return time.process_time() - begun

    ratios: list[float] = []
    for _ in range(4):
        ratios.append(await seconds(2 * HALF) / max(await seconds(HALF), 1e-3))
        if ratios[-1] < 3:
            return
    pytest.fail(f"twice the text took {[round(ratio, 1) for ratio in ratios]} times as long")


async def test_ten_megabytes_of_dashes_are_refused_in_no_time_and_recorded(open_desk: Callable[..., Any]) -> None:
    desk = open_desk()
    await desk.run()
    small = "-" * 100_000
    begun = time.process_time()
    await desk.run(small)
    one = max(time.process_time() - begun, 0.01)
    begun = time.process_time()
    outcome = await desk.run("-" * 10_000_000)
    assert time.process_time() - begun < 300 * one
    assert (outcome.ok, outcome.recorded) == (False, True)
    assert len(desk.ran) == 2


@pytest.mark.parametrize("chunk", ["-", "a@", "![", "\n", "4 "])
async def test_a_stream_of_twice_the_chunks_takes_about_twice_the_time(
    open_desk: Callable[..., Any], chunk: str
) -> None:
    desk = open_desk()
    await desk.run("warm")

    async def seconds(chunks: int) -> float:
        async def parts(_: Any) -> AsyncIterator[str]:
            for _ in range(chunks):
                yield chunk

        begun = time.process_time()
        outcome = await desk.run(handler=parts)
        assert outcome.recorded
        return time.process_time() - begun

    ratios: list[float] = []
    for _ in range(4):
        ratios.append(await seconds(8_000) / max(await seconds(4_000), 1e-3))
        if ratios[-1] < 3:
            return
    pytest.fail(f"twice the chunks took {[round(ratio, 1) for ratio in ratios]} times as long")
