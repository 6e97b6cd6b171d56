"""Where the state of limits lives: the contracts that a store keeps, in this process or shared by many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from meshflow_limits.scope import Key, Matcher


@dataclass(frozen=True, slots=True)
class RateRule:
    """A rate limit made ready: ``count`` steps in ``period_ns``, at most ``burst`` at once."""

    name: str
    text: str
    per: tuple[str, ...]
    matcher: Matcher = field(compare=False, repr=False)
    count: int
    period_ns: int
    burst: int


class RateAnswer(NamedTuple):
    """What a rate store says: the steps left by limit, or the limit that refused and when to try again.

    ``full`` marks a refusal because the store follows as many keys as it may.
    """

    remaining: Mapping[str, int]
    refused_by: RateRule | None = None
    retry_after_ns: int = 0
    full: bool = False


class RateStore(Protocol):
    """Counts steps against rate limits."""

    async def acquire(self, claims: Sequence[tuple[RateRule, Key]], now_ns: int, *, consume: bool) -> RateAnswer:
        """Count one step against all claims or against none, atomically.

        ``now_ns`` is monotonic; a store that several processes share uses its server's clock instead. With ``consume``
        False the answer is the same and nothing is counted.
        """
        ...


class Amount(NamedTuple):
    """Money, tokens and steps, all whole numbers."""

    micro_usd: int = 0
    tokens: int = 0
    steps: int = 0


class Ceiling(NamedTuple):
    """The most that an account may hold and spend; None where there is no cap."""

    micro_usd: int | None = None
    tokens: int | None = None
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Cap:
    """A cap made ready. ``period_us`` is None for accounts that no window ends."""

    name: str
    per: tuple[str, ...]
    matcher: Matcher = field(compare=False, repr=False)
    ceiling: Ceiling
    period: str | None
    period_us: int | None
    by_run: bool


class Shortage(NamedTuple):
    """Why a reservation was refused: the cap, and by unit what was asked, spent, held and the most.

    ``full`` marks a refusal because the store follows as many accounts as it may.
    """

    cap: Cap
    unit: str = ""
    asked: int = 0
    spent: int = 0
    held: int = 0
    most: int = 0
    full: bool = False


@dataclass(frozen=True, slots=True)
class AccountUsage:
    """One account as it stands: ``key`` by dimension, what is spent and held, and the cap."""

    cap: str
    key: Mapping[str, str]
    period: str | None
    window_start_us: int | None
    spent: Amount
    held: Amount
    ceiling: Ceiling

    @property
    def overrun(self) -> Amount:
        """What was spent beyond the cap."""
        return Amount(
            *(0 if most is None else max(0, spent - most) for spent, most in zip(self.spent, self.ceiling, strict=True))
        )


class BudgetStore(Protocol):
    """Reserves before a step and settles after it. Every call is atomic."""

    async def reserve(
        self,
        hold_id: str,
        claims: Sequence[tuple[Cap, Key]],
        amount: Amount,
        now_us: int,
        expires_us: int,
        *,
        consume: bool,
    ) -> Shortage | None:
        """Hold ``amount`` on the accounts of all claims, or on none and say which is short.

        A reservation fits when what is spent and held and the amount stay within the cap, so an account that an
        over-run took beyond it takes nothing more. With ``consume`` False the answer is the same and nothing is held.
        """
        ...

    async def settle(self, hold_id: str, spent: Amount, now_us: int) -> bool:
        """Turn a hold into what was really spent, more or less than held; False where the hold is not open."""
        ...

    async def release(self, hold_id: str, now_us: int) -> bool:
        """Give a hold back; False where it is not open."""
        ...

    async def usage(self, now_us: int) -> list[AccountUsage]:
        """Return all accounts whose window has not ended."""
        ...

    async def overdue(self, now_us: int) -> int:
        """Return how many holds are open beyond their expiry."""
        ...
