"""How the parts of this plugin tell each other that a token is refused."""

from __future__ import annotations

_MOST_SHOWN = 80


class RefusedError(Exception):
    """A token is refused, by the code, for the reason; the plugin turns it into a denial."""

    def __init__(self, code: str, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(f"{code}: {reason}")


def shown(value: str) -> str:
    """Return a text from outside as a reason may show it: quoted, without control characters, and short."""
    return repr(value if len(value) <= _MOST_SHOWN else value[:_MOST_SHOWN] + "...")
