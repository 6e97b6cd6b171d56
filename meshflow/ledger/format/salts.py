"""The salts of commitments: random, and drawn ahead."""

from __future__ import annotations

import os

from meshflow.ledger.format.chain import SALT_BYTES

_SALTS_DRAWN = 512


class Salts:
    """Random salts, drawn from the system many at a time: each draw gives up the GIL and may wait 5 ms for it."""

    def __init__(self) -> None:
        self._pool: list[bytes] = []

    def take(self) -> bytes:
        """Return a fresh salt. No two threads get the same one, since a list's ``pop`` is one step."""
        while True:
            try:
                return self._pool.pop()
            except IndexError:
                random = os.urandom(SALT_BYTES * _SALTS_DRAWN)
                self._pool += [random[at : at + SALT_BYTES] for at in range(0, len(random), SALT_BYTES)]
