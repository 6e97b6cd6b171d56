"""Which keys a log was signed with, one after the other, and which of them there is reason to trust."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from meshflow.ledger.format.checkpoints import Checkpoint, open_checkpoint, open_rotation
from meshflow.ledger.format.notes import NoteError, Verifier

SignerRow = tuple[str, int, str]
"""A verifier, the size from which on it signed, and the note by which the key before handed over to it."""


class Term(NamedTuple):
    """A key and the sizes that it may have signed; ``last`` is None for the key in use."""

    verifier: Verifier
    first: int
    last: int | None


class Trust:
    """The keys of a log from the first trusted one on.

    Without keys from outside the first key is believed as stored, which shows that the ledger agrees with itself and
    nothing about who signed it.
    """

    def __init__(self, origin: str, rows: Sequence[SignerRow], keys: Iterable[Verifier] | None = None) -> None:
        self.origin = origin
        self.errors: list[str] = []
        self.from_outside = keys is not None
        self.terms = self._terms(rows, None if keys is None else list(keys))

    def _terms(self, rows: Sequence[SignerRow], keys: list[Verifier] | None) -> list[Term]:
        terms: list[Term] = []
        for place, (text, since, note) in enumerate(rows):
            try:
                verifier = Verifier.parse(text)
                if terms:
                    self._hand_over(terms[-1].verifier, verifier, since, note)
                    terms[-1] = terms[-1]._replace(last=since)
                elif keys is not None and verifier not in keys:
                    continue
                terms.append(Term(verifier, since if place else 0, None))
            except NoteError as error:
                self.errors.append(f"signing key {place + 1}: {error}")
                return terms
        if not terms and rows:
            self.errors.append("none of the keys given is one that this ledger was signed with")
        return terms

    def _hand_over(self, old: Verifier, new: Verifier, since: int, note: str) -> None:
        checkpoint, named = open_rotation(note, old)
        if named != new or checkpoint.size != since or checkpoint.origin != self.origin:
            raise NoteError("the rotation names another key, size or log")

    @property
    def verifiers(self) -> list[Verifier]:
        """Return the keys."""
        return [term.verifier for term in self.terms]

    def covers(self, size: int) -> bool:
        """Say whether one of the keys was in use at a size."""
        return bool(self.terms) and size >= self.terms[0].first

    def open(self, note: str) -> Checkpoint:
        """Return a checkpoint that the key of its size has signed; NoteError otherwise."""
        checkpoint = open_checkpoint(note, self.verifiers, self.origin)
        for term in self.terms:
            if term.first <= checkpoint.size and (term.last is None or checkpoint.size <= term.last):
                try:
                    return open_checkpoint(note, [term.verifier], self.origin)
                except NoteError:
                    continue
        raise NoteError(f"the checkpoint at size {checkpoint.size} is signed with a key of another time")
