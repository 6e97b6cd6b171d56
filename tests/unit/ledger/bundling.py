"""Bundles as an attacker, or an insider with the signing key, would make them; and what both verifiers say of them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from forgery import Entry, Where, assert_found

from meshflow.ledger.bundle import verify_bundle
from meshflow.ledger.format.chain import commitment, entry_hash, genesis_hash
from meshflow.ledger.format.checkpoints import Checkpoint
from meshflow.ledger.format.merkle import Frontier, leaf_hash
from meshflow.ledger.format.notes import Signer

Docs = list[dict[str, Any]]
ORIGIN = "example.org/ledger"
SCRIPT = Path(__file__).parents[3] / "verifier" / "verify_bundle.py"


def _second() -> Any:
    spec = importlib.util.spec_from_file_location("verify_bundle_alone", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SECOND = _second()


class Verdict(NamedTuple):
    """Whether a bundle is valid, which layers do not hold, and what each verifier said."""

    valid: bool
    layers: frozenset[str]
    said: str
    result: dict[str, Any]
    second: str

    def assert_found(self, layer: str, where: Where) -> None:
        """A tampering is found and named by both, by the second as far as its first finding is of that layer."""
        assert_found(self.result, layer, where)
        if self.second.startswith(f"{layer}:") and isinstance(where, Entry):
            said = (f"run {where.run_id!r}", f"entry {where.seq} ", f"({where.seq}, ", f"entry {where.seq + 1} ")
            assert said[0] in self.second, self.second
            assert any(one in self.second for one in said[1:]), self.second


def judge(path: Path, keys: Sequence[str], held: Sequence[str] = ()) -> Verdict:
    """Run both verifiers, which must agree: on the verdict, and on a layer that does not hold."""
    result = verify_bundle(path, keys, held)
    layers = frozenset(finding["layer"] for finding in result["findings"])
    said = SECOND_VERDICT(path, keys, held)
    assert result["valid"] is (said == ""), (result["errors"], said)
    assert result["valid"] or said.partition(":")[0] in layers, (result["errors"], said)
    return Verdict(result["valid"], layers, f"{result['errors']} / {said}", result, said)


def _alone(path: Path, keys: Sequence[str], held: Sequence[str]) -> str:
    """Return what the second verifier finds, as its ``main`` goes about it."""
    bundle = SECOND.Bundle(list(keys), list(held))
    try:
        with open(path, "rb") as file:
            while line := file.readline(SECOND.LONGEST + 1):
                bundle.take(line)
        SECOND.need(bundle.before == "end", "form", "the bundle has no end")
    except SECOND.Wrong as error:
        return str(error)
    return ""


SECOND_VERDICT: Callable[[Path, Sequence[str], Sequence[str]], str] = _alone


def read_docs(data: bytes) -> Docs:
    return [orjson.loads(line) for line in data.splitlines()]


def dump(doc: Any) -> bytes:
    return orjson.dumps(doc, option=orjson.OPT_SORT_KEYS)


def written(docs: Iterable[Any], *, seal: bool = True) -> bytes:
    """Return a bundle's bytes; a document that is bytes already stands as it is. ``seal`` makes the end line fit."""
    docs = list(docs)
    lines = [doc if isinstance(doc, bytes) else dump(doc) + b"\n" for doc in docs]
    if seal and docs and isinstance(docs[-1], dict) and docs[-1].get("type") == "end":
        count = sum(isinstance(doc, bytes) or doc.get("type") == "entry" for doc in docs[:-1])
        digest = sha256(b"".join(lines[:-1])).hexdigest()
        lines[-1] = dump({**docs[-1], "entries": count, "sha256": digest}) + b"\n"
    return b"".join(lines)


class Forge:
    """Writes bundles with a signing key, of entries that no ledger would take."""

    def __init__(self, signer: Signer | None = None, origin: str = ORIGIN) -> None:
        self.origin = origin
        self.signer = signer or Signer.generate(origin)
        self.key = str(self.signer.verifier)
        self.entries: Docs = []
        self._heads: dict[str, tuple[int, bytes]] = {}
        self._salt = 0

    def add(self, run_id: str, body: Any = None, payloads: Any = None, *, commit: Any = None, **line: Any) -> str:
        """Append an entry whose hashes fit, and return its hash; ``line`` replaces members before that.

        ``body`` is bytes, or what differs from the body of a step; ``commit`` are payloads committed to and left out.
        """
        seq, previous = self._heads.get(run_id, (0, genesis_hash(run_id)))
        seq, previous = line.pop("seq", seq), bytes.fromhex(line.pop("prev_hash", previous.hex()))
        salted = {name: self._salted(data) for name, data in {**(payloads or {}), **(commit or {})}.items()}
        if not isinstance(body, bytes):
            body = dump(
                {
                    "v": 1, "kind": "step", "run_id": run_id, "step_id": f"s{seq}", "attempt": 1, "tenant_id": "acme",
                    "commitments": {name: commitment(bytes.fromhex(one["salt"]), one["data"].encode())
                                    for name, one in salted.items()},
                } | (body or {})
            )  # fmt: skip
        digest = entry_hash(run_id, seq, previous, body)
        self._heads[run_id] = seq + 1, digest
        self.entries.append(
            {
                "type": "entry", "run_id": run_id, "seq": seq, "prev_hash": previous.hex(), "entry_hash": digest.hex(),
                "body": body.decode(), "payloads": {name: salted[name] for name in payloads or {}},
                "position": len(self.entries),
            } | line
        )  # fmt: skip
        return digest.hex()

    def _salted(self, data: str) -> dict[str, str]:
        self._salt += 1
        return {"data": data, "salt": f"{self._salt:032x}"}

    def checkpoint(self, size: int | None = None, signer: Signer | None = None, origin: str | None = None) -> str:
        """Return a signed checkpoint over the first entries, or over all."""
        tree = Frontier()
        for entry in self.entries[:size]:
            tree.append(leaf_hash(bytes.fromhex(entry["entry_hash"])))
        return Checkpoint(origin or self.origin, tree.size, tree.root()).sign(signer or self.signer)

    def docs(self, *, runs: Any = None, payloads: bool = True, tenant: str | None = None, notes: Any = None) -> Docs:
        """Return the lines of a bundle of all entries; ``runs`` are None for the whole log, or parts by run."""
        listed = None if runs is None else [{"part": runs[one], "run_id": one} for one in sorted(runs)]
        return [
            {
                "type": "header", "format": "meshflow/bundle/v1", "origin": self.origin, "payloads": payloads,
                "runs": listed, "size": len(self.entries), "tenant": tenant, "writer": "forge",
            },
            {"type": "key", "key": self.key, "note": "", "since": 0},
            *({"type": "checkpoint", "anchors": [], "note": note} for note in notes or [self.checkpoint()]),
            *self.entries,
            {"type": "end", "entries": 0, "sha256": ""},
        ]  # fmt: skip
