"""Whose signatures a bundle holds: its keys one after the other, and which of them somebody trusts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from meshflow.ledger.format.checkpoints import Checkpoint, open_checkpoint, open_rotation
from meshflow.ledger.format.notes import NoteError, Verifier, split_note


class Term(NamedTuple):
    """A key, the first size that it may have signed, and where the key before handed over to it."""

    verifier: Verifier
    since: int
    handed_over: Checkpoint | None


class KeyChain:
    """The keys of a bundle; ``trusted`` is the place of the first one that was given from outside.

    Without keys from outside all are believed, which shows that the bundle agrees with itself and nothing about who
    signed it.
    """

    def __init__(self, origin: str, keys: Sequence[Verifier] | None) -> None:
        self.origin = origin
        self.terms: list[Term] = []
        self.trusted: int | None = 0 if keys is None else None
        self.given = keys

    def add(self, line: dict[str, Any]) -> str:
        """Take up the next key line; return what is wrong with it, or nothing."""
        try:
            verifier = Verifier.parse(line["key"])
            if str(verifier) != line["key"]:
                raise NoteError("the key could be written in another way")
            handed_over = self._handed_over(verifier, line)
        except NoteError as error:
            return f"signing key {len(self.terms) + 1}: {error}"
        if self.trusted is None and self.given is not None and verifier in self.given:
            self.trusted = len(self.terms)
        self.terms.append(Term(verifier, line["since"], handed_over))
        return ""

    def _handed_over(self, verifier: Verifier, line: dict[str, Any]) -> Checkpoint | None:
        if not self.terms:
            if line["note"] or line["since"]:
                raise NoteError("the first key has nobody to hand over to it, and begins at size 0")
            return None
        before = self.terms[-1]
        checkpoint, named = open_rotation(written_once(line["note"]), before.verifier)
        if str(named) not in line["note"] or checkpoint.text() not in line["note"]:
            raise NoteError("the rotation could be written in another way")
        if named != verifier or checkpoint.size != line["since"] or checkpoint.origin != self.origin:
            raise NoteError("the rotation names another key, size or log")
        if line["since"] < before.since:
            raise NoteError("it signed from a smaller size on than the key before")
        return checkpoint

    def open(self, note: str, *, trusted: bool) -> Checkpoint:
        """Return a checkpoint that a key of its size has signed; with ``trusted`` one that there is reason to trust."""
        checkpoint = open_checkpoint(written_once(note), [term.verifier for term in self.terms], self.origin)
        if not note.startswith(checkpoint.text()):
            raise NoteError("the root of the checkpoint could be written in another way")
        signed = self._signed(checkpoint.size, note)
        if not signed:
            raise NoteError(f"the checkpoint at size {checkpoint.size} is signed with a key of another time")
        if trusted and (self.trusted is None or signed[-1] < self.trusted):
            raise NoteError(f"the checkpoint at size {checkpoint.size} is not signed with a key to be trusted")
        return checkpoint

    def trusts(self, note: str) -> bool:
        """Say whether a checkpoint that opens is signed with a key to be trusted."""
        try:
            self.open(note, trusted=True)
        except NoteError:
            return False
        return True

    def _signed(self, size: int, note: str) -> list[int]:
        """Return the places of the keys that have signed a note of a size in their time."""
        found = []
        for place, term in enumerate(self.terms):
            following = self.terms[place + 1 : place + 2]
            if term.since <= size and all(size <= after.since for after in following):
                with suppress(NoteError):
                    open_checkpoint(note, [term.verifier], self.origin)
                    found.append(place)
        return found


def written_once(note: str) -> str:
    """Return a note; NoteError unless its signatures are written in the only way."""
    text, signatures = split_note(note)
    lines = [f"\N{EM DASH} {name} {base64.b64encode(hint + signature).decode()}\n"
             for name, hint, signature in signatures]  # fmt: skip
    if len({(name, hint) for name, hint, _ in signatures}) != len(signatures):
        raise NoteError("a key has signed twice")
    if "".join((text, "\n", *lines)) != note:
        raise NoteError("a signature could be written in another way")
    return note
