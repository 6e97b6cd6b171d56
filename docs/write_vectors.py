"""Write docs/reference/ledger-vectors.json, the test vectors of the ledger's format: python docs/write_vectors.py"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "unit" / "ledger"))

from bundling import ORIGIN, Docs, Forge, written  # noqa: E402
from deeds import BODIES, DEEDS, honest, skipping  # noqa: E402

from meshflow.ledger.bundle.walk import cover  # noqa: E402
from meshflow.ledger.format.chain import commitment, entry_hash, genesis_hash  # noqa: E402
from meshflow.ledger.format.checkpoints import Checkpoint, rotation_text  # noqa: E402
from meshflow.ledger.format.merkle import Frontier, leaf_hash  # noqa: E402
from meshflow.ledger.format.notes import ED25519, Signer, key_id, sign_note  # noqa: E402

FILE = ROOT / "docs" / "reference" / "ledger-vectors.json"
ACCEPTED = (
    b"null", b"true", b"0", b"-1", b"9007199254740991", b'""', b'"\\u0000\\b\\t\\n\\f\\r\\u001f\\"\\\\/"', b'"\x7f"',
    '"\u20ac \U0001f600 \u2028 e\u0301"'.encode(), b"[]", b"{}", b'[1,"a",null,{"":0}]', b'{"A":1,"a":2,"b":[]}',
    '{"\u20ac":1,"\uffff":2}'.encode(), b"[" * 64 + b"]" * 64,
)  # fmt: skip
REFUSED = (
    b"", b" null", b"null\n", b"1.0", b"0.5", b"1e3", b"-0", b"01", b"+1", b"9007199254740992", b"-9007199254740992",
    b"NaN", b"Infinity", b"'a'", b'"\\u0041"', b'"\\u001F"', b'"\\/"', b'"\\u2028"', b'"\n"', b'"\\ud800"', b'"\xff"',
    b"[1, 2]", b"[1,]", b'{"a":1,"a":1}', b'{"a":1,"a":2}', b'{"b":1,"a":2}', '{"\U0001f600":1}'.encode(),
    b"\xef\xbb\xbf1", b"[" * 65 + b"]" * 65, b'"a', b"[1][2]",
)  # fmt: skip


def signer(number: int, name: str = ORIGIN) -> tuple[bytes, Signer]:
    """Return a seed that is no secret, and the key that it makes."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    seed = sha256(b"vector %d" % number).digest()
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    id_ = key_id(name, ED25519 + public).hex()
    return seed, Signer.parse(f"PRIVATE+KEY+{name}+{id_}+{base64.b64encode(ED25519 + seed).decode()}")


def root(count: int) -> bytes:
    """Return the root over the first leaves of the page."""
    tree = Frontier()
    for number in range(count):
        tree.append(leaf_hash(sha256(str(number).encode()).digest()))
    return tree.root()


def notes() -> Iterator[dict[str, Any]]:
    """Yield notes that a key vouches for, and such as none does."""
    one, other = signer(1)[1], signer(2)[1]
    text = Checkpoint(ORIGIN, 3, root(3)).text()
    good, key, stranger = sign_note(text, one), str(one.verifier), str(other.verifier)
    body, _, line = good.partition("\n\n")
    for note, keys, vouches in (
        (good, [key], True), (sign_note(text, one, other), [key], True), (sign_note(text, other, one), [key], True),
        (good, [stranger, key], True), (sign_note("a\n\nb\n", one), [key], True),
        (good, [stranger], False), (good, [], False), (good.replace("\n3\n", "\n4\n"), [key], False),
        (good + line, [key], False), (good + "\n", [key], False), (good[:-1], [key], False),
        (good.replace("\u2014", "-"), [key], False), (good.replace("\u2014 ", "\u2014  "), [key], False),
        (body + "\n", [key], False), (good.replace("\n\n", "\n\n\n"), [key], False),
    ):  # fmt: skip
        yield {"note": note, "keys": keys, "vouches": vouches}


def bundles() -> Iterator[tuple[str, Docs, list[str], list[str], str]]:
    """Yield name, lines, keys, checkpoints from outside, and the layer that does not hold, if one does not."""
    key = signer(1)[1]

    def forge() -> Forge:
        made = Forge(key)
        honest(made)
        return made

    good, keys = forge(), [str(key.verifier)]
    yield "a whole ledger", good.docs(), keys, [], ""
    yield "a checkpoint from outside", good.docs(), keys, [good.checkpoint(2)], ""
    yield "several runs", good.docs(runs={"r": "whole", "f": "inherited", "g": "whole"}), keys, [], ""
    yield "a part of a run", part(key), keys, [], ""
    yield "another key", good.docs(), [str(signer(2)[1].verifier)], [], "signers"
    other = Forge(key)
    other.add("q")
    yield "a checkpoint of another history", good.docs(), keys, [other.checkpoint()], "held_checkpoint"
    yield "no end", good.docs()[:-1], keys, [], "form"
    yield "another ledger's origin", [{**good.docs()[0], "origin": "x"}, *good.docs()[1:]], keys, [], "checkpoint"
    yield from with_skips(good, keys)
    yield from with_rotation(good, keys)
    for name, body in BODIES.items():
        forged = Forge(key)
        forged.add("r", body)
        if len(body) < 10_000:
            yield f"a body: {name}", forged.docs(), keys, [], "body"
    for deed, (layer, _) in DEEDS.items():
        forged = Forge(key)
        deed(forged)
        yield f"a deed: {deed.__name__.replace('_', ' ')}", forged.docs(), keys, [], layer


