"""The test vectors of docs/reference: written by their script, and true of the package and of the second verifier."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from bundling import SECOND, judge

from meshflow.errors import EncodingError
from meshflow.ledger.bundle.trust import written_once
from meshflow.ledger.bundle.verify import BUNDLE_LAYERS
from meshflow.ledger.bundle.walk import cover
from meshflow.ledger.format.canonical import canonical_bytes
from meshflow.ledger.format.chain import commitment, entry_hash, genesis_hash
from meshflow.ledger.format.entry import FIELDS, KINDS, UNBOUND
from meshflow.ledger.format.notes import NoteError, Verifier, open_note

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "reference" / "ledger-format.md").read_text("utf-8")
VECTORS = json.loads((DOCS / "reference" / "ledger-vectors.json").read_text("utf-8"))


def test_the_file_is_the_one_that_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("write_vectors", DOCS / "write_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.text() == script.FILE.read_text("utf-8"), "run python docs/write_vectors.py"


def test_kinds_fields_and_layers_are_the_same_everywhere() -> None:
    assert {kind for kind in KINDS if f"`{kind}`" not in PAGE} == set()
    assert SECOND.FIELD.split("|") == list(FIELDS)
    assert re.sub(r"\d ", "", re.search(r"^0 input.*$", PAGE, re.MULTILINE)[0]).split() == list(FIELDS)  # type: ignore[index]
    assert f"nothing but {' and '.join(f'`{kind}`' for kind in sorted(UNBOUND))} follows" in PAGE
    told = {
        layer for row in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ", PAGE, re.MULTILINE) for layer in row.split(", ")
    }
    assert {f"`{layer}`" for layer in BUNDLE_LAYERS} <= told


@pytest.mark.parametrize("bundle", VECTORS["bundles"], ids=lambda bundle: bundle["name"])
def test_bundles(bundle: Any, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(base64.b64decode(bundle["lines"]))
    verdict = judge(tmp_path / "b", bundle["keys"], bundle["checkpoints"])
    assert verdict.valid is bundle["valid"]
    assert bundle["valid"] or bundle["layer"] in verdict.layers, verdict.said


def _is_canonical(data: bytes) -> bool:
    try:
        return canonical_bytes(json.loads(data)) == data
    except (EncodingError, ValueError, RecursionError):
        return False


def _vouches(note: str, keys: list[str]) -> bool:
    try:
        return bool(open_note(written_once(note), map(Verifier.parse, keys))[1])
    except NoteError:
        return False


def _vouches_alone(note: str, keys: list[str]) -> bool:
    try:
        return bool(SECOND.open_note(note, keys, "")[1])
    except SECOND.Wrong:
        return False


def test_canonical_bytes() -> None:
    for one in VECTORS["canonical"]:
        data = base64.b64decode(one["base64"])
        assert _is_canonical(data) is one["canonical"], data
        wrapped = b'{"a":' + data + b"}"
        try:
            alone = SECOND.read(wrapped, "") is not None
        except SECOND.Wrong:
            alone = False
        deepest = data.startswith(b"[" * 64)
        assert alone is (one["canonical"] and not deepest), data


def test_hashes() -> None:
    for one in VECTORS["genesis"]:
        assert genesis_hash(one["run_id"]).hex() == one["hash"]
        assert SECOND.hashed("meshflow/genesis/v1", one["run_id"].encode()).hex() == one["hash"]
    for one in VECTORS["entries"]:
        name, previous, body = one["run_id"].encode(), bytes.fromhex(one["prev_hash"]), one["body"].encode()
        assert entry_hash(one["run_id"], one["seq"], previous, body).hex() == one["hash"]
        assert SECOND.hashed("meshflow/entry/v1", name, one["seq"], previous, body).hex() == one["hash"]
    for one in VECTORS["commitments"]:
        assert commitment(bytes.fromhex(one["salt"]), one["data"].encode()) == one["commitment"]
    for one in VECTORS["covers"]:
        assert [list(place) for place in cover(one["start"], one["stop"])] == one["subtrees"]


def test_keys_and_notes() -> None:
    for one in VECTORS["keys"]:
        assert str(Verifier.parse(one["key"])) == one["key"]
        assert SECOND.open_key(one["key"])[0][0] == one["name"]
    for one in VECTORS["notes"]:
        assert _vouches(one["note"], one["keys"]) is one["vouches"], one
        assert _vouches_alone(one["note"], one["keys"]) is one["vouches"], one
