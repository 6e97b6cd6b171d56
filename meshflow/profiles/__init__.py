"""Compliance profile packs: what they say, how they compose, what they demand, and what in a ledger shows them."""

from meshflow.profiles.manifest import Control, Evidence, Gap, Manifest, manifest_schema
from meshflow.profiles.packs import Pack, find_pack, load_pack, pack_names

__all__ = [
    "Control", "Evidence", "Gap", "Manifest", "Pack", "find_pack", "load_pack", "manifest_schema", "pack_names",
]  # fmt: skip
