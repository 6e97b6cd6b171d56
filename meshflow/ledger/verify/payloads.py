"""Checking payloads against the commitments of the entries that they belong to, in the order of the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import orjson

from meshflow.ledger.format.chain import PAYLOAD_TAG, SALT_BYTES
from meshflow.ledger.format.entry import FIELD_NUMBER
from meshflow.ledger.shredding import LockedError
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.sql.payloads import KEY, PAYLOAD, Opener, encrypts
from meshflow.ledger.sql.vault import Vault
from meshflow.ledger.verify.erased import Tombstones
from meshflow.ledger.verify.found import Found, Row

_NAME = b'"commitments":'
# In place of a digest; nothing that a body can say is equal to them.
GONE: Any = object()
LOCKED: Any = object()
_MISFORMED: Any = object()


class Digests:
    """Payloads by their digests, from when they are read until their entries ask for them.

    ``held`` has them by the payload's id: its entry's times 16 plus the field's number.
    """

    def __init__(self, connection: Connection, opener: Opener) -> None:
        self.held: dict[int, Any] = {}
        self._opener = opener
        self._encrypted = encrypts(connection)

    def select(self, where: str) -> str:
        """Return the statement that reads payloads ``p``, of which ``where`` says the tables and the rows."""
        if self._encrypted:
            return f"SELECT {PAYLOAD} {where.replace(' WHERE ', f' {KEY} WHERE ')}"
        return f"SELECT p.id, p.salt, p.data {where}"

    def add(self, payloads: Iterable[Row]) -> None:
        """Digest payloads as that statement gives them."""
        held = self.held
        if self._encrypted:
            held |= {payload[0]: self._opened(payload) for payload in payloads}
            return
        for payload_id, salt, data in payloads:
            try:
                digest = sha256(PAYLOAD_TAG + salt + data).hexdigest()
                # Were the salt shorter, the payload could be longer.
                held[payload_id] = digest if len(salt) == SALT_BYTES else _MISFORMED
            except TypeError:
                held[payload_id] = _MISFORMED

    def _opened(self, payload: Row) -> Any:
        try:
            opened = self._opener.open(*payload)
        except LockedError:
            return LOCKED
        if opened is None:
            return GONE
        salt, data = opened
        if not isinstance(salt, bytes) or len(salt) != SALT_BYTES or not isinstance(data, bytes):
            return _MISFORMED
        return sha256(PAYLOAD_TAG + salt + data).hexdigest()


class Payloads:
    """The payloads of the entries with ids start+1 to stop, read along with them; few of them are in memory.

    ``sealed`` counts those that are encrypted under a key that was not given.
    """

    def __init__(
        self, connection: Connection, vault: Vault, places: tuple[int, int], found: Found, erased: Tombstones,
        at_once: int,
    ) -> None:  # fmt: skip
        self.sealed = 0
        self._end = (places[1] + 1) * 16
        self._found = found
        self._erased = erased
        self._at_once = at_once
        self._digests = Digests(connection, vault.opener())
        sql = self._digests.select("FROM payloads p WHERE p.id >= ? AND p.id < ? ORDER BY p.id")
        self._rows = connection.execute(sql, ((places[0] + 1) * 16, self._end))
        self._read_to = 0

    def check(self, rows: Sequence[Row], commitments: Sequence[Mapping[str, Any]]) -> None:
        """Check the payloads of neighbouring entries."""
        end = (rows[-1][0] + 1) * 16
        self._read(end)
        take = self._digests.held.pop
        for row, committed in zip(rows, commitments, strict=True):
            first = row[0] * 16
            for name, wanted in committed.items():
                number = FIELD_NUMBER.get(name)
                digest = take(first + number, GONE) if number is not None else GONE
                if digest != wanted:
                    self._differs(row, name, digest)
        if next(iter(self._digests.held), end) < end:
            self._stray(rows, end)

    def _read(self, end: int) -> None:
        """Read on until the payloads below an id are known by their digests."""
        while self._read_to < end and (some := self._rows.fetchmany(self._at_once)):
            self._read_to = some[-1][0]
            self._digests.add(some)

    def _differs(self, row: Row, name: str, digest: Any) -> None:
        if digest is LOCKED:
            self.sealed += 1
        elif digest is not GONE:
            self._found.at("commitments", row, f"payload {name} is not what was committed to")
        elif not self._erased.names(row[1], row[2], name):
            self._found.at("erasures", row, f"payload {name} is gone without an erasure entry")

    def _stray(self, rows: Sequence[Row], end: int) -> None:
        """Report what nobody committed to, at the entry in whose place it lies, if there is one."""
        entries = {row[0]: row for row in rows}
        for payload_id in [one for one in self._digests.held if one < end]:
            del self._digests.held[payload_id]
            entry_id, number = divmod(payload_id, 16)
            if entry_id in entries:
                problem = f"payload number {number} is there without a commitment"
                self._found.at("commitments", entries[entry_id], problem)
            else:
                self._found.say("commitments", f"payload number {number} of place {entry_id} belongs to no entry")

    def finish(self) -> None:
        """Report what lies behind the last of the entries."""
        self._read(self._end)
        if self._digests.held:
            self._stray((), self._end)


def commitments_of(body: bytes) -> dict[str, Any]:
    """Return the commitments of a body, without reading all of it where they are the only object inside."""
    at = body.find(b"{", 1)
    if body.endswith(_NAME, 0, at) and body.find(b"{", at + 1) < 0:
        found: dict[str, Any] = orjson.loads(body[at : body.find(b"}", at) + 1])
        return found
    document: dict[str, Any] = orjson.loads(body)["commitments"]
    return document
