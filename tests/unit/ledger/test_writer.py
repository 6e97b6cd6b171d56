"""The thread that commits for all who wait: what goes into one batch, and who is still answered when a loop ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from meshflow.errors import LedgerError
from meshflow.ledger.format.entry import Draft, Written, seal
from meshflow.ledger.writer import Appender, GroupWriter, Outcome


class Kept:
    """An appender that keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.closed = False

    def append(self, batch: Sequence[Draft]) -> Sequence[Outcome]:
        self.begun.set()
        self.go_on.wait(10)
        self.batches.append([draft.key[0] for draft in batch])
        return [Written(draft.run_id, 0, draft.key[0], "") for draft in batch]

    def due_in(self) -> float | None:
        return None

    def catch_up(self) -> None:
        return None

    def close(self) -> None:
        self.closed = True


if TYPE_CHECKING:
    _: Appender = Kept()


def draft(name: str) -> Draft:
    return seal({"run_id": "run", "kind": "intent", "step_id": name, "attempt": 1, "tenant_id": "acme"}, {})


def writer(kept: Kept) -> GroupWriter:
    return GroupWriter(kept, queue_limit=4_096)


async def test_what_one_turn_of_a_loop_hands_in_becomes_one_batch() -> None:
    kept = Kept()
    group = writer(kept)
    kept.go_on.clear()
    waiting = [group._submit(draft("first"))]
    assert await asyncio.to_thread(kept.begun.wait, 10)
    # Nobody knew yet that the very first one is not alone; these wait for its commit.
    waiting += [group._submit(draft(f"0-{each}")) for each in range(50)]
    kept.go_on.set()
    await asyncio.gather(*waiting)
    await asyncio.gather(*(group.append(draft(f"1-{each}")) for each in range(50)))
    await group.aclose()
    assert [len(batch) for batch in kept.batches] == [1, 50, 50]
    assert kept.batches[-1] == [f"1-{each}" for each in range(50)]


async def test_one_caller_alone_is_not_kept_for_another_turn_of_the_loop() -> None:
    kept = Kept()
    group = writer(kept)
    await group.append(draft("first"))
    kept.begun.clear()
    waiting = group._submit(draft("second"))
    assert kept.begun.wait(10)  # the loop has not turned since
    assert await waiting == Written("run", 0, "second", "")
    await group.aclose()


async def test_a_job_follows_what_its_caller_handed_in_before() -> None:
    kept = Kept()
    group = writer(kept)
    await asyncio.gather(group.append(draft("one")), group.append(draft("two")))
    seen: list[int] = []
    results = await asyncio.gather(
        *(group.append(draft(str(each))) for each in range(10)),
        group.run(lambda: seen.append(sum(map(len, kept.batches)))),
        group.append(draft("after")),
    )
    assert seen == [12]
    assert results[-1] == Written("run", 0, "after", "")
    await group.aclose()


async def test_what_was_gathered_is_written_when_the_ledger_closes_in_the_same_turn() -> None:
    kept = Kept()
    group = writer(kept)
    await asyncio.gather(*(group.append(draft(f"before-{each}")) for each in range(2)))
    waiting = [group._submit(draft(f"last-{each}")) for each in range(5)]
    group.stop()
    with pytest.raises(LedgerError, match="closed"):
        group._submit(draft("too late"))
    assert [written.step_id for written in await asyncio.gather(*waiting)] == [f"last-{each}" for each in range(5)]
    await group.aclose()
    assert kept.closed


def test_a_loop_that_ends_before_its_turn_holds_nobody_up() -> None:
    kept = Kept()
    group = writer(kept)

    async def two(name: str) -> None:
        await asyncio.gather(*(group.append(draft(f"{name}-{each}")) for each in range(2)))

    asyncio.run(two("warm"))
    dead = asyncio.new_event_loop()

    async def abandoned() -> None:
        group._submit(draft("abandoned-1"))
        group._submit(draft("abandoned-2"))
        dead.stop()

    task = dead.create_task(abandoned())
    dead.run_forever()
    assert task.done()
    dead.close()

    async def others() -> list[str]:
        await asyncio.wait_for(asyncio.gather(*(two(f"other-{each}") for each in range(20))), 10)
        written = [name for batch in kept.batches for name in batch]
        await group.aclose()
        return written

    written = asyncio.run(others())
    assert len(written) == len(set(written)) == 44
    assert {"abandoned-1", "abandoned-2"} <= set(written)
