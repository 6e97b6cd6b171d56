"""The default audit recorder: intents before steps run, records after, approvals found again."""

from meshflow_ledger.codes import CODES
from meshflow_ledger.plugin import LedgerPlugin, LedgerSettings

__all__ = ["CODES", "LedgerPlugin", "LedgerSettings"]
