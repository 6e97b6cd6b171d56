"""Every error that meshflow raises, by who can mend it."""

from __future__ import annotations


class MeshflowError(Exception):
    """Root of all errors raised by meshflow."""


class ConfigError(MeshflowError):
    """A setting is wrong; the operator mends it.

    ``where`` is ``file:line`` (or the name of the argument), ``path`` the dotted path of the setting.
    """

    def __init__(self, message: str, *, where: str = "", path: str = "") -> None:
        self.where = where
        self.path = path
        self.problem = message
        super().__init__(": ".join(part for part in (where, path, message) if part))


class StageConflictError(ConfigError):
    """Several plugins claim a stage that takes one; a setting must choose."""


class PluginError(MeshflowError):
    """A plugin breaks its contract; its author mends it."""


class LedgerError(MeshflowError):
    """The ledger cannot do what was asked; the operator mends it."""


class LedgerConflictError(LedgerError):
    """A record contradicts what the ledger already holds."""


class EncodingError(LedgerError):
    """A value has no canonical form; ``path`` names the field."""

    def __init__(self, message: str, *, path: str = "") -> None:
        self.path = path
        super().__init__(f"{path}: {message}" if path else message)


class ContractError(MeshflowError):
    """meshflow itself is at fault, or was called where it cannot work."""


class StepDeniedError(MeshflowError):
    """A governed call did not complete; ``outcome`` says why.

    Raised by the wrappers that return a plain value (``govern``, ``RuntimeOutcome.unwrap``).
    """

    def __init__(self, message: str, outcome: object) -> None:
        self.outcome = outcome
        super().__init__(message)
