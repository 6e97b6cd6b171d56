"""What a command line says is held outside of a ledger: checkpoints, public keys, anchors, witnesses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import typer

from meshflow.cli.given import keys_of, text_of, witnesses_of
from meshflow.cli.options import Chosen

if TYPE_CHECKING:
    from meshflow.ledger.anchors import Anchor

_AT_A_PATH = ("file", "git")


@dataclass(frozen=True, slots=True)
class Given:
    """What to verify against."""

    checkpoints: tuple[str, ...] = ()
    keys: tuple[str, ...] | None = None
    anchors: tuple[Anchor, ...] = ()
    witnesses: tuple[str, ...] = ()
    quorum: int | None = None
    within_s: int | None = None

    @classmethod
    def of(
        cls, options: Chosen, ledger: str | None, checkpoints: Sequence[Path], keys: Sequence[str],
        anchors: Sequence[str], witnesses: Sequence[str], quorum: int | None, within: str | None,
    ) -> Self:  # fmt: skip
        """Read the files that options name."""
        from meshflow.ledger.retention import duration_us

        if (quorum is not None or within is not None) and not witnesses:
            raise typer.BadParameter("--quorum and --cosigned-within ask for witnesses; name them with --witness")
        return cls(
            tuple(text_of(one) for one in checkpoints),
            tuple(key for one in keys for key in keys_of(one)) or None,
            tuple(anchor for one in anchors for anchor in anchors_named(options, ledger, one)),
            tuple(key for one in witnesses for key in witnesses_of(one)),
            quorum,
            None if within is None else duration_us(within) // 1_000_000,
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the arguments of ``verify_chain``; none when nothing was given."""
        found = {
            "checkpoint": self.checkpoints, "keys": self.keys, "anchors": self.anchors, "witnesses": self.witnesses,
            "quorum": self.quorum, "cosigned_within_s": self.within_s,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value not in (None, ())}

    @property
    def for_ledger(self) -> dict[str, Any]:
        """Return the arguments of ``verify_ledger``."""
        found = self.arguments
        if "checkpoint" in found:
            found["since"] = found.pop("checkpoint")
        return found


def anchors_named(options: Chosen, ledger: str | None, which: str) -> list[Anchor]:
    """Return the anchors that an option names: at a path, or configured, of one kind or all."""
    from meshflow.cli.evidence import anchors_of
    from meshflow.cli.ledgers import audit_plugin
    from meshflow.ledger.anchors import make_anchor

    kind, colon, path = which.partition(":")
    if not colon:
        return anchors_of(audit_plugin(options.load(), ledger), None if which == "all" else which)
    if kind not in _AT_A_PATH or not path:
        raise typer.BadParameter(
            f"--anchor {which!r} is neither file:PATH nor git:PATH; others are named in the configuration"
        )
    setting = {"file": "path", "git": "repository"}[kind]
    return [make_anchor(kind, {setting: path}, Path(), path="--anchor")]
