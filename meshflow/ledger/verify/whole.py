"""Checking a whole ledger: chains, columns, commitments, the log rebuilt from the entries, every checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from meshflow.errors import LedgerError
from meshflow.ledger.format.findings import Finding
from meshflow.ledger.format.log import TILE
from meshflow.ledger.format.merkle import complete_root
from meshflow.ledger.format.notes import Verifier
from meshflow.ledger.outside import Held
from meshflow.ledger.sql.database import Connection, Database
from meshflow.ledger.sql.vault import Vault
from meshflow.ledger.verify.index import index_findings
from meshflow.ledger.verify.log import LogCheck
from meshflow.ledger.verify.range import ALL_LAYERS
from meshflow.ledger.verify.worker import Here, Worker

Progress = Callable[[int, int], None]

_LEAST, _MOST = 2**16, 2**20
_RANGES_EACH = 4
_ALONE = 100_000
_SIGNATURES = 1_000
_IMPLIED = {
    "chain": ("chain", "places"),
    "columns": ("columns", "keys", "run_index"),
    "commitments": ("commitments", "erasures"),
    "merkle_log": ("merkle_log", "checkpoint"),
}


def verify_whole(
    connection: Connection, database: Database, vault: Vault, *, held: Sequence[Held] = (),
    keys: Iterable[Verifier] | None = None, layers: Collection[str] = ALL_LAYERS, processes: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Check a ledger as it is at the connection's snapshot; what is written meanwhile is left for the next time.

    ``processes`` is how many check ranges at once; by default as many as there are cores, and one for a small ledger.
    """
    if unknown := set(layers) - set(ALL_LAYERS):
        raise LedgerError(f"no layers {sorted(unknown)}; choose from {list(ALL_LAYERS)}")
    log = LogCheck(connection, held, keys)
    findings, tasks = list(log.findings), _Tasks(database, vault, log, layers)
    sealed = tasks.run(connection, _count(processes, log.size), findings, progress)
    checked = [name for layer in ALL_LAYERS if layer in layers for name in _IMPLIED[layer]]
    signatures = 0
    if "merkle_log" in layers:
        findings += _upper_tiles(connection, log.size)
        signatures = _signatures(connection, log, findings)
    if "commitments" in layers:
        findings += _stray_payloads(connection, log.last_id)
    if "columns" in layers:
        findings += index_findings(connection)
        findings += database.storage_findings(connection)
        checked.append("storage")
    entries, runs = connection.execute(
        "SELECT (SELECT coalesce(max(id), 0) FROM entries), (SELECT count(*) FROM runs WHERE first_seq = 0)"
    ).fetchone()
    return _report(log, findings, checked, {"entries": entries, "runs": runs, "signatures": signatures}, sealed)


def _report(
    log: LogCheck, findings: list[Finding], checked: list[str], counts: dict[str, int], sealed: int
) -> dict[str, Any]:
    if log.held is not None:
        checked.append("held_checkpoint")
    names = {name for parts in _IMPLIED.values() for name in parts} | {
        "held_checkpoint",
        "storage",
        "anchor",
        "witness",
    }
    if "checkpoint" in log.not_checked:
        checked = [name for name in checked if name != "checkpoint"]
    unique = list(dict.fromkeys(findings))
    return {
        "valid": not unique,
        **counts,
        "errors": [finding.in_ledger() for finding in unique],
        "findings": [finding.as_dict() for finding in unique],
        "checked": checked,
        "not_checked": sorted(names - set(checked)),
        "sealed_payloads": sealed,
        "log_size": log.size,
        "checkpoint_size": log.newest.size if log.newest is not None else None,
        "checkpoint": log.newest_note,
        "uncovered": log.size - (log.newest.size if log.newest is not None else 0),
        "held_size": log.held.size if log.held is not None else None,
        "keys_from_outside": log.trust.from_outside,
    }


def _count(processes: int | None, size: int) -> int:
    if processes is not None:
        return max(1, processes)
    return 1 if size < _ALONE else min(os.cpu_count() or 1, 8)


