"""ML-DSA-44 beside Ed25519 under every checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from forgery import Forger
from witnesses import anchor_at, witness

from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.ledger.format.checkpoints import check_inclusion, read_checkpoint
from meshflow.ledger.format.cosignatures import ML_DSA_44, Cosigner, CosigningKey
from meshflow.ledger.format.notes import NoteError, split_note


async def write(ledger: ReplayLedger, count: int = 1) -> None:
    for _ in range(count):
        await ledger.write({"run_id": "run-1", "node_id": "n"})


async def test_each_checkpoint_bears_both_signatures_and_others_read_it(path: Path) -> None:
    async with ReplayLedger(path, ml_dsa_44=True) as ledger:
        await write(ledger, 3)
        note = await ledger.checkpoint()
        text, signatures = split_note(note)
        assert [(name, len(signature)) for name, _, signature in signatures] == [
            (read_checkpoint(note).origin, 64), (read_checkpoint(note).origin, 8 + 2_420),
        ]  # fmt: skip
        assert signatures[1][2][:8] == bytes(8)
        second = await ledger.companion_verifier()
        assert second is not None
        assert Cosigner.parse(second).verifies(text.encode(), signatures[1][2])
        keys = [*await ledger.verifiers(), second]
        for given in (keys, [second], keys[:1]):
            for result in (await ledger.verify_ledger(keys=given), await ledger.verify_chain("run-1", keys=given)):
                assert (result["valid"], result["errors"]) == (True, [])
                assert ("ml_dsa_44" in result["checked"]) is (second in given)
                assert result["keys_from_outside"] is (keys[0] in given)
        check_inclusion(await ledger.prove("run-1", 1), [second])
        assert (await ledger.compare(note, note, keys=keys))["consistent"]
    assert Path(f"{path}.key.ml-dsa-44").stat().st_mode & 0o777 == 0o600
    async with ReplayLedger(path) as plain:  # whoever does not know of it reads on, and signs without it
        assert (await plain.verify_ledger(keys=[*keys, second]))["valid"]
        await write(plain)
        result = await plain.verify_ledger(keys=[second])
        assert (result["valid"], result["findings"][0]["layer"]) == (False, "checkpoint")


async def test_whoever_breaks_ed25519_still_cannot_sign_for_the_second_key(path: Path) -> None:
    async with ReplayLedger(path, ml_dsa_44=True) as ledger:
        await write(ledger, 3)
        second = await ledger.companion_verifier()
    forger = Forger(path, Path(f"{path}.key"))
    forger.rewrite("run-1", 0, code="changed")
    forger.everything_again()
    forger.db.close()
    async with ReplayLedger(path) as forged:
        assert (await forged.verify_ledger(keys=await forged.verifiers()))["valid"]
        result = await forged.verify_ledger(keys=[str(second)])
        assert not result["valid"]
        assert "ML-DSA-44 keys given" in result["errors"][0]
        stranger = CosigningKey.generate(str(second).split("+")[0], ML_DSA_44).verifier
        assert not (await forged.verify_ledger(keys=[str(stranger)]))["valid"]


async def test_a_witness_may_trust_the_second_key_alone(path: Path, tmp_path: Path) -> None:
    async with ReplayLedger(path, ml_dsa_44=True) as ledger:
        await write(ledger, 2)
        second = await ledger.companion_verifier()
        with witness(tmp_path, "w", [str(second)]) as server:
            await ledger.anchor(anchor_at(server))
            await ledger.rotate_key()
            await write(ledger, 2)
            await ledger.anchor(anchor_at(server))
            assert (await ledger.verify_ledger(witnesses=[str(server.witness.keys[1].verifier)]))["valid"]


async def test_the_key_may_come_from_a_variable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ReplayLedger(path, ml_dsa_44=True) as ledger:
        await write(ledger)
    monkeypatch.setenv("DESK", Path(f"{path}.key").read_text())
    options: dict[str, Any] = {"key": "env:DESK", "ml_dsa_44": True}
    async with ReplayLedger(path, **options) as ledger:
        with pytest.raises(LedgerError, match="DESK_ML_DSA_44, which is not set"):
            await write(ledger)
    second = Path(f"{path}.key.ml-dsa-44").read_text()
    monkeypatch.setenv("DESK_ML_DSA_44", second)
    async with ReplayLedger(path, **options) as ledger:
        await write(ledger)
        assert (await ledger.verify_ledger(keys=[str(await ledger.companion_verifier())]))["valid"]
    for wrong in (Path(f"{path}.key").read_text(), CosigningKey.generate("else", ML_DSA_44).secret(), "x"):
        monkeypatch.setenv("DESK_ML_DSA_44", wrong)
        async with ReplayLedger(path, **options) as ledger:
            with pytest.raises(LedgerError, match="DESK_ML_DSA_44") as caught:
                await write(ledger)
            assert wrong.strip() not in str(caught.value) or wrong == "x"


async def test_it_needs_a_first_key_and_one_that_nobody_else_reads(path: Path) -> None:
    with pytest.raises(LedgerError, match="beside the signing key"):
        ReplayLedger(path, key=None, ml_dsa_44=True)
    async with ReplayLedger(path, ml_dsa_44=True) as ledger:
        await write(ledger)
    Path(f"{path}.key.ml-dsa-44").chmod(0o640)
    async with ReplayLedger(path, ml_dsa_44=True) as ledger:
        with pytest.raises(LedgerError, match="chmod 600"):
            await write(ledger)
    with pytest.raises(NoteError):
        async with ReplayLedger(path) as ledger:
            await ledger.verify_ledger(keys=[str(CosigningKey.generate("an.example/witness").verifier)])
