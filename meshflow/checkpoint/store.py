"""The contract of a checkpoint store: what a run was at a point, and what its unfinished superstep has done since.

Everything is under a tenant. Nothing is changed once it is written; keys decide what is the same:

- a checkpoint: (tenant, thread, namespace, checkpoint id)
- a blob, one value of the state: (tenant, thread, namespace, key, version)
- a write, what one task of the superstep after a checkpoint has done: (tenant, thread, namespace, checkpoint id, task,
  channel, index)

Checkpoint ids sort as text in the order in which they were made; the newest of a thread's namespace is the one with the
greatest id. Bodies, metadata and blobs are bytes that a store does not read.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from meshflow.errors import MeshflowError

DEFAULT_TENANT = "default"


class CheckpointError(MeshflowError):
    """A checkpoint store cannot do what was asked; the operator mends it."""


class CheckpointConflictError(CheckpointError):
    """Something else is stored there already, or the thread has moved on."""


@dataclass(frozen=True, slots=True)
class ThreadKey:
    """Where checkpoints belong: a tenant's thread, and within it the graph itself or a subgraph's ``namespace``."""

    tenant: str
    thread_id: str
    namespace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A point in a run. ``values`` says of each key of the state which version of it holds."""

    checkpoint_id: str
    body: bytes
    metadata: bytes = b"{}"
    parent_id: str | None = None
    run_id: str = ""
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Write:
    """What a task did. The first write of a (task, channel, index) stands; later ones are ignored."""

    task_id: str
    channel: str
    index: int
    payload: bytes
    path: str = ""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint as it is read: with the bytes of its values by key, and its writes in the order of writing."""

    key: ThreadKey
    checkpoint: Checkpoint
    blobs: Mapping[str, bytes]
    writes: tuple[Write, ...]


class Claim(Protocol):
    """A thread that one run has to itself, until it lets go or its process ends."""

    @property
    def lost(self) -> bool:
        """Whether it ended before it was released, so that another run may have the thread by now."""
        ...

    async def release(self) -> None:
        """Let go of the thread; once is enough, and again is no error."""
        ...


@runtime_checkable
class CheckpointStore(Protocol):
    """Keeps checkpoints. ``immediate`` stores never wait, so that graphs run on them without an event loop.

    Whatever returns has been made durable. A store may be used from several event loops and threads at once.
    """

    immediate: bool

    async def put(
        self,
        key: ThreadKey,
        checkpoint: Checkpoint,
        blobs: Mapping[tuple[str, str], bytes],
        *,
        after: str | None = None,
    ) -> None:
        """Write a checkpoint with the blobs (by key and version) that it is the first to hold, all or nothing.

        The same again is no error. Raises CheckpointConflictError if another body is stored under the id, or if
        ``after`` is given and is not the newest id of the thread's namespace (``""``: that there is none): then
        somebody else has carried the run on. The check and the write are one step.
        """
        ...

    async def put_writes(self, key: ThreadKey, checkpoint_id: str, writes: Sequence[Write]) -> None:
        """Add what a task did after a checkpoint, all or nothing."""
        ...

    async def claim(self, tenant: str, thread_id: str) -> Claim:
        """Take a thread for one run, so that no node of it runs twice at the same time; never waits for another's.

        CheckpointConflictError while a run of this or of any other process has it. A claim ends with its process,
        however that ends, so that another may go on at once. The thread need not be there yet.
        """
        ...

    async def get(self, key: ThreadKey, checkpoint_id: str | None = None) -> Saved | None:
        """Return a checkpoint, or the newest; None if there is none."""
        ...

    def list(
        self, tenant: str, thread_id: str | None = None, namespace: str | None = None, *, before: str | None = None
    ) -> AsyncIterator[Saved]:
        """Yield a tenant's checkpoints, the newest first: of a thread or all, a namespace or all, before an id."""
        ...

    async def threads(self, tenant: str) -> Sequence[str]:
        """Return the tenant's threads, in order."""
        ...

    async def delete_thread(self, tenant: str, thread_id: str) -> None:
        """Forget a thread with all its namespaces; no copy of it is left in the store's own files."""
        ...

    async def delete_runs(self, tenant: str, run_ids: Sequence[str]) -> None:
        """Forget the checkpoints that these runs wrote, with their writes; values that others hold stay."""
        ...

    async def threads_of_runs(self, tenant: str | None, run_ids: Sequence[str]) -> Sequence[tuple[str, str]]:
        """Return the threads in which these runs have checkpoints or ``OF_RUN`` writes, each with its tenant.

        None asks for every tenant.
        """
        ...

    async def erase_runs(self, tenant: str | None, run_ids: Sequence[str], held: Held | None = None) -> int:
        """Forget whole threads that ``threads_of_runs`` names: a later state holds what earlier ones brought.

        Returns how many threads went. CheckpointConflictError, and the rest has gone, for those that runs work on.
        None erases in every tenant. Threads in which a run wrote that is ``held``, by its id and tenant, stay.
        """
        ...

    async def copy_thread(self, tenant: str, source: str, target: str) -> None:
        """Copy a thread with all its namespaces; CheckpointConflictError if the target has checkpoints."""
        ...

    async def prune(self, tenant: str, thread_id: str) -> None:
        """Forget all but the newest checkpoint of each namespace of a thread."""
        ...

    async def aclose(self) -> None:
        """Let go of files and connections."""
        ...


Held = Callable[[str, str], Awaitable[bool]]
"""Says whether a run, by its id, must be kept in a tenant."""

OF_RUN = "run:"
"""How the channel of a write begins by which a run that goes on from another's checkpoint says so, for erasure."""


def new_id(newest: str, now_us: int) -> str:
    """Return an id that sorts behind ``newest`` whatever the clock says, and that nobody else makes."""
    try:
        floor = int(newest[:16], 16) + 1 if newest else 0
    except ValueError:  # an id of another system
        floor = 0
    made = f"{max(now_us, floor):016x}-{secrets.token_hex(8)}"
    if made <= newest:
        raise CheckpointError(
            f"the thread's newest checkpoint {newest!r} was not made by meshflow; use another thread_id"
        )
    return made


def moved_on(key: ThreadKey, after: str, newest: str) -> CheckpointConflictError:
    """Return the error for a put whose ``after`` is not the newest."""
    return CheckpointConflictError(
        f"thread {key.thread_id!r} has moved on: the newest checkpoint is {newest or 'none'!r}, not "
        f"{after or 'none'!r}; another run works on this thread"
    )


def in_use(thread_id: str) -> CheckpointConflictError:
    """Return the error for a claim on a thread that somebody has."""
    return CheckpointConflictError(
        f"another run works on thread {thread_id!r}; wait until it has ended, or use another thread_id (a stream() "
        "that was not read to its end counts until it is closed)"
    )


def lost_claim(thread_id: str) -> CheckpointConflictError:
    """Return the error for a run whose claim has ended before it did."""
    return CheckpointConflictError(
        f"the run has lost its claim on thread {thread_id!r}: the store's session ended, and another run may have "
        "taken the thread; resume it with invoke(None, thread_id=...)"
    )


def not_the_same(key: ThreadKey, checkpoint_id: str) -> CheckpointConflictError:
    """Return the error for a put under an id that holds something else."""
    return CheckpointConflictError(
        f"checkpoint {checkpoint_id!r} of thread {key.thread_id!r} holds something else already"
    )


def target_taken(thread_id: str) -> CheckpointConflictError:
    """Return the error for a copy onto a thread that is not empty."""
    return CheckpointConflictError(f"thread {thread_id!r} has checkpoints already; copy to a new one")
