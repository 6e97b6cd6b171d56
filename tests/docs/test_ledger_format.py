"""docs/reference/ledger-format.md, taken at its word: a verifier written from that page alone, and its vectors.

It reads a bundle whole, asks for the root of the tree by recursion, and takes any failure for "does not verify".
"""

from __future__ import annotations

import base64
import json
import re
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

VECTORS = json.loads((Path(__file__).parents[2] / "docs/reference/ledger-vectors.json").read_text("utf-8"))
FIELDS = ["input", "output", "metadata", "reason", "results", "principal", "request_salt", "approver"]
MEMBERS = {
    "header": "format origin size payloads tenant runs writer", "key": "key note since", "checkpoint": "note anchors",
    "entry": "position seq run_id prev_hash entry_hash body payloads", "skip": "stop hashes", "end": "entries sha256",
}  # fmt: skip


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def framed(data: bytes) -> bytes:
    return u64(len(data)) + data


def genesis(run_id: str) -> str:
    return sha256(b"meshflow/genesis/v1" + b"\0" + framed(run_id.encode())).hexdigest()


def hash_of(run_id: str, seq: int, prev: str, body: str) -> str:
    parts = framed(run_id.encode()) + u64(seq) + framed(bytes.fromhex(prev)) + framed(body.encode())
    return sha256(b"meshflow/entry/v1" + b"\0" + parts).hexdigest()


def commit(salt: str, data: str) -> str:
    return sha256(b"meshflow/payload/v1" + b"\0" + bytes.fromhex(salt) + data.encode()).hexdigest()


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    assert not isinstance(value, float)
    assert not isinstance(value, int) or abs(value) < 2**53
    assert not isinstance(value, dict) or all(ord(char) <= 0xFFFF for name in value for char in name)
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def decode(data: bytes) -> Any:
    value = json.loads(data.decode("utf-8"))
    again = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert again.encode("utf-8") == data
    assert depth(value) <= 64
    return value


