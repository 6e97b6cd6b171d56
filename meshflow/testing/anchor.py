"""The contract of an anchor."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from meshflow.ledger.anchors import Anchor, AnchorError, ContradictionError
from meshflow.ledger.format.checkpoints import Checkpoint, read_checkpoint
from meshflow.ledger.format.merkle import Frontier, complete_root, consistency_proof, leaf_hash
from meshflow.ledger.format.notes import Signer
from meshflow.testing.base import run


class Log:
    """A log to make checkpoints of, on one of several histories; its key is ``signer``."""

    def __init__(self, origin: str = "conformance.example/log") -> None:
        self.origin = origin
        self.signer = Signer.generate(origin)

    def note(self, size: int, history: str = "") -> str:
        """Return the checkpoint at a size."""
        frontier = Frontier()
        for leaf in _leaves(size, history):
            frontier.append(leaf)
        return Checkpoint(self.origin, size, frontier.root()).sign(self.signer)

    def prove(self, size: int, history: str = "") -> _Proof:
        """Return what ``publish`` is handed beside the checkpoint of a size."""
        return _Proof(_leaves(size, history))


class _Proof:
    def __init__(self, leaves: list[bytes]) -> None:
        self._leaves = leaves

    async def __call__(self, old_size: int) -> Sequence[bytes]:
        return consistency_proof(self._node, old_size, len(self._leaves))

    def _node(self, level: int, index: int) -> bytes:
        return complete_root(self._leaves[index << level : (index + 1) << level])


def _leaves(size: int, history: str) -> list[bytes]:
    return [leaf_hash(f"{history}{number}".encode()) for number in range(size)]


def _sizes(notes: Sequence[str | None]) -> list[int]:
    return [read_checkpoint(note).size for note in notes if note is not None]


class AnchorConformance(ABC):
    """Tests an anchor against the contract. Subclass it, and make an anchor in ``make``."""

    keeps_all = True
    """Whether older checkpoints can be read back, and not the newest alone."""

    @abstractmethod
    def make(self, folder: Path, log: Log) -> Anchor:
        """Return an anchor that keeps checkpoints of the log in a place that this folder names, always the same."""

    @pytest.fixture
    def log(self) -> Log:
        """A log of its own for each test."""
        return Log()

    def test_nothing_is_kept_at_first(self, tmp_path: Path, log: Log) -> None:
        anchor = self.make(tmp_path, log)

        async def look() -> None:
            await anchor.check()
            assert await anchor.latest(log.origin) is None, "latest returns None before the first checkpoint"
            assert await anchor.kept(10, log.origin) == [], "kept returns nothing before the first checkpoint"

        run(look())

    def test_what_is_published_is_kept_for_whoever_comes_later(self, tmp_path: Path, log: Log) -> None:
        async def publish() -> None:
            anchor = self.make(tmp_path, log)
            for size in (3, 3, 8, 21):
                receipt = await anchor.publish(log.note(size), log.prove(size))
                assert receipt.where, "a receipt says where the checkpoint is"

        async def look() -> None:
            anchor = self.make(tmp_path, log)
            latest = await anchor.latest(log.origin)
            assert _sizes([latest]) == [21], "latest is the newest"
            assert latest is not None
            assert latest.startswith(log.note(21).partition("\n\n")[0]), "a note comes back as it was published"
            kept = sorted(set(_sizes(await anchor.kept(100, log.origin))))
            assert kept == ([3, 8, 21] if self.keeps_all else [21]), "kept returns what was published"
            assert _sizes(await anchor.kept(1, log.origin)) == [21], "of fewer than there are, the newest is one"

        run(publish())
        run(look())

    def test_the_name_is_the_same_for_whoever_comes_later(self, tmp_path: Path, log: Log) -> None:
        assert self.make(tmp_path, log).name == self.make(tmp_path, log).name

    @pytest.mark.parametrize(
        ("size", "history"), [(5, ""), (8, "other "), (13, "other ")], ids=["older", "same", "newer"]
    )
    def test_what_does_not_follow_is_refused_and_nothing_is_lost(
        self, tmp_path: Path, log: Log, size: int, history: str
    ) -> None:
        """A newer one of another history is the ledger's to find, unless the anchor asks for a proof itself."""

        async def contradict() -> None:
            anchor = self.make(tmp_path, log)
            await anchor.publish(log.note(8), log.prove(8))
            if size <= 8:
                with pytest.raises(ContradictionError):
                    await anchor.publish(log.note(size, history), log.prove(size, history))
                assert _sizes([await anchor.latest(log.origin)]) == [8], "what was kept is still the newest"
            else:
                try:
                    await anchor.publish(log.note(size, history), log.prove(size, history))
                except ContradictionError:
                    assert _sizes([await anchor.latest(log.origin)]) == [8]

        run(contradict())

    def test_another_log_does_not_mix_with_it(self, tmp_path: Path, log: Log) -> None:
        """Where one place is for one log, another one's checkpoint is an AnchorError."""
        other = Log("conformance.example/other")

        async def mix() -> None:
            anchor = self.make(tmp_path, log)
            await anchor.publish(log.note(8), log.prove(8))
            with suppress(AnchorError):
                await anchor.publish(other.note(9), other.prove(9))
            latest = await anchor.latest(log.origin)
            assert latest is not None
            assert read_checkpoint(latest).origin == log.origin, "asked for one log, it returns no other's checkpoint"

        run(mix())

    def test_several_loops_and_threads_may_use_one_object(self, tmp_path: Path, log: Log) -> None:
        anchor = self.make(tmp_path, log)
        run(anchor.publish(log.note(1), log.prove(1)))
        problems: list[BaseException] = []

        def use() -> None:
            try:
                asyncio.run(anchor.publish(log.note(1), log.prove(1)))
                assert asyncio.run(anchor.latest(log.origin)) is not None
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
