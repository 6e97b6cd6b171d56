"""Verify a bundle of evidence that meshflow wrote, without meshflow: python verify_bundle.py BUNDLE --key KEY

One file that needs Python 3.9 or later and the package "cryptography", written after docs/reference/ledger-format.md.
It stops at the first thing that is wrong and names its layer. Exit code 0: the bundle holds; 1: it does not; 2: usage.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

BIGGEST, LONGEST, NONE, HASH, NUMBER = 2**53 - 1, 2**30, type(None), "[0-9a-f]{64}", "0|[1-9][0-9]{0,17}"
FIELD = "input|output|metadata|reason|results|principal|request_salt|approver"
LINES: dict[str, dict[str, Any]] = {
    "header": {"format": "meshflow/bundle/v1", "origin": str, "payloads": bool, "size": int, "tenant": (NONE, str),
               "runs": (NONE, [{"part": "inherited|tenant|whole", "run_id": "(?s:.+)"}]), "writer": str},
    "key": {"key": str, "note": str, "since": int}, "checkpoint": {"anchors": [str], "note": str},
    "entry": {"body": str, "entry_hash": HASH, "payloads": {FIELD: {"data": str, "salt": "[0-9a-f]{32}"}},
              "position": int, "prev_hash": HASH, "run_id": str, "seq": int},
    "skip": {"hashes": [HASH], "stop": int}, "end": {"entries": int, "sha256": HASH},
}  # fmt: skip
AFTER = {"": "header", "header": "key", "key": "key checkpoint", "checkpoint": "checkpoint entry skip", "end": ""}
BODY: dict[str, dict[str, Any]] = {  # the members that every body has, and those of a kind; further ones may be there
    "": {"v": int, "kind": str, "run_id": str, "step_id": str, "attempt": int, "tenant_id": str,
         "commitments": {FIELD: HASH}},
    "close": {"count": int}, "erasure": {"erased": {NUMBER: [FIELD]}, "reason": str, "authority": str},
    "fork": {"parent_run_id": str, "parent_steps": int, "parent_entry_hash": str},
}  # fmt: skip


class Wrong(Exception):
    """What does not hold, and at which layer."""


def need(holds: Any, layer: str, problem: str) -> None:
    if not holds:
        raise Wrong(f"{layer}: {problem}")


def fits(value: Any, form: Any) -> bool:
    """Say whether a value is of a type, or a text, list or object of a form; names of members are patterns too."""
    if isinstance(form, str):
        return isinstance(value, str) and re.fullmatch(form, value) is not None
    if isinstance(form, tuple):
        return any(fits(value, one) for one in form)
    if isinstance(form, list):
        return isinstance(value, list) and all(fits(one, form[0]) for one in value)
    if isinstance(form, dict):
        named = isinstance(value, dict) and all(name in value for name in form if name.isidentifier())
        return named and all(any(fits(k, p) and fits(v, f) for p, f in form.items()) for k, v in value.items())
    return type(value) is form and (form is not int or 0 <= value <= BIGGEST)


def in_profile(value: Any, depth: int = 0) -> bool:
    if isinstance(value, (dict, list)):
        names = all(max(name, default="") <= "\uffff" for name in value) if isinstance(value, dict) else True
        inner = value.values() if isinstance(value, dict) else value
        return names and depth < 64 and all(in_profile(one, depth + 1) for one in inner)
    return value is None or isinstance(value, str) or (isinstance(value, int) and -BIGGEST <= value <= BIGGEST)


def read(data: bytes, layer: str) -> dict[str, Any]:
    """Return the object that canonical JSON says; nothing that could be written in another way passes."""
    try:
        value = json.loads(data.decode())
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        need(isinstance(value, dict) and in_profile(value) and text.encode() == data, layer, "JSON is not canonical")
    except (ValueError, RecursionError) as error:
        raise Wrong(f"{layer}: no JSON ({error})") from None
    return dict(value)


def from_base64(text: str, layer: str) -> bytes:
    whole = fits(text, "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
    data = base64.b64decode(text) if whole else b""
    need(data and base64.b64encode(data).decode() == text, layer, "what must be base64 is not")
    return data


def open_key(text: str) -> tuple[tuple[str, bytes], bytes]:
    """Return name and id of ``name+id+base64``, and the public key."""
    name, given, encoded = (*text.split("+", 2), "", "")[:3]
    key = from_base64(encoded, "signers")
    hint = sha256(name.encode() + b"\n" + key).digest()[:4]
    sound = name and name.isprintable() and " " not in name and len(key) == 33 and key[0] == 1 and hint.hex() == given
    need(sound, "signers", f"not an Ed25519 key under its name and id: {text}")
    return (name, hint), key[1:]


def open_note(note: str, keys: list[str], layer: str) -> tuple[list[str], list[int]]:
    """Return the lines of a note's text, and the places of those keys that have signed it: one at least."""
    text, gap, tail = note.rpartition("\n\n")
    found = [(name, from_base64(one, layer)) for name, one in re.findall("\u2014 ([^ +\n]+) (.+)\n", tail)]
    again = "".join(f"\u2014 {name} {base64.b64encode(one).decode()}\n" for name, one in found if name.isprintable())
    need(gap and tail == again and len(note) <= 1_000_000 and len(found) <= 100, layer, "not a signed note")
    signed = {(name, one[:4]): one[4:] for name, one in found if len(one) > 4}
    places = [place for place, key in enumerate(keys) if open_key(key)[0] in signed]
    need(places and len(signed) == len(found), layer, "no key of the bundle has signed a note, or one has twice")
    try:
        for who, key in map(open_key, (keys[place] for place in places)):
            Ed25519PublicKey.from_public_bytes(key).verify(signed[who], (text + "\n").encode())
    except (InvalidSignature, ValueError):
        raise Wrong(f"{layer}: a signature is not right") from None
    return text.split("\n"), places