def unbase64(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    assert base64.b64encode(data).decode() == text
    return data


def key_of(text: str) -> tuple[str, bytes, bytes]:
    name, hint, rest = text.split("+", 2)
    key = unbase64(rest)
    assert (key[:1], len(key)) == (b"\x01", 33)
    assert name.isprintable()
    assert " " not in name
    assert sha256(name.encode() + b"\n" + key).hexdigest()[:8] == hint
    return name, bytes.fromhex(hint), key[1:]


def vouching(note: str, keys: list[str]) -> tuple[list[str], list[str]]:
    """Return the lines of a note's text and which of the keys vouch for it."""
    assert len(note) <= 1_000_000
    cut = note.rindex("\n\n")
    text, block = note[: cut + 1], note[cut + 2 :]
    assert re.fullmatch("(\u2014 [^ +\n]+ [^ \n]+\n){1,100}", block)
    lines = [line.split(" ")[1:] for line in block.splitlines()]
    signed = {(name, unbase64(rest)[:4]): unbase64(rest)[4:] for name, rest in lines}
    assert len(signed) == len(lines)
    assert all(name.isprintable() and signature for (name, _), signature in signed.items())
    found = [key for key in keys if key_of(key)[:2] in signed]
    for key in found:
        Ed25519PublicKey.from_public_bytes(key_of(key)[2]).verify(signed[key_of(key)[:2]], text.encode())
    assert found
    return text.splitlines(), found


def tree_head(lines: list[str], origin: str) -> tuple[int, str]:
    assert all(lines)
    assert lines[0] == origin
    assert re.fullmatch("0|[1-9][0-9]{0,17}", lines[1])
    assert len(unbase64(lines[2])) == 32
    return int(lines[1]), unbase64(lines[2]).hex()


def cover(start: int, stop: int) -> list[tuple[int, int]]:
    if start >= stop:
        return []
    level = next(n for n in range(60, -1, -1) if start % 2**n == 0 and start + 2**n <= stop)
    return [(level, start >> level), *cover(start + 2**level, stop)]


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def subtree(known: dict[tuple[int, int], bytes], level: int, index: int) -> bytes:
    """Return the root of a subtree, from what the bundle gave of it or below it."""
    if (level, index) not in known:
        assert level > 0
        below = (subtree(known, level - 1, 2 * index), subtree(known, level - 1, 2 * index + 1))
        known[level, index] = node(*below)
    return known[level, index]


def root(known: dict[tuple[int, int], bytes], size: int) -> str:
    roots = [subtree(known, *place) for place in cover(0, size)]
    while len(roots) > 1:
        roots[-2:] = [node(*roots[-2:])]
    return (roots[0] if roots else sha256(b"").digest()).hex()


def number(*values: Any) -> None:
    assert all(type(value) is int and 0 <= value < 2**53 for value in values)


def verify(data: bytes, given: list[str], held: list[str]) -> None:
    """Raise something unless the bundle verifies."""
    raw = data.split(b"\n")
    assert raw.pop() == b""
    docs = [decode(line) for line in raw]
    kinds = [doc["type"] for doc in docs]
    assert re.fullmatch("header( key)+( checkpoint)+( entry| skip)+ end", " ".join(kinds))
    assert all(doc.keys() == {"type", *MEMBERS[doc["type"]].split()} for doc in docs)
    head, end = docs[0], docs[-1]
    number(head["size"], end["entries"])
    assert head["format"] == "meshflow/bundle/v1"
    assert type(head["payloads"]) is bool
    assert all(isinstance(head[name], str) for name in ("origin", "writer"))
    assert head["tenant"] is None or isinstance(head["tenant"], str)
    assert end["sha256"] == sha256(b"".join(line + b"\n" for line in raw[:-1])).hexdigest()
    heads = check_keys(head, [doc for doc in docs if doc["type"] in ("key", "checkpoint")], given, held)
    known: dict[tuple[int, int], bytes] = {}
    check_walk([doc for doc in docs if doc["type"] in ("entry", "skip")], heads, head, known)
    assert all(root(known, size) == wanted for size, wanted, _ in heads)
    check_runs([doc for doc in docs if doc["type"] == "entry"], head)
    assert end["entries"] == kinds.count("entry") > 0


def check_keys(head: Any, docs: list[Any], given: list[str], held: list[str]) -> list[tuple[int, str, bool]]:
    """Check keys, rotations and checkpoints; return size and root of each, and whether it is a stop."""
    keys: list[str] = []
    since, heads = [0], []
    for doc in (doc for doc in docs if doc["type"] == "key"):
        number(doc["since"])
        key_of(doc["key"])
        if keys:
            lines, _ = vouching(doc["note"], [keys[-1]])
            assert (lines[0], lines[4:]) == ("meshflow/rotation/v1", [keys[-1], doc["key"]])
            heads.append((*tree_head(lines[1:4], head["origin"]), True))
            assert heads[-1][0] == doc["since"] >= since[-1]
            since.append(doc["since"])
        else:
            assert (doc["note"], doc["since"]) == ("", 0)
        keys.append(doc["key"])
    first = next(place for place, key in enumerate(keys) if key in given)

    def trusted(note: str, *, stop: bool) -> bool:
        lines, signers = vouching(note, keys)
        size, wanted = tree_head(lines, head["origin"])
        places = [keys.index(key) for key in signers]
        places = [at for at in places if since[at] <= size <= [*since[1:], size][at]]
        heads.append((size, wanted, stop))
        assert places
        return max(places) >= first

    notes = [doc["note"] for doc in docs if doc["type"] == "checkpoint"]
    assert all(doc["anchors"] == sorted(set(doc["anchors"])) for doc in docs if doc["type"] == "checkpoint")
    believed = [trusted(note, stop=True) for note in notes]
    sizes = [size for size, _, _ in heads[-len(notes) :]]
    assert sorted(zip(sizes, notes, strict=True)) == list(zip(sizes, notes, strict=True))
    assert len(set(notes)) == len(notes)
    assert sizes[-1] == head["size"]
    assert any(ok for ok, size in zip(believed, sizes, strict=True) if size == head["size"])
    assert all(trusted(note, stop=False) for note in held)
    assert max(size for size, _, _ in heads) <= head["size"]
    return heads


def check_walk(docs: list[Any], heads: list[tuple[int, str, bool]], head: Any, known: dict[Any, bytes]) -> None:
    at, before = 0, ""
    stops = {size for size, _, stop in heads if stop}
    for doc in docs:
        if doc["type"] == "entry":
            number(doc["position"], doc["seq"])
            assert doc["position"] == at
            known[0, at] = sha256(b"\0" + bytes.fromhex(doc["entry_hash"])).digest()
            at += 1
        else:
            number(doc["stop"])
            assert head["runs"] is not None
            assert before != "skip" or at in stops
            assert not any(at < size < doc["stop"] for size, _, _ in heads)
            places = cover(at, doc["stop"])
            assert all(re.fullmatch("[0-9a-f]{64}", one) for one in doc["hashes"])
            assert len(places) == len(doc["hashes"]) > 0
            known.update({place: bytes.fromhex(one) for place, one in zip(places, doc["hashes"], strict=True)})
            at = doc["stop"]
        before = doc["type"]
    assert at == head["size"]


def check_runs(entries: list[Any], head: Any) -> None:
    parts = None if head["runs"] is None else {run["run_id"]: run["part"] for run in head["runs"]}
    if parts is not None:
        assert [run["run_id"] for run in head["runs"]] == sorted(parts)
        assert all(run.keys() == {"run_id", "part"} and run["run_id"] for run in head["runs"])
        assert set(parts.values()) <= {"whole", "tenant", "inherited"}
        assert parts
        assert head["tenant"] is not None or "tenant" not in parts.values()
    runs: dict[str, SimpleNamespace] = {}
    for doc in entries:
        part = "whole" if parts is None else parts[doc["run_id"]]
        fresh = SimpleNamespace(part=part, next=0, prev=genesis(doc["run_id"]), history=[], all=True, gaps=set(),
                                keys=set(), bare=set(), closed=False, gap=False)  # fmt: skip
        check_entry(doc, runs.setdefault(doc["run_id"], fresh), runs, head)
    for run_id, part in (parts or {}).items():
        assert run_id in runs or (part == "inherited" and head["tenant"] is not None)
    for run in runs.values():
        assert not (head["payloads"] and run.bare)
        assert run.all or run.part != "whole" or head["tenant"] is not None


def check_entry(doc: Any, run: Any, runs: Any, head: Any) -> None:
    seq, body = doc["seq"], decode(doc["body"].encode())
    assert hash_of(doc["run_id"], seq, doc["prev_hash"], doc["body"]) == doc["entry_hash"]
    if seq != run.next:
        assert seq > run.next
        assert run.part != "whole"
        run.gaps |= set(range(run.next, seq))
        run.gap = True
    else:
        assert doc["prev_hash"] == run.prev
    run.next, run.prev = seq + 1, doc["entry_hash"]
    kind, committed = body["kind"], body["commitments"]
    assert (type(body["v"]), body["v"], body["run_id"], type(kind)) == (int, 1, doc["run_id"], str)
    number(body["attempt"])
    assert isinstance(body["step_id"], str)
    assert isinstance(body["tenant_id"], str)
    assert all(name in FIELDS and re.fullmatch("[0-9a-f]{64}", one) for name, one in committed.items())
    assert head["tenant"] in (None, body["tenant_id"])
    assert head["payloads"] or not doc["payloads"]
    for name, one in doc["payloads"].items():
        assert one.keys() == {"salt", "data"}
        assert re.fullmatch("[0-9a-f]{32}", one["salt"])
        assert commit(one["salt"], one["data"]) == committed[name]
    run.bare |= {(seq, name) for name in committed.keys() - doc["payloads"].keys()}
    key = (body["step_id"], body["attempt"], kind)
    assert key not in run.keys
    assert not run.closed or kind in ("erasure", "retention")
    run.keys.add(key)
    if kind == "step" and run.all and not run.gap:
        run.history.append(doc["entry_hash"])
    elif kind == "close":
        number(body["count"])
        assert body["count"] == seq
        run.closed = True
    elif kind == "fork":
        number(body["parent_steps"])
        assert seq == 0
        parent = runs.get(body["parent_run_id"])
        run.history = parent.history[: body["parent_steps"]] if parent else []
        run.all = len(run.history) == body["parent_steps"]
        last = run.history[-1] if run.history else genesis(body["parent_run_id"])
        assert not run.all or last == body["parent_entry_hash"]
        assert isinstance(body["parent_entry_hash"], str)
    elif kind == "erasure":
        assert isinstance(body["reason"], str)
        assert isinstance(body["authority"], str)
        for text, names in body["erased"].items():
            assert re.fullmatch("0|[1-9][0-9]*", text)
            assert int(text) < seq
            assert len(set(names)) == len(names) > 0
            assert set(names) <= set(FIELDS)
            gone = {(int(text), name) for name in names}
            assert int(text) in run.gaps or gone <= run.bare
            run.bare -= gone


def holds(check: Any, *arguments: Any) -> bool:
    try:
        check(*arguments)
    except Exception:  # whatever fails, fails
        return False
    return True


@pytest.mark.parametrize("bundle", VECTORS["bundles"], ids=lambda bundle: bundle["name"])
def test_bundles(bundle: Any) -> None:
    lines = base64.b64decode(bundle["lines"])
    assert holds(verify, lines, bundle["keys"], bundle["checkpoints"]) is bundle["valid"]


def test_hashes_trees_keys_and_notes() -> None:
    for one in VECTORS["canonical"]:
        assert holds(decode, base64.b64decode(one["base64"])) is one["canonical"], one
    assert all(genesis(one["run_id"]) == one["hash"] for one in VECTORS["genesis"])
    assert all(commit(one["salt"], one["data"]) == one["commitment"] for one in VECTORS["commitments"])
    for one in VECTORS["entries"]:
        assert hash_of(one["run_id"], one["seq"], one["prev_hash"], one["body"]) == one["hash"]
    for one in VECTORS["trees"]:
        data = [sha256(str(place).encode()).digest() for place in range(one["count"])]
        leaves = {(0, place): sha256(b"\0" + item).digest() for place, item in enumerate(data)}
        assert root(leaves, one["count"]) == one["root"]
    for one in VECTORS["covers"]:
        assert [list(place) for place in cover(one["start"], one["stop"])] == one["subtrees"]
    for one in VECTORS["keys"]:
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(one["seed"]))
        assert key_of(one["key"])[::2] == (one["name"], private.public_key().public_bytes_raw())
    for one in VECTORS["notes"]:
        assert holds(vouching, one["note"], one["keys"]) is one["vouches"], one