def part(key: Signer) -> Docs:
    """Return a bundle of a run with a gap."""
    forged = Forge(key)
    skipping(forged)
    return forged.docs(runs={"r": "inherited"})


def with_skips(good: Forge, keys: list[str]) -> Iterator[tuple[str, Docs, list[str], list[str], str]]:
    """Yield bundles of one run, with what lies between left out."""
    docs = good.docs(runs={"r": "whole"}, notes=[good.checkpoint(5), good.checkpoint()])
    leaves = [leaf_hash(bytes.fromhex(entry["entry_hash"])) for entry in good.entries]

    def skip(start: int, stop: int) -> dict[str, Any]:
        hashes = []
        for level, index in cover(start, stop):
            tree = Frontier()
            for leaf in leaves[index << level : (index + 1) << level]:
                tree.append(leaf)
            hashes.append(tree.root().hex())
        return {"type": "skip", "hashes": hashes, "stop": stop}

    front, mine, end = docs[:4], [entry for entry in good.entries if entry["run_id"] == "r"], docs[-1]
    honest_lines = [*front, *mine[:3], skip(3, 5), skip(5, 6), *mine[3:], end]
    yield "entries left out", honest_lines, keys, [], ""
    yield "entries left out, to the checkpoint", honest_lines, keys, [good.checkpoint(5)], ""
    yield "what is left out cannot be compared", honest_lines, keys, [good.checkpoint(4)], "held_checkpoint"
    yield "a skip over a checkpoint", [*front, *mine[:3], skip(3, 6), *mine[3:], end], keys, [], "form"
    strange = skip(4, 5) | {"stop": 6}
    yield "a skip of others", [*front, *mine[:3], skip(3, 5), strange, *mine[3:], end], keys, [], "merkle_log"
    yield "a skip back", [*front, *mine[:3], skip(3, 5), skip(0, 1), skip(5, 6), *mine[3:], end], keys, [], "merkle_log"


def with_rotation(good: Forge, keys: list[str]) -> Iterator[tuple[str, Docs, list[str], list[str], str]]:
    """Yield bundles in which a second key takes over at size 3."""
    new = signer(3, "example.org/new")[1]
    tree = Checkpoint.parse("\n".join(good.checkpoint(3).split("\n")[:3]) + "\n")
    for name, by, layer in (("a rotation", good.signer, ""), ("a rotation by the new key", new, "signers")):
        note = sign_note(rotation_text(tree, good.signer.verifier, new.verifier), by)
        line = {"type": "key", "key": str(new.verifier), "note": note, "since": 3}
        docs = good.docs(notes=[good.checkpoint(3), good.checkpoint(signer=new)])
        yield name, [*docs[:2], line, *docs[2:]], keys, [], layer
        if not layer:
            yield "a rotation, the new key given", [*docs[:2], line, *docs[2:]], [str(new.verifier)], [], ""
            late = good.docs(notes=[good.checkpoint()])
            yield "the old key after its time", [*late[:2], line, *late[2:]], keys, [], "checkpoint"


def vectors() -> dict[str, Any]:
    """Return all of them."""
    chain, previous = [], genesis_hash("run-1")
    for seq, body in enumerate((b"{}", '{"a":"\u20ac"}'.encode(), b"")):
        digest = entry_hash("run-1", seq, previous, body)
        chain.append(
            {"run_id": "run-1", "seq": seq, "prev_hash": previous.hex(), "body": body.decode(), "hash": digest.hex()}
        )
        previous = digest
    salts = [bytes(16), bytes(range(16)), b"\xff" * 16]
    return {
        "format": "meshflow/ledger-vectors/v1",
        "canonical": [
            {"base64": base64.b64encode(data).decode(), "canonical": data in ACCEPTED} for data in ACCEPTED + REFUSED
        ],
        "genesis": [
            {"run_id": name, "hash": genesis_hash(name).hex()} for name in ("r", "run-1", "caf\u00e9", "\U0001f600")
        ],
        "entries": chain,
        "commitments": [
            {"salt": salt.hex(), "data": data, "commitment": commitment(salt, data.encode())}
            for salt, data in zip(salts, ('"x"', "", '{"price": 19.99}'), strict=True)
        ],
        "trees": [{"count": count, "root": root(count).hex()} for count in (*range(10), 15, 16, 17, 255, 256, 257)],
        "covers": [
            {"start": start, "stop": stop, "subtrees": cover(start, stop)}
            for start, stop in ((0, 1), (0, 7), (0, 8), (1, 2), (1, 8), (3, 12), (6, 7), (7, 9), (8, 1_000_003))
        ],
        "keys": [
            {"name": name, "seed": signer(number, name)[0].hex(), "key": str(signer(number, name)[1].verifier)}
            for number, name in ((1, ORIGIN), (2, ORIGIN), (3, "example.org/new"))
        ],
        "notes": list(notes()),
        "bundles": [
            {
                "name": name, "keys": keys, "checkpoints": held, "valid": not layer, "layer": layer or None,
                "lines": base64.b64encode(written(docs)).decode(),
            }
            for name, docs, keys, held, layer in bundles()
        ],
    }  # fmt: skip


def text() -> str:
    """Return the file."""
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