def hashed(tag: str, *parts: bytes | int) -> bytes:
    """Return SHA-256 of a tag, a zero byte and parts: numbers in eight bytes, bytes behind their length in eight."""
    framed = [len(one).to_bytes(8, "big") + one if isinstance(one, bytes) else one.to_bytes(8, "big") for one in parts]
    return sha256(tag.encode() + b"\0" + b"".join(framed)).digest()


class Run:
    """What is known of a run so far; ``bare`` are commitments without a payload that no tombstone has named yet."""

    def __init__(self, run_id: str, part: str) -> None:
        self.name, self.part, self.previous = run_id, part, hashed("meshflow/genesis/v1", run_id.encode())
        self.next, self.entries, self.closed, self.orphan = 0, 0, False, False
        self.steps, self.gaps, self.keys, self.bare = list[bytes](), list[range](), set[Any](), set[tuple[int, str]]()


class Bundle:
    """A bundle as far as it was read; one method for each type of line."""

    def __init__(self, trusted: list[str], held: list[str]) -> None:
        self.trusted, self.held, self.first, self.keys = trusted, held, -1, list[tuple[str, int]]()
        self.digest, self.before, self.head, self.last, self.signed = sha256(), "", dict[str, Any](), (-1, ""), -1
        self.peaks, self.size, self.entries = list[tuple[int, bytes]](), 0, 0
        self.roots, self.stops, self.runs = dict[int, set[tuple[str, bytes]]](), set[int](), dict[str, Run]()

    def take(self, line: bytes) -> None:
        need(line.endswith(b"\n") and len(line) <= LONGEST, "form", "a line is cut off, or too long")
        said = read(line[:-1], "form")
        kind = said.pop("type", None)
        due = kind in AFTER.get(self.before, "entry skip end").split() and fits(said, LINES[kind])
        need(due, "form", f"a line out of place or of form: {kind!r}")
        if self.before == "checkpoint" and kind != "checkpoint":
            self.begin_walk()
        getattr(self, kind)(**said)
        self.before = kind
        self.digest.update(line)

    def header(self, **head: Any) -> None:
        self.head, ids = head, [run["run_id"] for run in head["runs"] or ()]
        self.runs = {run["run_id"]: Run(**run) for run in head["runs"] or ()}
        strays = head["tenant"] is None and any(run.part == "tenant" for run in self.runs.values())
        need(head["runs"] != [] and ids == sorted(set(ids)) and not strays, "form", "the runs are not as must be")

    def key(self, key: str, note: str, since: int) -> None:
        open_key(key)
        need(self.keys or not (note or since), "signers", "the first key was handed over to")
        for before, start in self.keys[-1:]:
            lines, _ = open_note(note, [before], "signers")
            need(lines[:1] + lines[4:] == ["meshflow/rotation/v1", before, key], "signers", "no rotation to the key")
            need(self.meet(lines[1:4], "signers", "merkle_log") == since >= start, "signers", "a rotation elsewhere")
        self.first = len(self.keys) if self.first < 0 and key in self.trusted else self.first
        self.keys.append((key, since))

    def meet(self, lines: list[str], layer: str, later: str) -> int:
        """Note the root of a checkpoint, which the log must have at its size, and return the size."""
        need(len(lines) > 2 and all(lines) and fits(lines[1], NUMBER), layer, "not a checkpoint")
        size, root = int(lines[1]), from_base64(lines[2], layer)
        need(len(root) == 32 and lines[0] == self.head["origin"], layer, f"a checkpoint of log {lines[0]!r}")
        self.roots.setdefault(size, set()).add((later, root))
        self.stops |= {size} if later == "merkle_log" else set()
        return size

    def open(self, note: str, layer: str, later: str) -> tuple[int, bool]:
        """Return the size of a checkpoint, and whether a key to be trusted has signed it."""
        lines, places = open_note(note, [key for key, _ in self.keys], layer)
        size = self.meet(lines, layer, later)
        ends = [since for _, since in self.keys[1:]] + [size]
        places = [place for place in places if self.keys[place][1] <= size <= ends[place]]
        need(places, layer, f"the checkpoint at size {size} is signed with a key of another time")
        return size, 0 <= self.first <= places[-1]

    def checkpoint(self, anchors: list[str], note: str) -> None:
        size, trusted = self.open(note, "checkpoint", "merkle_log")
        need(anchors == sorted(set(anchors)) and (size, note) > self.last, "form", "checkpoints out of order")
        self.last, self.signed = (size, note), size if trusted else self.signed

    def begin_walk(self) -> None:
        need(self.first >= 0, "signers", "no key given is one of the bundle's")
        need(self.last[0] == self.head["size"], "form", "the header claims another size than the newest checkpoint")
        need(self.signed == self.last[0], "checkpoint", "the newest is not signed with a key to be trusted")
        for note in self.held:
            size, trusted = self.open(note, "held_checkpoint", "held_checkpoint")
            need(trusted and size <= self.last[0], "held_checkpoint", "the one given is newer, or not of a trusted key")
        self.add()

    def add(self, level: int = 0, digest: bytes = b"") -> None:
        """Append a complete subtree of 2**level leaves to the log, and compare roots where one is known."""
        while digest and self.peaks and self.peaks[-1][0] == level:
            digest, level = sha256(b"\1" + self.peaks.pop()[1] + digest).digest(), level + 1
        self.peaks += [(level, digest)] if digest else []
        self.size = sum(1 << height for height, _ in self.peaks)
        if self.size in self.roots:
            root = self.peaks[-1][1] if self.peaks else sha256(b"").digest()
            for _, left in self.peaks[-2::-1]:
                root = sha256(b"\1" + left + root).digest()
            for layer, wanted in sorted(self.roots.pop(self.size)):
                need(root == wanted, layer, f"the first {self.size} entries are not those of the checkpoint")

    def skip(self, hashes: list[str], stop: int) -> None:
        passed = {size for size in self.roots if self.size < size < stop}
        due = self.head["runs"] and not passed & self.stops and (self.before != "skip" or self.size in self.stops)
        need(hashes and due, "form", "a skip line in a whole ledger, or one that does not begin and end where it must")
        need(not passed, "held_checkpoint", "the checkpoint given lies in a part that is left out")
        for one in hashes:
            need(self.size < stop, "merkle_log", f"more hashes than lead to position {stop}")
            level = min((stop - self.size).bit_length(), (self.size & -self.size).bit_length() or 64) - 1
            self.add(level, bytes.fromhex(one))
        need(self.size == stop, "merkle_log", f"the hashes do not lead to position {stop}")

    def entry(self, **said: Any) -> None:
        run_id, seq, payloads, text = said["run_id"], said["seq"], said["payloads"], said["body"].encode()
        what, previous = f"entry {seq} of run {run_id!r}: ", bytes.fromhex(said["prev_hash"])
        need(self.head["runs"] is None or run_id in self.runs, "form", what + "its run is not in the header")
        run = self.runs.setdefault(run_id, Run(run_id, "whole"))
        digest = hashed("meshflow/entry/v1", run_id.encode(), seq, previous, text)
        need(digest.hex() == said["entry_hash"], "chain", what + "its hash is another")
        apart = seq > run.next and run.part != "whole"
        need(apart or (seq, previous) == (run.next, run.previous), "chain", what + "it does not follow the one before")
        run.gaps += [range(run.next, seq)] if seq > run.next else []
        run.next, run.previous, run.entries = seq + 1, digest, run.entries + 1
        body = read(text, f"body: {what[:-2]}")
        forms = {**BODY[""], **BODY.get(str(body.get("kind")), {})}
        sound = all(fits(body.get(name), form) for name, form in forms.items())
        need(sound and body["v"] == 1 and body["run_id"] == run_id, "body", what + "not the body of one")
        need(self.head["tenant"] in (None, body["tenant_id"]), "form", what + "it is another tenant's")
        need(self.head["payloads"] or not payloads, "form", what + "the header says that there are no payloads")
        for name, payload in payloads.items():
            committed = sha256(b"meshflow/payload/v1\0" + bytes.fromhex(payload["salt"]) + payload["data"].encode())
            need(body["commitments"].get(name) == committed.hexdigest(), "commitments", what + name)
        run.bare |= {(seq, name) for name in body["commitments"] if name not in payloads}
        kind, key = body["kind"], (body["step_id"], body["attempt"], body["kind"])
        need(key not in run.keys, "keys", what + "its attempt is there already")
        stray = (run.closed and kind not in ("erasure", "retention")) or (kind == "fork" and seq)
        need(not stray and (kind != "close" or body["count"] == seq), "places", what + "it cannot be here")
        run.keys.add(key)
        run.closed = run.closed or kind == "close"
        run.steps += [digest] if kind == "step" and not run.gaps and not run.orphan else []
        if kind == "fork":
            parent, count = Run(body["parent_run_id"], "whole"), body["parent_steps"]
            run.steps = self.runs.get(parent.name, parent).steps[:count]
            run.orphan, last = len(run.steps) < count, [parent.previous, *run.steps][-1]
            need(run.orphan or last.hex() == body["parent_entry_hash"], "forks", what + "not the step it forked")
        for place, names in body["erased"].items() if kind == "erasure" else ():
            gone = {(int(place), name) for name in names}
            need(int(place) < seq and len(gone) == len(names) > 0, "erasures", what + "of what is to come, or nothing")
            if not any(int(place) in gap for gap in run.gaps):
                need(gone <= run.bare, "erasures", what + f"what it erased of entry {place} is there")
                run.bare -= gone
        need(said["position"] == self.size, "merkle_log", what + f"position {self.size} is due")
        self.entries += 1
        self.add(0, sha256(b"\0" + digest).digest())

    def end(self, entries: int, sha256: str) -> None:
        need(sha256 == self.digest.hexdigest(), "form", "the digest of the lines is another")
        need(entries == self.entries > 0, "form", f"the end counts {entries} entries, and there are {self.entries}")
        need(self.size == self.head["size"], "merkle_log", f"the log ends at position {self.size}")
        for run in self.runs.values():
            what, alone = f"run {run.name!r}: ", self.head["tenant"] is None
            need(run.entries or (run.part == "inherited" and not alone), "form", what + "no entry of it is there")
            need(not (self.head["payloads"] and run.bare), "erasures", what + f"gone: {sorted(run.bare)[:3]}")
            need(not (run.orphan and run.part == "whole" and alone), "forks", what + "what it forks is not there")


def main() -> None:
    parser = argparse.ArgumentParser(description="Verify a bundle of evidence written by meshflow.")
    parser.add_argument("bundle", help="file to verify")
    parser.add_argument("--key", action="append", required=True, help="public key to trust, or a file of them")
    parser.add_argument("--checkpoint", action="append", default=[], help="file of a checkpoint held from outside")
    given = parser.parse_args()
    try:
        keys = [Path(key).read_text("utf-8") if Path(key).is_file() else key for key in given.key]
        bundle = Bundle(" ".join(keys).split(), [Path(one).read_bytes().decode() for one in given.checkpoint])
        with open(given.bundle, "rb") as file:
            while line := file.readline(LONGEST + 1):
                bundle.take(line)
        need(bundle.before == "end", "form", "the bundle has no end")
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    except (Wrong, UnicodeDecodeError) as error:
        sys.exit(f"DOES NOT VERIFY: {error}")
    print(f"VERIFIES: {bundle.entries} of {bundle.size} entries of log {bundle.head['origin']}")


if __name__ == "__main__":
    main()
