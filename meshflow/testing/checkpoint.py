"""The contract of a checkpoint store."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshflow.checkpoint.store import (
    OF_RUN,
    Checkpoint,
    CheckpointConflictError,
    CheckpointStore,
    Saved,
    ThreadKey,
    Write,
    new_id,
)
from meshflow.testing.base import run

T = "acme"
KEY = ThreadKey(T, "thread")


def checkpoint(checkpoint_id: str, parent: str | None = None, **values: str) -> Checkpoint:
    """Return a checkpoint that holds these versions of its values."""
    return Checkpoint(
        checkpoint_id=checkpoint_id,
        parent_id=parent,
        run_id="run",
        body=f"body of {checkpoint_id}".encode() + bytes(range(256)),
        metadata=b'{"step": 1}',
        values=values,
    )


async def put(store: CheckpointStore, key: ThreadKey, one: Checkpoint, *new: str, after: str | None = None) -> None:
    """Put a checkpoint with blobs for the keys that are new in it."""
    blobs = {(name, one.values[name]): f"{key.thread_id} {name} {one.values[name]}".encode() for name in new}
    await store.put(key, one, blobs, after=after)


async def ids(
    store: CheckpointStore, tenant: str, thread: str | None = None, namespace: str | None = None
) -> list[str]:
    """Return the ids of checkpoints as they are listed."""
    return [saved.checkpoint.checkpoint_id async for saved in store.list(tenant, thread, namespace)]


class CheckpointStoreConformance(ABC):
    """Tests a store against the contract. Subclass it, and make a store in ``make``."""

    persistent = True
    """Whether what was put is there after the store was closed and made anew from the same folder."""

    @abstractmethod
    def make(self, folder: Path) -> CheckpointStore:
        """Return a store whose data are in, or are named after, this folder: the same folder, the same data."""

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[CheckpointStore]:
        """Open a store and close it again."""
        store = self.make(folder)
        try:
            yield store
        finally:
            await store.aclose()

    def test_it_is_a_store(self, tmp_path: Path) -> None:
        """The protocol's methods are there."""

        async def check() -> None:
            async with self.opened(tmp_path) as store:
                assert isinstance(store, CheckpointStore)
                assert await store.get(KEY) is None
                assert await store.threads(T) == []

        run(check())

    def test_what_was_put_comes_back(self, tmp_path: Path) -> None:
        """By id and as the newest, with every byte, values that an earlier checkpoint brought included."""

        async def check() -> None:
            async with self.opened(tmp_path) as store:
                first, second = checkpoint("1", a="1", b="1"), checkpoint("2", "1", a="1", b="2")
                await put(store, KEY, first, "a", "b")
                await put(store, KEY, second, "b")
                assert await store.get(KEY, "1") == Saved(KEY, first, {"a": b"thread a 1", "b": b"thread b 1"}, ())
                assert await store.get(KEY) == Saved(KEY, second, {"a": b"thread a 1", "b": b"thread b 2"}, ())
                assert await store.get(KEY, "3") is None

        run(check())

    def test_the_same_again_is_no_error_and_another_is(self, tmp_path: Path) -> None:
        """A put whose answer was lost may be repeated; nothing that is stored is replaced."""

        async def check() -> None:
            async with self.opened(tmp_path) as store:
                one = checkpoint("1", a="1")
                await put(store, KEY, one, "a", after="")
                await put(store, KEY, one, "a", after="")
                other = Checkpoint(checkpoint_id="1", body=b"other")
                with pytest.raises(CheckpointConflictError):
                    await store.put(KEY, other, {})
                assert (await store.get(KEY, "1") or pytest.fail("gone")).checkpoint == one

        run(check())

    def test_after_demands_the_newest(self, tmp_path: Path) -> None:
        """Of two runs that work on one thread only one goes on; a namespace has a newest of its own."""

        async def check() -> None:
            async with self.opened(tmp_path) as store:
                with pytest.raises(CheckpointConflictError):
                    await put(store, KEY, checkpoint("1"), after="0")
                await put(store, KEY, checkpoint("1"), after="")
                await put(store, KEY, checkpoint("2"), after="1")
                with pytest.raises(CheckpointConflictError):
                    await put(store, KEY, checkpoint("3", a="3"), "a", after="1")
                assert await ids(store, T) == ["2", "1"]
                await put(store, ThreadKey(T, "thread", "sub"), checkpoint("1"), after="")

        run(check())

    def test_one_of_many_racers_wins_each_place(self, tmp_path: Path) -> None:
        """The look at the newest and the write are one step, under any number of callers."""

        async def check() -> None:
            async with self.opened(tmp_path) as store:
                newest = ""
                for _ in range(5):
                    racers = [checkpoint(new_id(newest, 0)) for _ in range(10)]
                    tries = (put(store, KEY, racer, after=newest) for racer in racers)
                    lost = await asyncio.gather(*tries, return_exceptions=True)
                    assert [type(one) for one in lost].count(type(None)) == 1
                    assert all(one is None or isinstance(one, CheckpointConflictError) for one in lost)
                    newest = (await ids(store, T))[0]
                assert len(await ids(store, T)) == 5

        run(check())

    def test_writes_stay_in_order_and_the_first_stands(self, tmp_path: Path) -> None:
        """A write is known by task, channel and index; the same key again changes nothing."""

        async def check() -> None:
            async with self.opened(tmp_path) as store:
                await put(store, KEY, checkpoint("1"))
                writes = [Write("t2", "x", 0, b"\x00first", "p"), Write("t1", "x", 0, b"1"), Write("t1", "x", 1, b"2")]
                await store.put_writes(KEY, "1", writes)
                await store.put_writes(KEY, "1", [Write("t1", "x", 0, b"later"), Write("t1", "y", 0, b"3")])
                await put(store, KEY, checkpoint("2", "1"))
                saved = await store.get(KEY, "1")
                assert saved is not None
                assert saved.writes == (*writes, Write("t1", "y", 0, b"3"))
                newest = await store.get(KEY)
                assert newest is not None
                assert newest.writes == ()

        run(check())

    def test_claim_keeps_others_off_one_thread_until_it_is_released(self, tmp_path: Path) -> None:
        """Whichever store of the same data they ask; other threads, and other tenants' of the same name, are free."""

        async def check() -> None:
            async with self.opened(tmp_path) as store, self.opened(tmp_path) as second:
                other = second if self.persistent else store
                claim = await store.claim(T, "thread")
                for asked in (store, other):
                    with pytest.raises(CheckpointConflictError, match="another run"):
                        await asked.claim(T, "thread")
                apart = [await other.claim(*place) for place in ((T, "other"), ("acm", "ethread"), ("x", "thread"))]
                assert not claim.lost
                await claim.release()
                await claim.release()
                again = await other.claim(T, "thread")
                await claim.release()
                with pytest.raises(CheckpointConflictError):
                    await store.claim(T, "thread")
                for one in (again, *apart):
                    await one.release()
                await (await store.claim(T, "other")).release()

        run(check())

    def test_of_many_who_claim_a_thread_at_once_one_has_it(self, tmp_path: Path) -> None:
        """Each time anew."""

        async def check() -> None:
            async with self.opened(tmp_path) as store:
                for _ in range(5):
                    got = await asyncio.gather(*(store.claim(T, "thread") for _ in range(20)), return_exceptions=True)
                    (claim,) = [one for one in got if not isinstance(one, BaseException)]
                    assert sum(isinstance(one, CheckpointConflictError) for one in got) == 19
                    await claim.release()

        run(check())

    def test_runs_are_erased_with_the_whole_threads_that_they_wrote_to(self, tmp_path: Path) -> None:
        """In a tenant or in all; a thread that a run works on stays, and is told of."""

        def of(run_id: str, checkpoint_id: str = "1") -> Checkpoint:
            return Checkpoint(checkpoint_id=checkpoint_id, body=b"", run_id=run_id)

        async def check() -> None:
            async with self.opened(tmp_path) as store:
                for tenant in (T, "other"):
                    await store.put(ThreadKey(tenant, "a"), of("first"), {})
                    await store.put(ThreadKey(tenant, "a"), of("second", "2"), {})
                    await store.put(ThreadKey(tenant, "b", "sub"), of("first"), {})
                    await store.put(ThreadKey(tenant, "c"), of("third"), {})
                    marks = [Write("", OF_RUN + name, 0, b"") for name in ("fourth", "run:fifth", "%")]
                    await store.put_writes(ThreadKey(tenant, "c"), "1", [*marks, Write("", "fourth", 0, b"")])
                assert await store.threads_of_runs(T, ["first", "unknown"]) == [(T, "a"), (T, "b")]
                assert await store.threads_of_runs(None, ["third"]) == [(T, "c"), ("other", "c")]
                assert await store.threads_of_runs(None, ["third", "fourth"]) == [(T, "c"), ("other", "c")]
                assert await store.threads_of_runs(T, ["run:fifth"]) == [(T, "c")]
                assert await store.threads_of_runs(None, ["fifth", "four", "*", "run:", ""]) == []
                assert await store.erase_runs(T, ["first"]) == 2
                assert await store.erase_runs(T, ["first"]) == 0
                assert await store.threads(T) == ["c"]
                assert await store.threads("other") == ["a", "b", "c"]
                claim = await store.claim("other", "a")
                with pytest.raises(CheckpointConflictError, match="'a'"):
                    await store.erase_runs(None, ["first", "third"])
                assert (await store.threads(T), await store.threads("other")) == ([], ["a"])
                await claim.release()
                assert await store.erase_runs(None, ["second"]) == 1

        run(check())

    def test_tenants_threads_and_namespaces_are_apart(self, tmp_path: Path) -> None:
        """Nothing of one is read, listed, copied, pruned or deleted through another; names are not patterns."""
        others = [ThreadKey("acm", "thread"), ThreadKey("acme ", "thread"), ThreadKey("%", "thread")]
        others += [ThreadKey(T, "threa"), ThreadKey(T, "thread", "sub"), ThreadKey(T, "th%"), ThreadKey("", "")]

        async def check() -> None:
            async with self.opened(tmp_path) as store:
                await put(store, KEY, checkpoint("1", a="1"), "a")
                await store.put_writes(KEY, "1", [Write("t", "x", 0, b"1")])
                for other in others:
                    assert await store.get(other) is None
                    assert await store.get(other, "1") is None
                    await put(store, other, checkpoint("1", a="1"), "a")
                saved = await store.get(others[0], "1")
                assert saved is not None
                assert (saved.blobs, saved.writes) == ({"a": b"thread a 1"}, ())
                assert await ids(store, T, "thread", "") == ["1"]
                for other in others:
                    await store.delete_runs(other.tenant + "x", ["run"])
                    if other.tenant != T:
                        await store.delete_runs(other.tenant, ["run"])
                        await store.delete_thread(other.tenant, KEY.thread_id)
                        await store.prune(other.tenant, KEY.thread_id)
                assert (await store.get(KEY) or pytest.fail("gone")).writes == (Write("t", "x", 0, b"1"),)
                await store.delete_thread(T, "th%")
                assert await store.threads(T) == ["threa", "thread"]

        run(check())

    def test_list_is_the_newest_first_over_any_number(self, tmp_path: Path) -> None:
        """Of a thread or of all, of a namespace or of all, and before an id."""

        async def check() -> None:
            async with self.opened(tmp_path) as store:
                names = [f"{number:03d}" for number in range(150)]
                for name in names:
                    await put(store, KEY, checkpoint(name, a="1"), "a")
                await put(store, ThreadKey(T, "other"), checkpoint("0755"))
                await put(store, ThreadKey(T, "thread", "sub"), checkpoint("0756"))
                assert await ids(store, T, "thread", "") == names[::-1]
                assert await ids(store, T) == sorted([*names, "0755", "0756"], reverse=True)
                found = [one.checkpoint.checkpoint_id async for one in store.list(T, "thread", "", before="075")]
                assert found == names[:75][::-1]

        run(check())

    def test_deletion_takes_everything_of_a_thread_or_a_run_and_no_value_that_others_hold(self, tmp_path: Path) -> None:
        """A value that a deleted run brought stays while a checkpoint of another run holds it."""

        async def check() -> None:
            async with self.opened(tmp_path) as store:
                await put(store, KEY, checkpoint("1", a="1", b="1"), "a", "b")
                later = Checkpoint(checkpoint_id="2", body=b"", run_id="later", values={"a": "1"})
                await store.put(KEY, later, {})
                await store.delete_runs(T, ["run", "unknown"])
                assert await ids(store, T) == ["2"]
                assert (await store.get(KEY) or pytest.fail("gone")).blobs == {"a": b"thread a 1"}
                await store.delete_thread(T, "thread")
                await store.delete_thread(T, "unknown")
                assert await store.get(KEY) is None
                await put(store, KEY, checkpoint("2", a="1"))
                assert (await store.get(KEY) or pytest.fail("gone")).blobs == {}, "the old value is gone for good"

        run(check())

    def test_prune_keeps_the_newest_of_each_namespace(self, tmp_path: Path) -> None:
        """With its values and writes."""

        async def check() -> None:
            async with self.opened(tmp_path) as store:
                sub = ThreadKey(T, "thread", "sub")
                for key in (KEY, sub):
                    await put(store, key, checkpoint("1", a="1", b="1"), "a", "b")
                    await put(store, key, checkpoint("2", "1", a="1", b="2"), "b")
                await store.put_writes(KEY, "2", [Write("t", "x", 0, b"1")])
                await store.prune(T, "thread")
                await store.prune(T, "unknown")
                assert await ids(store, T) == ["2", "2"]
                kept = await store.get(KEY)
                assert kept is not None
                assert (len(kept.blobs), len(kept.writes)) == (2, 1)

        run(check())

    def test_copy_takes_a_thread_whole_and_never_onto_another(self, tmp_path: Path) -> None:
        """All namespaces, values and writes; the copy goes on by itself."""

        async def check() -> None:
            async with self.opened(tmp_path) as store:
                sub = ThreadKey(T, "thread", "sub")
                await put(store, KEY, checkpoint("1", a="1"), "a")
                await put(store, sub, checkpoint("1"))
                await store.put_writes(KEY, "1", [Write("t", "x", 0, b"1"), Write("s", "x", 0, b"2")])
                await store.copy_thread(T, "thread", "copy")
                copied = await store.get(ThreadKey(T, "copy"))
                assert copied is not None
                assert (copied.blobs, [one.task_id for one in copied.writes]) == ({"a": b"thread a 1"}, ["t", "s"])
                assert await store.get(ThreadKey(T, "copy", "sub")) is not None
                with pytest.raises(CheckpointConflictError):
                    await store.copy_thread(T, "thread", "copy")
                await store.delete_thread(T, "copy")
                assert await ids(store, T, "thread", "") == ["1"]

        run(check())

    def test_it_survives_its_process(self, tmp_path: Path) -> None:
        """What was acknowledged is there when the store is opened again, also from another event loop."""
        if not self.persistent:
            pytest.skip("a store in memory")

        async def write() -> None:
            async with self.opened(tmp_path) as store:
                await put(store, KEY, checkpoint("1", a="1"), "a")
                await store.put_writes(KEY, "1", [Write("t", "x", 0, b"1")])

        async def read() -> None:
            async with self.opened(tmp_path) as store:
                saved = await store.get(KEY)
                assert saved is not None
                assert (saved.checkpoint, len(saved.writes)) == (checkpoint("1", a="1"), 1)

        run(write())
        run(read())

    def test_one_store_serves_several_loops(self, tmp_path: Path) -> None:
        """Graphs run on loops of their own."""
        store = self.make(tmp_path)

        async def use(number: int) -> int:
            await put(store, ThreadKey(T, f"t{number}"), checkpoint("1"))
            return len(await store.threads(T))

        assert [run(use(number)) for number in range(3)] == [1, 2, 3]
        run(store.aclose())

    def test_text_of_any_language_is_a_name(self, tmp_path: Path) -> None:
        """Threads, namespaces and keys are data, whatever they contain."""
        names = ["", "'; DROP TABLE checkpoints; --", "ключ", "a|b:c/d\\e", "%_*?", "\u2028", "x" * 500]

        async def check() -> None:
            async with self.opened(tmp_path) as store:
                for name in names:
                    key = ThreadKey(name, name, name)
                    await store.put(key, checkpoint("1", **{name or "k": "1"}), {(name or "k", "1"): name.encode()})
                for name in names:
                    saved = await store.get(ThreadKey(name, name, name))
                    assert saved is not None
                    assert saved.blobs == {name or "k": name.encode()}
                    assert await store.threads(name) == [name]

        run(check())
