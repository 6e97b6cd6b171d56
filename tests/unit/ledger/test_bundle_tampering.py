"""What the ledger's attacks come to in a bundle: found by both verifiers, at the layer of the table, and named."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundling import Docs, Forge, judge, read_docs, written
from forgery import Entry, Where

from meshflow.ledger.format.chain import entry_hash, genesis_hash
from meshflow.ledger.format.notes import Signer

Tamper = Callable[[Docs], None]
SIGNER = Signer.generate("example.org/ledger")
THIEF = Signer.generate("example.org/ledger")


def at(seq: int, step_id: str | None = "", run_id: str = "main") -> Entry:
    return Entry(run_id, seq, f"s{seq}" if step_id == "" else step_id)


def find(docs: Docs, seq: int, run_id: str = "main") -> dict[str, Any]:
    return next(doc for doc in docs if doc["type"] == "entry" and (doc["run_id"], doc["seq"]) == (run_id, seq))


def edit(seq: int, name: str, old: str, new: str) -> Tamper:
    def tamper(docs: Docs) -> None:
        doc = find(docs, seq)
        changed = re.sub(old, new, doc[name], count=1)
        assert changed != doc[name]
        doc[name] = changed

    return tamper


def put(seq: int, /, **members: Any) -> Tamper:
    return lambda docs: find(docs, seq).update(members)


def payload(seq: int, /, **members: str) -> Tamper:
    return lambda docs: find(docs, seq)["payloads"]["input"].update(members)


def lose_a_payload(docs: Docs) -> None:
    del find(docs, 3)["payloads"]["input"]


def swap_payloads(docs: Docs) -> None:
    one, other = find(docs, 3), find(docs, 4)
    one["payloads"], other["payloads"] = other["payloads"], one["payloads"]


def invent_a_payload(docs: Docs) -> None:
    find(docs, 3)["payloads"]["reason"] = {"data": "1", "salt": "0" * 32}


def restore_an_erased_payload(docs: Docs) -> None:
    find(docs, 1)["payloads"]["input"] = {"data": '"q1"', "salt": f"{2:032x}"}


def drop(*places: tuple[str, int], renumber: bool = False) -> Tamper:
    def tamper(docs: Docs) -> None:
        docs[:] = [doc for doc in docs if doc["type"] != "entry" or (doc["run_id"], doc["seq"]) not in places]
        if renumber:
            for position, doc in enumerate(doc for doc in docs if doc["type"] == "entry"):
                doc["position"] = position

    return tamper


def drop_a_run(docs: Docs) -> None:
    docs[:] = [doc for doc in docs if doc.get("run_id") != "other"]


def swap_entries(docs: Docs) -> None:
    places = [docs.index(find(docs, seq)) for seq in (2, 3)]
    docs[places[0]], docs[places[1]] = docs[places[1]], docs[places[0]]


def splice(docs: Docs) -> None:
    alien = copy.deepcopy(find(docs, 1, "other"))
    mine = find(docs, 3)
    docs[docs.index(mine)] = alien | {"run_id": "main", "seq": 3, "position": mine["position"]}


def relabel(docs: Docs) -> None:
    for doc in docs:
        if doc.get("run_id") == "other":
            doc["run_id"] = "mine"


def duplicate(docs: Docs) -> None:
    place = docs.index(find(docs, 3))
    docs.insert(place + 1, copy.deepcopy(docs[place]))


def relink(docs: Docs, run_id: str = "main") -> None:
    previous = genesis_hash(run_id)
    for doc in docs:
        if doc.get("run_id") == run_id:
            doc["prev_hash"] = previous.hex()
            previous = entry_hash(run_id, doc["seq"], previous, doc["body"].encode())
            doc["entry_hash"] = previous.hex()


def rewrite(docs: Docs) -> None:
    edit(3, "body", '"attempt":1', '"attempt":2')(docs)
    relink(docs)


def invent_a_run(docs: Docs) -> None:
    forge = Forge(SIGNER)
    forge.add("ghost")
    docs.insert(-1, forge.entries[0] | {"position": len(docs) - 4})


def checkpoint(change: Callable[[str], str]) -> Tamper:
    def tamper(docs: Docs) -> None:
        for doc in docs:
            if doc["type"] == "checkpoint":
                doc["note"] = change(doc["note"])

    return tamper


def sign_again(signer: Signer) -> Tamper:
    def tamper(docs: Docs) -> None:
        rewrite(docs)
        forge = Forge(signer)
        forge.entries = [doc for doc in docs if doc["type"] == "entry"]
        checkpoint(lambda note: forge.checkpoint())(docs)

    return tamper


ATTACKS: dict[str, tuple[Tamper, str, Where]] = {
    # Each field of an entry, and what it is made of.
    "edit a body": (edit(3, "body", '"attempt":1', '"attempt":2'), "chain", at(3)),
    "respell a body": (edit(3, "body", '"attempt":1', '"attempt":1.0'), "body", at(3, None)),
    "body of another entry": (
        lambda docs: find(docs, 3).update(body=find(docs, 4)["body"]), "chain", at(3, "s4"),
    ),
    "edit prev_hash": (put(3, prev_hash="00" * 32), "chain", at(3)),
    "edit entry_hash": (put(3, entry_hash="00" * 32), "chain", at(3)),
    "edit seq": (put(3, seq=77), "chain", at(77, "s3")),
    "edit position": (put(3, position=77), "merkle_log", at(3)),
    # Rows taken out, put in, moved.
    "drop a middle entry": (drop(("main", 3)), "chain", at(3, None)),
    "drop and renumber": (drop(("main", 3), renumber=True), "chain", at(3, None)),
    "reorder": (swap_entries, "chain", at(2, None)),
    "duplicate": (duplicate, "chain", at(3)),
    "splice": (splice, "body", at(3, "s1")),
    "relabel": (relabel, "body", Entry("mine", 0, "s0")),
    "cut the tail": (drop(("main", 7)), "merkle_log", "the log ends at position 12, and the header claims 13"),
    "delete a run": (drop_a_run, "merkle_log", at(1)),
    "invent a run": (invent_a_run, "merkle_log", "the log ends at position 14, and the header claims 13"),
    # Histories written anew, without the key, with another and with the right one.
    "rewrite and relink": (rewrite, "merkle_log", "the first 13 entries do not lead to the root"),
    "edit a checkpoint": (
        checkpoint(lambda note: note.replace("\n13\n", "\n12\n")), "checkpoint", "at size 12",
    ),
    "another key signs it": (sign_again(THIEF), "checkpoint", "at size 13"),
    "the stolen key signs it": (sign_again(SIGNER), "held_checkpoint", "the first 13 entries"),
    # Payloads.
    "edit a payload": (payload(3, data='"forged"'), "commitments", at(3)),
    "respell a payload": (payload(3, data='"q3" '), "commitments", at(3)),
    "edit a salt": (payload(3, salt="00" * 16), "commitments", at(3)),
    "erase silently": (lose_a_payload, "erasures", at(3, None)),
    "swap payloads": (swap_payloads, "commitments", at(3)),
    "invent a payload": (invent_a_payload, "commitments", at(3)),
    "put an erased payload back": (restore_an_erased_payload, "erasures", at(6, "e0")),
    "drop the tombstone": (drop(("main", 6)), "erasures", at(1, None)),
}  # fmt: skip


def written_ledger() -> Forge:
    """Two runs side by side, of which one forgot a payload, was closed and was forked."""
    forge = Forge(SIGNER)
    for number in range(6):
        kept = {"payloads": {"input": f'"q{number}"'}} if number != 1 else {"commit": {"input": '"q1"'}}
        forge.add("main", **kept)
        if number < 5:
            forge.add("other", payloads={"input": f'"q{number}"'})
    forge.add("main", {"kind": "erasure", "step_id": "e0", "attempt": 0, "erased": {"1": ["input"]}, "reason": "r",
                       "authority": "a"})  # fmt: skip
    forge.add("main", {"kind": "close", "step_id": "", "attempt": 0, "count": 7})
    return forge


@pytest.fixture(scope="module")
def honest() -> tuple[bytes, str]:
    forge = written_ledger()
    return written(forge.docs()), forge.checkpoint()


def test_the_bundle_under_attack_is_valid_before(honest: tuple[bytes, str], tmp_path: Path) -> None:
    path = tmp_path / "bundle.jsonl"
    path.write_bytes(honest[0])
    assert judge(path, [str(SIGNER.verifier)], [honest[1]]).valid


@pytest.mark.parametrize("name", ATTACKS)
def test_a_tampering_is_found_at_its_layer_and_named(name: str, honest: tuple[bytes, str], tmp_path: Path) -> None:
    tamper, layer, where = ATTACKS[name]
    docs = read_docs(honest[0])
    tamper(docs)
    path = tmp_path / "bundle.jsonl"
    path.write_bytes(written(docs))
    judge(path, [str(SIGNER.verifier)], [honest[1]]).assert_found(layer, where)
