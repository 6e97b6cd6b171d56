"""Checking the entries of one run of a bundle, as they come: its chain, its payloads, and what its kinds demand."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import orjson

from meshflow.errors import EncodingError
from meshflow.ledger.format.canonical import MAX_INTEGER, canonical_bytes
from meshflow.ledger.format.chain import commitment, entry_hash, genesis_hash
from meshflow.ledger.format.entry import FIELD_NUMBER, FIELDS, UNBOUND, VERSION
from meshflow.ledger.format.findings import Finding, missing

_HASH = re.compile("[0-9a-f]{64}")
_NUMBER = re.compile("0|[1-9][0-9]{0,15}")
_COMMON: Mapping[str, type] = {
    "run_id": str, "kind": str, "step_id": str, "attempt": int, "tenant_id": str, "commitments": dict,
}  # fmt: skip
_MORE: Mapping[str, Mapping[str, type]] = {
    "close": {"count": int},
    "erasure": {"erased": dict, "reason": str, "authority": str},
    "fork": {"parent_run_id": str, "parent_steps": int, "parent_entry_hash": str},
}


class BodyError(Exception):
    """A body is not that of an entry."""


def read_body(text: str) -> dict[str, Any]:
    """Return the body of an entry; BodyError unless it is canonical and has what every entry of its kind has."""
    data = text.encode()
    try:
        body = orjson.loads(data)
        if canonical_bytes(body) != data:
            raise BodyError("its body could be written in another way")
    except (orjson.JSONDecodeError, EncodingError) as error:
        raise BodyError(f"its body is not canonical JSON: {error}") from None
    if not isinstance(body, dict) or type(body.get("v")) is not int or body["v"] != VERSION:
        raise BodyError(f"its body is not one of version {VERSION}")
    kind = body.get("kind")
    for name, wanted in {**_COMMON, **(_MORE.get(kind, {}) if isinstance(kind, str) else {})}.items():
        value = body.get(name)
        if type(value) is not wanted or (isinstance(value, int) and value < 0):
            raise BodyError(f"{name} of its body is not what it must be")
    for name, committed in body["commitments"].items():
        if name not in FIELD_NUMBER or not isinstance(committed, str) or _HASH.fullmatch(committed) is None:
            raise BodyError(f"{name!r} of its commitments is none")
    if kind == "erasure":
        _read_erased(body["erased"])
    return body


def _read_erased(erased: dict[str, Any]) -> None:
    for seq, names in erased.items():
        if _NUMBER.fullmatch(seq) is None or int(seq) > MAX_INTEGER:
            raise BodyError(f"{seq!r} of what it erases is no entry")
        if not isinstance(names, list) or not all(isinstance(name, str) and name in FIELD_NUMBER for name in names):
            raise BodyError(f"what it erases of entry {seq} are not fields")


FindRun = Callable[[str], "RunCheck | None"]
"""Returns another run of the bundle, as far as it was read."""


class RunCheck:
    """One run, as far as the entries given so far."""

    def __init__(self, run_id: str, part: str, *, payloads: bool) -> None:
        self.run_id = run_id
        self.part = part
        self.entries = self.steps = self.erased = 0
        self.closed = False
        self.parent: tuple[str, int] | None = None
        self.orphaned = False
        """Whether the bundle lacks some of the steps that the run inherits."""
        self.history: list[bytes] = []
        """The entry hashes of the run's steps, inherited ones first, up to the first that the bundle lacks."""
        self.gaps: list[tuple[int, int]] = []
        self.findings: list[Finding] = []
        self._with_payloads = payloads
        self._next = 0
        self._previous = genesis_hash(run_id)
        self._keys: set[bytes] = set()
        # Commitments without a payload, a bit for each field, until a tombstone names them.
        self._bare: dict[int, int] = {}
        self._seq: int | None = None
        self._step: str | None = None

    def take(self, line: Mapping[str, Any], body: Mapping[str, Any] | None, find: FindRun) -> bytes:
        """Check an entry and return its hash; without a ``body`` what it says is not looked at."""
        seq, step = line["seq"], (body or {}).get("step_id")
        self._seq, self._step = seq, step
        previous = bytes.fromhex(line["prev_hash"])
        digest = entry_hash(self.run_id, seq, previous, line["body"].encode())
        if digest.hex() != line["entry_hash"]:
            self._say("chain", "entry_hash is not the hash of the entry")
        self._follow(seq, previous)
        self.entries += 1
        self._next, self._previous = seq + 1, digest
        if body is not None:
            self._against_payloads(seq, body["commitments"], line["payloads"])
            self._mean(seq, body, digest, find)
        return digest

    def finish(self) -> list[Finding]:
        """Return what is wrong, once all entries were given."""
        if self._with_payloads:
            for seq, bits in self._bare.items():
                for name in _names(bits):
                    problem = f"payload {name} is gone without an erasure entry"
                    self.findings.append(Finding("erasures", problem, self.run_id, seq))
        return self.findings

    def _say(self, layer: str, problem: str) -> None:
        self.findings.append(Finding(layer, problem, self.run_id, self._seq, self._step))

    def _follow(self, seq: int, previous: bytes) -> None:
        if seq == self._next:
            if previous != self._previous:
                self._say("chain", "prev_hash is not the hash of the entry before")
        elif seq < self._next:
            self._say("chain", f"it comes after entry {self._next - 1}")
        elif self.part == "whole":
            self.findings.append(missing(self.run_id, self._next, seq))
        else:
            self.gaps.append((self._next, seq))

    def _against_payloads(self, seq: int, committed: Mapping[str, str], payloads: Mapping[str, Any]) -> None:
        bare = 0
        for name, wanted in committed.items():
            payload = payloads.get(name)
            if payload is None:
                bare |= 1 << FIELD_NUMBER[name]
            elif commitment(bytes.fromhex(payload["salt"]), payload["data"].encode()) != wanted:
                self._say("commitments", f"payload {name} is not what was committed to")
        for name in payloads:
            if name not in committed:
                self._say("commitments", f"payload {name} is there without a commitment")
        if bare:
            self._bare[seq] = bare

    def _mean(self, seq: int, body: Mapping[str, Any], digest: bytes, find: FindRun) -> None:
        """Check what the entry means for the run."""
        kind = body["kind"]
        if body["run_id"] != self.run_id:
            self._say("body", "its body belongs to another run")
        key = sha256(orjson.dumps([body["step_id"], body["attempt"], kind])).digest()[:16]
        if key in self._keys:
            self._say("keys", f"a second {kind} entry of attempt {body['attempt']}")
        self._keys.add(key)
        if self.closed and kind not in UNBOUND:
            self._say("places", "it follows the close of the run")
        if kind == "step":
            self.steps += 1
            if not self.gaps and not self.orphaned:
                self.history.append(digest)
        elif kind == "close":
            self.closed = True
            if body["count"] != seq:
                self._say("places", f"the close counts {body['count']} entries, not {seq}")
        elif kind == "fork":
            self._fork(seq, body, find)
        elif kind == "erasure":
            self._erase(seq, body["erased"])

    def _erase(self, seq: int, erased: Mapping[str, list[str]]) -> None:
        for text, names in erased.items():
            other = int(text)
            if other >= seq or not names or len(set(names)) != len(names):
                self._say(
                    "erasures", f"it names nothing of entry {other}, a field twice, or what does not come before it"
                )
                continue
            if self._is_left_out(other):
                continue
            for name in names:
                bit = 1 << FIELD_NUMBER[name]
                left = self._bare.get(other, 0)
                if not left & bit:
                    self._say("erasures", f"payload {name} of entry {other} was erased, and is there or never was")
                elif left == bit:
                    del self._bare[other]
                else:
                    self._bare[other] = left & ~bit
                self.erased += 1

    def _is_left_out(self, seq: int) -> bool:
        at = bisect(self.gaps, (seq, MAX_INTEGER)) - 1
        return at >= 0 and seq < self.gaps[at][1]

    def _fork(self, seq: int, body: Mapping[str, Any], find: FindRun) -> None:
        parent_id, steps = body["parent_run_id"], body["parent_steps"]
        if seq != 0:
            self._say("places", "a fork entry that does not begin the run")
            return
        parent = find(parent_id)
        self.parent = (parent_id, steps)
        self.history = parent.history[:steps] if parent is not None else []
        self.orphaned = len(self.history) < steps
        last = self.history[-1] if steps and self.history else genesis_hash(parent_id)
        if not self.orphaned and last.hex() != body["parent_entry_hash"]:
            self._say("forks", f"step {steps - 1} of the run it forks, {parent_id!r}, is not the one that was forked")


def _names(bits: int) -> list[str]:
    return [name for number, name in enumerate(FIELDS) if bits >> number & 1]
