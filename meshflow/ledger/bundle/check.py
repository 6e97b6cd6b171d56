"""Checking a bundle line by line, in one pass, with nothing but the bundle and what is held from outside."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from meshflow.ledger.bundle.lines import FormError, read_line
from meshflow.ledger.bundle.runs import BodyError, RunCheck, read_body
from meshflow.ledger.bundle.trust import KeyChain
from meshflow.ledger.bundle.walk import pass_over
from meshflow.ledger.format.checkpoints import Checkpoint, read_checkpoint
from meshflow.ledger.format.findings import Finding
from meshflow.ledger.format.merkle import Frontier, leaf_hash
from meshflow.ledger.format.notes import NoteError, Verifier

_MAX_FINDINGS = 1_000
_MAY_FOLLOW = {
    "": ("header",), "header": ("key",), "key": ("key", "checkpoint"),
    "checkpoint": ("checkpoint", "entry", "skip"), "entry": ("entry", "skip", "end"), "skip": ("entry", "skip", "end"),
    "end": (),
}  # fmt: skip


class BundleCheck:
    """What has been found in the lines given so far; ``take`` each of them, then ``finish``."""

    def __init__(self, keys: Sequence[Verifier] | None, held: Sequence[str]) -> None:
        self.findings: list[Finding] = []
        self.header: dict[str, Any] = {}
        self.runs: dict[str, RunCheck] = {}
        self.checkpoints: list[Checkpoint] = []
        self.notes: list[str] = []
        self.anchors: dict[str, int] = {}
        self.held: Checkpoint | None = None
        self.signers = KeyChain("", keys)
        self.entries = self.payloads = self.skipped = 0
        self._keys, self._held = keys, held
        self._trusted: set[int] = set()
        self._last: tuple[int, str] = (-1, "")
        self._frontier: Frontier | None = Frontier()
        self._roots: dict[int, list[tuple[str, str, bytes]]] = {}
        self._stops: set[int] = set()
        self._order: list[int] = []
        self._digest = sha256()
        self._before = ""

    @property
    def origin(self) -> str | None:
        """Return the log that the bundle is of, once it has said so."""
        return self.header.get("origin")

    def take(self, line: bytes) -> None:
        """Check a line; FormError where the bundle cannot be read on from."""
        if self._before == "end":
            raise FormError("something follows the end of the bundle")
        document = read_line(line)
        kind = document["type"]
        if kind not in _MAY_FOLLOW[self._before]:
            raise FormError(f"no {kind} line may come {f'after a {self._before} line' if self._before else 'first'}")
        if self._before == "checkpoint" and kind != "checkpoint":
            self._begin_walk()
        getattr(self, f"_take_{kind}")(document)
        self._before = kind
        self._digest.update(line)
        if len(self.findings) > _MAX_FINDINGS:
            raise FormError("more than that is wrong; the rest is not looked at")

    def finish(self) -> None:
        """Check what can be said once there are no more lines."""
        if self._before != "end":
            raise FormError("the bundle has no end: lines of it are missing" if self._before else "the bundle is empty")

    def _say(self, layer: str, problem: str) -> None:
        self.findings.append(Finding(layer, problem))

    def _take_header(self, line: dict[str, Any]) -> None:
        self.header = line
        self.signers = KeyChain(line["origin"], self._keys)
        for run in line["runs"] or ():
            if run["part"] == "tenant" and line["tenant"] is None:
                raise FormError("the header has a tenant's part of a run, and names no tenant")
            self.runs[run["run_id"]] = RunCheck(run["run_id"], run["part"], payloads=line["payloads"])

    def _take_key(self, line: dict[str, Any]) -> None:
        if problem := self.signers.add(line):
            self._say("signers", problem)

    def _take_checkpoint(self, line: dict[str, Any]) -> None:
        note = line["note"]
        try:
            checkpoint = read_checkpoint(note)
        except NoteError as error:
            raise FormError(f"the line holds no checkpoint: {error}", "checkpoint") from None
        try:
            self.signers.open(note, trusted=False)
            if self.signers.trusts(note):
                self._trusted.add(checkpoint.size)
        except NoteError as error:
            self._say("checkpoint", f"the checkpoint at size {checkpoint.size}: {error}")
        if (checkpoint.size, note) <= self._last:
            raise FormError("checkpoints are not in order, or one is there twice")
        self._last = checkpoint.size, note
        self.checkpoints.append(checkpoint)
        self.notes.append(note)
        self._expect("merkle_log", f"checkpoint at size {checkpoint.size}", checkpoint)
        self._stops.add(checkpoint.size)
        for name in line["anchors"]:
            self.anchors[name] = checkpoint.size

    def _expect(self, layer: str, what: str, checkpoint: Checkpoint) -> None:
        self._roots.setdefault(checkpoint.size, []).append((layer, what, checkpoint.root))

    def _begin_walk(self) -> None:
        """Settle whom to trust, and which roots the log must meet on the way."""
        if self.signers.trusted is None:
            self._say("signers", "none of the keys given is one that the bundle was signed with")
        for term in self.signers.terms:
            if term.handed_over is not None:
                self._expect("merkle_log", f"rotation at size {term.since}", term.handed_over)
                self._stops.add(term.since)
        size = self.header["size"]
        if self.checkpoints[-1].size != size:
            self._say("form", f"the header claims {size} entries, the newest checkpoint {self.checkpoints[-1].size}")
        elif self.signers.trusted is not None and size not in self._trusted:
            self._say("checkpoint", f"the newest checkpoint, at size {size}, is not signed with a key to be trusted")
        for note in self._held:
            self._hold(note, size)
        self._order = sorted(self._roots)
        self._compare()

    def _hold(self, note: str, size: int) -> None:
        """Take up a checkpoint from outside."""
        try:
            checkpoint = self.signers.open(note, trusted=True)
        except NoteError as error:
            self._say("held_checkpoint", f"the checkpoint given: {error}")
            return
        if self.held is None or checkpoint.size > self.held.size:
            self.held = checkpoint
        if checkpoint.size > size:
            self._say(
                "held_checkpoint",
                f"the checkpoint given is of {checkpoint.size} entries and the bundle of {size}: it was made before, "
                "or entries have been cut off",
            )
        self._expect("held_checkpoint", f"checkpoint given, at size {checkpoint.size}", checkpoint)

    def _compare(self) -> None:
        """Compare the log with what it must be at the size reached."""
        if self._frontier is None:
            return
        for layer, what, root in self._roots.get(self._frontier.size, ()):
            if root != self._frontier.root():
                self._say(layer, f"the first {self._frontier.size} entries do not lead to the root of the {what}")

    def _take_entry(self, line: dict[str, Any]) -> None:
        run_id, named = line["run_id"], self.header["runs"]
        run = self.runs.get(run_id)
        if run is None:
            if named is not None:
                self._say("form", f"run {run_id!r} is not one that the header names")
            run = self.runs[run_id] = RunCheck(run_id, "whole", payloads=self.header["payloads"])
        try:
            body = read_body(line["body"])
        except BodyError as error:
            self.findings.append(Finding("body", str(error), run_id, line["seq"]))
            body = None
        if body is not None and self.header["tenant"] not in (None, body["tenant_id"]):
            self._say("form", f"entry {line['seq']} of run {run_id!r} is not of the tenant that the header names")
        if line["payloads"] and not self.header["payloads"]:
            self._say("form", f"entry {line['seq']} of run {run_id!r} has payloads, and the header says there are none")
        digest = run.take(line, body, self.runs.get)
        self.findings += run.findings
        run.findings = []
        self.entries += 1
        self.payloads += len(line["payloads"])
        if self._is_due(line["position"], (run_id, line["seq"], body["step_id"] if body is not None else None)):
            self._append(digest)

    def _is_due(self, position: int, entry: tuple[str, int, Any]) -> bool:
        if self._frontier is not None and position != self._frontier.size:
            problem = f"it is at position {position}, and position {self._frontier.size} is due"
            self.findings.append(Finding("merkle_log", problem, *entry))
            self._frontier = None
        return self._frontier is not None

    def _append(self, digest: bytes) -> None:
        if self._frontier is not None:
            self._frontier.append(leaf_hash(digest))
            self._compare()

    def _take_skip(self, line: dict[str, Any]) -> None:
        if self.header["runs"] is None:
            self._say("form", "the header claims the whole ledger, and a part of it is left out")
        if self._frontier is None:
            return
        start, stop = self._frontier.size, line["stop"]
        if self._before == "skip" and start not in self._stops:
            raise FormError("two skip lines where one would do")
        passed = self._order[bisect_right(self._order, start) : bisect_left(self._order, stop)]
        if not self._stops.isdisjoint(passed):
            raise FormError("a skip line passes over a checkpoint")
        for size in passed:
            self._say(
                "held_checkpoint",
                f"the checkpoint given, at size {size}, cannot be compared: the bundle leaves out what is there. Have "
                "it written for that checkpoint",
            )
        if not pass_over(self._frontier, stop, [bytes.fromhex(one) for one in line["hashes"]]):
            self._say("merkle_log", f"no {len(line['hashes'])} hashes lead from position {start} to {stop}")
            self._frontier = None
            return
        self.skipped += stop - start
        self._compare()

    def _take_end(self, line: dict[str, Any]) -> None:
        if self._digest.hexdigest() != line["sha256"]:
            self._say("form", "sha256 of the end line is not that of the lines before it")
        if line["entries"] != self.entries:
            self._say("form", f"the end line counts {line['entries']} entries, and there are {self.entries}")
        if not self.entries:
            self._say("form", "the bundle holds no entry")
        for run_id, run in self.runs.items():
            if not run.entries and not (run.part == "inherited" and self.header["tenant"] is not None):
                self._say("form", f"the header names run {run_id!r}, and no entry of it is there")
        size = self.header["size"]
        if self._frontier is not None and self._frontier.size != size:
            self._say("merkle_log", f"the log ends at position {self._frontier.size}, and the header claims {size}")
        for run in self.runs.values():
            self.findings += run.finish()
            if run.orphaned and run.part == "whole" and self.header["tenant"] is None:
                parent = run.parent[0] if run.parent is not None else ""
                self.findings.append(
                    Finding("forks", f"the bundle lacks steps of run {parent!r} that it inherits", run.run_id)
                )