class _Tasks:
    """The ranges of a ledger, and those who check them."""

    def __init__(self, database: Database, vault: Vault, log: LogCheck, layers: Collection[str]) -> None:
        self._database = database
        self._vault = vault
        self._origin = log.origin
        self._size = max(log.size, log.last_id)
        self._layers = sorted(layers)
        self._range = _LEAST

    def _starts(self, connection: Connection, findings: list[Finding]) -> list[int]:
        """Return where ranges with entries begin, so that one entry moved far away makes nobody count up to it."""
        outside = connection.execute("SELECT count(*) FROM entries WHERE id < 1").fetchone()[0]
        if outside:
            findings.append(Finding("places", f"{outside} entries lie before the first place of the ledger"))
        starts, after = [], 0
        while row := connection.execute("SELECT id FROM entries WHERE id > ? ORDER BY id LIMIT 1", (after,)).fetchone():
            start = (row[0] - 1) // self._range * self._range
            if start != after:
                findings.append(Finding("places", f"the ledger lacks places {after + 1} to {start}"))
            starts.append(start)
            after = start + self._range
        return starts

    def run(self, connection: Connection, count: int, findings: list[Finding], progress: Progress | None) -> int:
        """Check all ranges; add what is found and return how many payloads could not be opened."""
        # Long ranges, since every run is looked up anew in each; so many that nobody works alone for long.
        while self._range < min(_MOST, self._size // (_RANGES_EACH * count)):
            self._range *= 2
        starts = self._starts(connection, findings)
        workers: SimpleQueue[Worker | Here] = SimpleQueue()
        made: list[Worker | Here] = []
        try:
            for _ in range(count):
                made.append((Worker if count > 1 else Here)(self._database, self._vault))
                workers.put(made[-1])

            def check(start: int) -> dict[str, Any]:
                worker = workers.get()
                try:
                    return worker.check_range(self._origin, start, min(start + self._range, self._size), self._layers)
                finally:
                    workers.put(worker)

            sealed = 0
            with ThreadPoolExecutor(count) as pool:
                for start, answer in zip(starts, pool.map(check, starts), strict=True):
                    findings += [Finding(*finding) for finding in answer["findings"]]
                    sealed += answer["sealed"]
                    if progress is not None:
                        progress(min(start + self._range, self._size), self._size)
            return sealed
        finally:
            for worker in made:
                worker.close()


def _stray_payloads(connection: Connection, last_id: int) -> list[Finding]:
    count, first = connection.execute(
        "SELECT count(*), min(id) FROM payloads WHERE id < 16 OR id >= ?", ((last_id + 1) * 16,)
    ).fetchone()
    problem = f"{count} payloads belong to no entry, the first of them to place {first // 16}" if count else ""
    return [Finding("commitments", problem)] if problem else []


def _upper_tiles(connection: Connection, size: int) -> list[Finding]:
    """Check the tiles of tiles, and that no tile is missing or invented."""
    found, level = [], 0
    while True:
        wanted = size // TILE ** (level + 1)
        have = connection.execute(
            "SELECT count(*), coalesce(max(position) + 1, 0) FROM tiles WHERE level = ?", (level,)
        ).fetchone()
        if have != (wanted, wanted):
            found.append(Finding("merkle_log", f"level {level} of the log has {have[0]} tiles, not {wanted}"))
        if not wanted:
            break
        level += 1
        for position, root, hashes in connection.execute(
            "SELECT position, root, hashes FROM tiles WHERE level = ? ORDER BY position", (level,)
        ):
            below = [
                row[0]
                for row in connection.execute(
                    "SELECT root FROM tiles WHERE level = ? AND position BETWEEN ? AND ? ORDER BY position",
                    (level - 1, position * TILE, position * TILE + TILE - 1),
                )
            ]
            if len(below) != TILE or b"".join(below) != hashes or complete_root(below) != root:
                found.append(Finding("merkle_log", f"tile {level}/{position} is not that of the tiles below"))
    above = connection.execute("SELECT count(*) FROM tiles WHERE level > ? OR level < 0", (level,)).fetchone()[0]
    if above:
        found.append(Finding("merkle_log", f"the log has {above} tiles of levels that it cannot have"))
    return found


def _signatures(connection: Connection, log: LogCheck, findings: list[Finding]) -> int:
    """Check the signatures of checkpoints: all of a few, else spread evenly, each key's last and the newest always."""
    (count,) = connection.execute("SELECT count(*) FROM checkpoints").fetchone()
    every = max(1, count // _SIGNATURES)
    last = [term.last for term in log.trust.terms if term.last is not None] or [-1]
    marks = ", ".join("?" * len(last))
    rows = connection.execute(
        "SELECT size, root, note FROM (SELECT *, row_number() OVER (ORDER BY size DESC) - 1 AS place "  # noqa: S608
        f"FROM checkpoints) AS placed WHERE place % ? = 0 OR size IN ({marks})",
        (every, *last),
    )
    done = 0
    for size, root, note in rows:
        done += 1
        try:
            said = log.trust.open(note) if log.trust.covers(size) else None
            if said is not None and said != (log.origin, size, root):
                findings.append(Finding("checkpoint", f"the checkpoint at size {size}: its note says something else"))
        except (LedgerError, TypeError, AttributeError) as error:
            findings.append(Finding("checkpoint", f"the checkpoint at size {size}: {error}"))
    outside = connection.execute("SELECT count(*) FROM checkpoints WHERE size > ? OR size < 0", (log.size,)).fetchone()[
        0
    ]
    if outside:
        findings.append(Finding("checkpoint", f"{outside} checkpoints are beyond the {log.size} entries of the log"))
    return done
