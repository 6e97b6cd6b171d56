"""What somebody with the signing key might put into a ledger, and the layer at which a verifier finds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bundling import Forge, dump
from forgery import Entry, Run, Where

from meshflow.ledger.format.chain import genesis_hash

LIFE = {"step_id": "", "attempt": 0}


def close(count: int) -> dict[str, Any]:
    return {"kind": "close", **LIFE, "count": count}


def erasure(number: int = 0, **erased: list[str]) -> dict[str, Any]:
    names = {seq.removeprefix("s"): fields for seq, fields in erased.items()}
    return {"kind": "erasure", "step_id": f"e{number}", "attempt": 0, "erased": names, "reason": "r", "authority": "a"}


def fork(parent: str, steps: int, digest: str) -> dict[str, Any]:
    return {"kind": "fork", **LIFE, "parent_run_id": parent, "parent_steps": steps, "parent_entry_hash": digest}


def body(**changes: Any) -> bytes:
    whole = {
        "v": 1,
        "kind": "step",
        "run_id": "r",
        "step_id": "s",
        "attempt": 1,
        "tenant_id": "acme",
        "commitments": {},
    }
    return dump(whole | changes)


def honest(forge: Forge) -> None:
    """Add entries of many kinds that are as they must be, in the runs r, f and g."""
    digests = [forge.add("r", payloads={"input": '"x"'}, commit={"output": "1"}) for _ in range(3)]
    forge.add("f", fork("r", 2, digests[1]))
    forge.add("f")
    forge.add("g", fork("nobody", 0, genesis_hash("nobody").hex()))
    forge.add("r", erasure(0, s0=["output"], s1=["output"]))
    forge.add("r", close(4))
    forge.add("r", erasure(1, s2=["output"]))
    forge.add("r", {"kind": "retention", **LIFE})


BODIES: dict[str, bytes] = {
    "a fraction": body(tokens=0.5),
    "a fraction that is whole": body(tokens=1).replace(b'"tokens":1', b'"tokens":1.0'),
    "not a number": body(tokens=1).replace(b'"tokens":1', b'"tokens":NaN'),
    "a number too large": body(tokens=2**53),
    "a number too small": body(tokens=-(2**53)),
    "a number of many digits": body(tokens=1).replace(b'"tokens":1', b'"tokens":1' + b"0" * 5_000),
    "minus nothing": body(tokens=0).replace(b'"tokens":0', b'"tokens":-0'),
    "a space": body().replace(b'":', b'": ', 1),
    "a member twice": body().replace(b'{"attempt":1', b'{"attempt":1,"attempt":1'),
    "an escape": body().replace(b'"step"', b'"\\u0073tep"'),
    "members out of order": body().replace(b'{"attempt":1,', b"{").replace(b'"v":1', b'"v":1,"attempt":1'),
    "a key beyond the plane": body(**{"\U0001f600": 1}),
    "half a character": body(tool="x").replace(b'"tool":"x"', b'"tool":"\\ud800"'),
    "a line separator escaped": body(tool="x").replace(b'"tool":"x"', b'"tool":"\\u2028"'),
    "too deep": body(tool="x").replace(b'"x"', b"[" * 64 + b"]" * 64),
    "far too deep": body(tool="x").replace(b'"x"', b"[" * 50_000 + b"]" * 50_000),
    "no object": b"[]",
    "nothing": b"",
    "text behind": body() + b" ",
    "another run": body(run_id="q"),
    "no run": body(run_id=7),
    "another version": body(v=2),
    "a version that is true": body().replace(b'"v":1', b'"v":true'),
    "a kind that is none": body(kind=["step"]),
    "no attempt": body(attempt=None),
    "an attempt below zero": body(attempt=-1),
    "an attempt that is true": body(attempt=True),
    "no tenant": body(tenant_id=None),
    "no step": body(step_id=3),
    "commitments that are none": body(commitments=[]),
    "a commitment in capitals": body(commitments={"input": "A" * 64}),
    "a commitment to an unknown field": body(commitments={"secret": "a" * 64}),
    "a close that counts in words": body(kind="close", count="0"),
    "a close without a count": body(kind="close"),
    "a tombstone without a reason": body(kind="erasure", erased={}, authority="a"),
    "a tombstone over a list": body(kind="erasure", erased=[], reason="r", authority="a"),
    "a tombstone over a name": body(kind="erasure", erased={"x": ["input"]}, reason="r", authority="a"),
    "a tombstone over an unknown field": body(kind="erasure", erased={"0": ["x"]}, reason="r", authority="a"),
    "a fork of nobody": body(kind="fork", parent_steps=0, parent_entry_hash=""),
}  # fmt: skip


def twice(forge: Forge) -> None:
    forge.add("r", {"step_id": "a"})
    forge.add("r", {"step_id": "a"})


def after_the_close(forge: Forge) -> None:
    forge.add("r")
    forge.add("r", close(1))
    forge.add("r")


def closed_twice(forge: Forge) -> None:
    forge.add("r", close(0))
    forge.add("r", close(1) | {"attempt": 1})


def counts_wrong(forge: Forge) -> None:
    forge.add("r")
    forge.add("r", close(2))


def late_fork(forge: Forge) -> None:
    forge.add("r")
    forge.add("r", fork("p", 0, genesis_hash("p").hex()))


def gone(forge: Forge) -> None:
    forge.add("r", commit={"input": "1"})


def erased_and_there(forge: Forge) -> None:
    forge.add("r", payloads={"input": "1"})
    forge.add("r", erasure(0, s0=["input"]))


def erased_twice(forge: Forge) -> None:
    forge.add("r", commit={"input": "1"})
    forge.add("r", erasure(0, s0=["input"]))
    forge.add("r", erasure(1, s0=["input"]))


def erased_before(forge: Forge) -> None:
    forge.add("r", erasure(0, s1=["input"]))
    forge.add("r", commit={"input": "1"})


def erased_itself(forge: Forge) -> None:
    forge.add("r", erasure(0, s0=["input"]))


def erased_in_another_run(forge: Forge) -> None:
    forge.add("q", commit={"input": "1"})
    forge.add("r")
    forge.add("r", erasure(0, s0=["input"]))


def erased_nothing(forge: Forge) -> None:
    forge.add("r")
    forge.add("r", erasure(0, s0=[]))


def erased_a_field_twice(forge: Forge) -> None:
    forge.add("r", commit={"input": "1"})
    forge.add("r", erasure(0, s0=["input", "input"]))


def skipping(forge: Forge) -> None:
    forge.add("r")
    forge.add("r", seq=2)


def backwards(forge: Forge) -> None:
    forge.add("r")
    forge.add("r", seq=0)


def unlinked(forge: Forge) -> None:
    forge.add("r")
    forge.add("r", prev_hash="a" * 64)


def of_another_genesis(forge: Forge) -> None:
    forge.add("r", prev_hash=genesis_hash("q").hex())


def fork_of_another_step(forge: Forge) -> None:
    first = forge.add("p")
    forge.add("p")
    forge.add("r", fork("p", 2, first))


def fork_of_another_genesis(forge: Forge) -> None:
    forge.add("r", fork("p", 0, genesis_hash("q").hex()))


def fork_of_what_is_not_there(forge: Forge) -> None:
    digest = forge.add("p")
    forge.add("r", fork("p", 2, digest))


def fork_of_nobody(forge: Forge) -> None:
    forge.add("r", fork("p", 1, "a" * 64))


def fork_of_itself(forge: Forge) -> None:
    forge.add("r", fork("r", 1, "a" * 64))


def fork_before_its_parent(forge: Forge) -> None:
    other = Forge()
    digest = other.add("p")
    forge.add("r", fork("p", 1, digest))
    forge.add("p")


def payload_of_another_entry(forge: Forge) -> None:
    forge.add("r", payloads={"input": "1"})
    forge.add("r", payloads={"input": "2"})
    forge.entries[0]["payloads"], forge.entries[1]["payloads"] = (
        forge.entries[1]["payloads"], forge.entries[0]["payloads"],
    )  # fmt: skip


def payload_of_another_field(forge: Forge) -> None:
    forge.add("r", payloads={"input": "1", "output": "1"})
    there = forge.entries[0]["payloads"]
    there["input"], there["output"] = there["output"], there["input"]


def payload_without_commitment(forge: Forge) -> None:
    forge.add("r")
    forge.entries[0]["payloads"]["input"] = {"data": "1", "salt": "0" * 32}


def at(seq: int, step_id: str | None = "s") -> Entry:
    """Where a deed is found: an entry of the run r, by default of a step."""
    return Entry("r", seq, f"s{seq}" if step_id == "s" else step_id)


DEEDS: dict[Callable[[Forge], None], tuple[str, Where]] = {
    twice: ("keys", at(1, "a")),
    after_the_close: ("places", at(2)),
    closed_twice: ("places", at(1, "")),
    counts_wrong: ("places", at(1, "")),
    late_fork: ("places", at(1, "")),
    gone: ("erasures", at(0, None)),
    erased_and_there: ("erasures", at(1, "e0")),
    erased_twice: ("erasures", at(2, "e1")),
    erased_before: ("erasures", at(0, "e0")),
    erased_itself: ("erasures", at(0, "e0")),
    erased_in_another_run: ("erasures", at(1, "e0")),
    erased_nothing: ("erasures", at(1, "e0")),
    erased_a_field_twice: ("erasures", at(1, "e0")),
    skipping: ("chain", at(1, None)),
    backwards: ("chain", at(0)),
    unlinked: ("chain", at(1)),
    of_another_genesis: ("chain", at(0)),
    fork_of_another_step: ("forks", at(0, "")),
    fork_of_another_genesis: ("forks", at(0, "")),
    fork_of_what_is_not_there: ("forks", Run("r")),
    fork_of_nobody: ("forks", Run("r")),
    fork_of_itself: ("forks", Run("r")),
    fork_before_its_parent: ("forks", Run("r")),
    payload_of_another_entry: ("commitments", at(0)),
    payload_of_another_field: ("commitments", at(0)),
    payload_without_commitment: ("commitments", at(0)),
}
