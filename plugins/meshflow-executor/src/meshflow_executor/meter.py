"""What all tries of a step cost together."""

from __future__ import annotations

from typing import Any

from meshflow.plugin import Metered, to_micro_usd

_MAX = 2**53 - 1


def unwrapped(value: Any) -> tuple[Any, Metered | None]:
    """Return the value itself, and the Metered around it if there is one."""
    return (value.value, value) if isinstance(value, Metered) else (value, None)


class Meter:
    """Adds up the cost of tries. One try of unknown cost makes the sum unknown, and the reservation is spent whole."""

    __slots__ = ("_known", "_micro_usd", "tokens")

    def __init__(self) -> None:
        self._micro_usd = 0
        self._known = True
        self.tokens = 0

    @property
    def micro_usd(self) -> int | None:
        """The sum in micro-USD, or None where nobody knows."""
        return self._micro_usd if self._known else None

    def add_value(self, metered: Metered) -> None:
        """Add what a handler reports; raise ValueError where that is no cost."""
        self._add(metered.cost_usd, metered.tokens)

    def add_error(self, error: BaseException) -> None:
        """Add what a failed try cost: an exception may say so in ``cost_usd`` and ``tokens``."""
        try:
            self._add(getattr(error, "cost_usd", None), getattr(error, "tokens", 0))
        except ValueError:
            self._known = False

    def add_unknown(self) -> None:
        """Note that a try cost nobody knows what."""
        self._known = False

    def _add(self, cost_usd: Any, tokens: Any) -> None:
        if isinstance(tokens, bool) or not isinstance(tokens, int) or not 0 <= tokens <= _MAX:
            self._known = False
            raise ValueError("tokens must be a whole number from 0 to 2^53-1")
        if cost_usd is None:
            self._known = False
        else:
            try:
                self._micro_usd += to_micro_usd(cost_usd)
            except (ValueError, ArithmeticError) as error:
                self._known = False
                raise ValueError(str(error)) from None
            if self._micro_usd > _MAX:
                self._known = False
                raise ValueError("the cost of all tries is beyond what a ledger entry can hold")
        self.tokens = min(_MAX, self.tokens + tokens)
