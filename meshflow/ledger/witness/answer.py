"""What a witness answers (C2SP tlog-witness): requests in, status and body out, without a network."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from meshflow.ledger.format.checkpoints import Checkpoint, log_key, read_checkpoint
from meshflow.ledger.format.cosignatures import CosigningKey
from meshflow.ledger.format.merkle import EMPTY_ROOT, verify_consistency
from meshflow.ledger.format.notes import NoteError, NoteVerifier, decode, open_note, split_note
from meshflow.ledger.witness.state import Head, Refused, WitnessState

MAX_BODY = 262_144
_MAX_PROOF = 63
_OLD = re.compile(r"old (0|[1-9][0-9]{0,17})")
_TEXT = "text/plain; charset=utf-8"


class Answer(NamedTuple):
    """A status code of HTTP, a body and its type."""

    status: int
    body: str
    kind: str = _TEXT


class _Refusal(Exception):
    def __init__(self, status: int, why: str, kind: str = _TEXT) -> None:
        super().__init__(why)
        self.answer = Answer(status, why + "\n", kind)


class _Request(NamedTuple):
    old: int
    proof: list[bytes]
    note: str


def trusted_logs(keys: Iterable[str]) -> dict[str, list[NoteVerifier]]:
    """Return the keys that a witness trusts by the log that each names, which is the name of the key.

    A log may have several keys, as after a rotation, of Ed25519 or ML-DSA-44.
    """
    logs: dict[str, list[NoteVerifier]] = {}
    for text in keys:
        key = log_key(text)
        logs.setdefault(key.name, []).append(key)
    return logs


class Witness:
    """Checks that each checkpoint extends the one before, and cosigns it with all of its keys."""

    def __init__(
        self, state: WitnessState, keys: Sequence[CosigningKey], logs: Mapping[str, Sequence[NoteVerifier]],
        now_s: Callable[[], int] = lambda: int(time.time()),
    ) -> None:  # fmt: skip
        self.state = state
        self.keys = list(keys)
        self.logs = dict(logs)
        self._now_s = now_s
        self._by_hash = {sha256(origin.encode()).hexdigest(): origin for origin in logs}

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer ``POST add-checkpoint``: the cosignatures, once the checkpoint is durably the newest of its log."""
        try:
            request = _parse(body)
            text, checkpoint = self._opened(request.note)
            if request.old > checkpoint.size:
                raise _Refusal(400, "the old size is above that of the checkpoint")
            return Answer(200, self._cosigned(request, text, checkpoint))
        except _Refusal as refusal:
            return refusal.answer

    def _opened(self, note: str) -> tuple[str, Checkpoint]:
        """Return what a note says once its log vouches for it."""
        try:
            checkpoint = read_checkpoint(note)
        except NoteError as error:
            raise _Refusal(400, str(error)) from None
        if checkpoint.origin not in self.logs:
            raise _Refusal(404, "this witness does not know the log")
        try:
            return open_note(note, self.logs[checkpoint.origin])[0], checkpoint
        except NoteError as error:
            raise _Refusal(403, str(error)) from None

    def _cosigned(self, request: _Request, text: str, new: Checkpoint) -> str:
        """Compare, cosign and remember in one transaction, so that no request can undo what a faster one did."""
        with self.state.changing():
            head = self.state.head(new.origin) or Head(0, EMPTY_ROOT, 0, "")
            refusal = _unfit(request, head, new)
            if refusal is None:
                # A clock that steps back must not date a larger tree before a smaller one.
                at_s = max(self._now_s(), head.at_s)
                lines = "".join(key.line(text, at_s) for key in self.keys)
                self.state.put(new.origin, Head(new.size, new.root, at_s, _without(request.note, self.keys) + lines))
                return lines
            if request.old == head.size:
                self.state.refused(Refused(new.origin, self._now_s(), head.note, request.note))
        raise refusal

    def checkpoint(self, origin_hash: str) -> Answer:
        """Answer ``GET <SHA-256 of the origin>/checkpoint``: the newest checkpoint with its cosignatures."""
        origin = self._by_hash.get(origin_hash)
        head = self.state.heads().get(origin) if origin is not None else None
        if head is None:
            return Answer(404, "this witness has cosigned nothing of that log\n")
        return Answer(200, head.note)


def _unfit(request: _Request, head: Head, new: Checkpoint) -> _Refusal | None:
    if request.old != head.size:
        return _Refusal(409, str(head.size), "text/x.tlog.size")
    if request.old == new.size and head.root != new.root:
        return _Refusal(409, str(head.size), "text/x.tlog.size")
    if not verify_consistency(head.size, new.size, head.root, new.root, request.proof):
        return _Refusal(422, "the proof does not lead from the newest checkpoint known to this one")
    return None


def _without(note: str, keys: Sequence[CosigningKey]) -> str:
    """Return a note without lines of one's own that came with it, which nobody has checked."""
    own = {(key.name, key.verifier.id) for key in keys}
    text, signatures = split_note(note)
    lines = note.removeprefix(text + "\n").splitlines(keepends=True)
    kept = [line for line, (name, hint, _) in zip(lines, signatures, strict=True) if (name, hint) not in own]
    return text + "\n" + "".join(kept)


def _parse(body: bytes) -> _Request:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise _Refusal(400, "the request is not UTF-8") from None
    head, gap, note = text.partition("\n\n")
    first, *lines = head.split("\n")
    old = _OLD.fullmatch(first)
    if not gap or old is None:
        raise _Refusal(400, "the request does not begin with an old size, a proof and an empty line")
    if len(lines) > _MAX_PROOF:
        raise _Refusal(400, f"the proof has more than {_MAX_PROOF} lines")
    try:
        proof = [decode(line, "a line of the proof") for line in lines]
    except NoteError as error:
        raise _Refusal(400, str(error)) from None
    if any(len(step) != 32 for step in proof):
        raise _Refusal(400, "a line of the proof is not a hash")
    return _Request(int(old[1]), proof, note)
