"""Budgets in memory: reserve before a step, settle after it, and never hold more than the cap."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from meshflow_limits.scope import Key
from meshflow_limits.store import AccountUsage, Amount, Cap, Shortage

_NOTHING = Amount()
_SWEPT_AT_ONCE = 2
_Window = tuple[Key, int]
_Place = tuple[str, tuple[str, ...], int | None]


class _Account:
    __slots__ = ("held", "holds", "spent", "touched_us")

    def __init__(self) -> None:
        self.spent = [0, 0, 0]
        self.held = [0, 0, 0]
        self.holds = 0
        self.touched_us = 0

    def blank(self) -> bool:
        return self.holds == 0 and not any(self.spent)


@dataclass(frozen=True, slots=True)
class _Hold:
    amount: Amount
    places: tuple[tuple[Cap, _Window, _Account], ...]
    expires_us: int


class _Books:
    """What several stores of one process share: a reload changes caps, never what has been spent under them."""

    __slots__ = ("accounts", "caps", "holds", "lock", "tables")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tables: dict[_Place, OrderedDict[_Window, _Account]] = {}
        self.caps: dict[_Place, Cap] = {}
        self.holds: dict[str, _Hold] = {}
        self.accounts = 0


class MemoryBudgetStore:
    """Accounts and open holds of this process.

    A hold stays on the window it was taken in, also when the step ends in a later one. Holds never lapse while the
    process lives: a step whose fate is unknown may still be spending. A store made with ``previous`` goes on with its
    accounts: those of every cap whose name, ``per`` and period are the same.
    """

    def __init__(self, max_accounts: int, forget_runs_after_us: int, previous: MemoryBudgetStore | None = None) -> None:
        self._max_accounts = max_accounts
        self._forget_after_us = forget_runs_after_us
        self._books: _Books = previous._books if previous is not None else _Books()

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
        """Hold the amount on all accounts, or on none and say which is short."""
        with self._books.lock:
            places: list[tuple[Cap, _Window, _Account]] = []
            for cap, key in claims:
                window = (key, now_us // cap.period_us if cap.period_us is not None else 0)
                table = self._table(cap, now_us)
                account = table.get(window)
                if account is None:
                    if self._books.accounts + len(places) >= self._max_accounts:
                        return Shortage(cap, full=True)
                    account = _Account()
                shortage = _shortage(cap, account, amount)
                if shortage is not None:
                    return shortage
                places.append((cap, window, account))
            if consume:
                self._hold(hold_id, _Hold(amount, tuple(places), expires_us), now_us)
            return None

    async def settle(self, hold_id: str, spent: Amount, now_us: int) -> bool:
        """Turn a hold into what was really spent."""
        with self._books.lock:
            return self._close(hold_id, spent, now_us)

    async def release(self, hold_id: str, now_us: int) -> bool:
        """Give a hold back."""
        with self._books.lock:
            return self._close(hold_id, _NOTHING, now_us)

    async def usage(self, now_us: int) -> list[AccountUsage]:
        """Return all accounts whose window has not ended."""
        with self._books.lock:
            return [
                _usage(self._books.caps[place], window, account)
                for place, table in self._books.tables.items()
                for window, account in table.items()
                if not _ended(self._books.caps[place], window, now_us)
            ]

    async def overdue(self, now_us: int) -> int:
        """Return how many holds are open beyond their expiry."""
        with self._books.lock:
            return sum(hold.expires_us < now_us for hold in self._books.holds.values())

    def _hold(self, hold_id: str, hold: _Hold, now_us: int) -> None:
        if hold_id in self._books.holds:
            raise ValueError(f"hold {hold_id!r} is already open")
        self._books.holds[hold_id] = hold
        for cap, window, account in hold.places:
            table = self._books.tables[_place(cap)]
            if window not in table:
                table[window] = account
                self._books.accounts += 1
            account.holds += 1
            for unit, amount in enumerate(hold.amount):
                account.held[unit] += amount
            account.touched_us = max(account.touched_us, now_us)
            table.move_to_end(window)

    def _close(self, hold_id: str, spent: Amount, now_us: int) -> bool:
        hold = self._books.holds.pop(hold_id, None)
        if hold is None:
            return False
        for cap, window, account in hold.places:
            account.holds -= 1
            for unit in range(3):
                account.held[unit] -= hold.amount[unit]
                account.spent[unit] += spent[unit]
            account.touched_us = max(account.touched_us, now_us)
            if account.blank():
                self._drop(self._books.tables[_place(cap)], window)
        return True

    def _table(self, cap: Cap, now_us: int) -> OrderedDict[_Window, _Account]:
        place = _place(cap)
        table = self._books.tables.get(place)
        if table is None:
            table = self._books.tables[place] = OrderedDict()
        self._books.caps[place] = cap
        if cap.period_us is None and not cap.by_run:
            return table
        # Each step adds at most one account and drops up to two, the longest untouched first.
        for _ in range(_SWEPT_AT_ONCE):
            if not table:
                break
            oldest = next(iter(table))
            if not self._forgettable(cap, oldest, table[oldest], now_us):
                break
            if table[oldest].holds == 0:
                self._drop(table, oldest)
            else:
                table.move_to_end(oldest)
        return table

    def _forgettable(self, cap: Cap, window: _Window, account: _Account, now_us: int) -> bool:
        if cap.period_us is not None:
            return _ended(cap, window, now_us)
        return account.touched_us + self._forget_after_us < now_us

    def _drop(self, table: OrderedDict[_Window, _Account], window: _Window) -> None:
        del table[window]
        self._books.accounts -= 1


def _place(cap: Cap) -> _Place:
    return cap.name, cap.per, cap.period_us


def _shortage(cap: Cap, account: _Account, amount: Amount) -> Shortage | None:
    for unit, most in enumerate(cap.ceiling):
        if most is not None and account.spent[unit] + account.held[unit] + amount[unit] > most:
            name = Amount._fields[unit]
            return Shortage(cap, name, amount[unit], account.spent[unit], account.held[unit], most)
    return None


def _ended(cap: Cap, window: _Window, now_us: int) -> bool:
    return cap.period_us is not None and (window[1] + 1) * cap.period_us <= now_us


def _usage(cap: Cap, window: _Window, account: _Account) -> AccountUsage:
    key, number = window
    return AccountUsage(
        cap=cap.name,
        key={name: part if isinstance(part, str) else "/".join(part) for name, part in zip(cap.per, key, strict=True)},
        period=cap.period,
        window_start_us=None if cap.period_us is None else number * cap.period_us,
        spent=Amount(*account.spent),
        held=Amount(*account.held),
        ceiling=cap.ceiling,
    )
