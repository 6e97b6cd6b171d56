"""Any order of reserving, settling and releasing, against a plain model of what a cap means."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from meshflow_limits.budget import MemoryBudgetStore
from meshflow_limits.build import cap_of
from meshflow_limits.settings import CapSettings
from meshflow_limits.store import Amount, Cap

UNITS = Amount._fields
amounts = st.builds(Amount, st.integers(0, 60), st.integers(0, 60), st.integers(0, 2))
ceilings = st.none() | st.integers(0, 200)
keys = st.sampled_from(["a", "b"])


def run_now(work: Coroutine[Any, Any, Any]) -> Any:
    """Drive a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the store waited")


class Budget(RuleBasedStateMachine):
    holds: Bundle[str] = Bundle("holds")

    @initialize(first=ceilings, second=ceilings, steps=st.integers(0, 12))
    def open(self, first: int | None, second: int | None, steps: int) -> None:
        self.store = MemoryBudgetStore(1000, 10**15)
        self.caps = [
            self._cap("all", tokens=first, steps=steps),
            self._cap("agent", per=["agent"], tokens=second, steps=12, period="1h"),
        ]
        self.now, self.number = 0, 0
        self.spent: dict[tuple[str, Any, int], list[int]] = {}
        self.held: dict[str, tuple[Amount, list[tuple[str, Any, int]]]] = {}
        self.overrun: set[tuple[str, Any, int]] = set()

    @staticmethod
    def _cap(name: str, **values: Any) -> Cap:
        return cap_of(CapSettings.model_validate({"name": name, **values}))

    def _places(self, agent: str) -> list[tuple[str, Any, int]]:
        return [("all", (), 0), ("agent", (agent,), self.now // 3_600_000_000)]

    def _total(self, place: tuple[str, Any, int], unit: int) -> int:
        held = sum(amount[unit] for amount, places in self.held.values() if place in places)
        return self.spent.get(place, [0, 0, 0])[unit] + held

    @rule(target=holds, agent=keys, amount=amounts)
    def reserve(self, agent: str, amount: Amount) -> str:
        self.number += 1
        hold, places = f"h{self.number}", self._places(agent)
        claims = [(self.caps[0], ()), (self.caps[1], (agent,))]
        fits = all(
            most is None or self._total(place, unit) + amount[unit] <= most
            for cap, place in zip(self.caps, places, strict=True)
            for unit, most in enumerate(cap.ceiling)
        )
        looked = run_now(self.store.reserve(hold, claims, amount, self.now, self.now, consume=False))
        short = run_now(self.store.reserve(hold, claims, amount, self.now, self.now, consume=True))
        assert (short is None) == (looked is None) == fits
        if fits:
            self.held[hold] = (amount, places)
        return hold

    @rule(hold=consumes(holds), spent=amounts)
    def settle(self, hold: str, spent: Amount) -> None:
        known = self.held.pop(hold, None)
        assert run_now(self.store.settle(hold, spent, self.now)) == (known is not None)
        if known is None:
            return
        for place in known[1]:
            tally = self.spent.setdefault(place, [0, 0, 0])
            for unit in range(3):
                tally[unit] += spent[unit]
            if any(used > kept for used, kept in zip(spent, known[0], strict=True)):
                self.overrun.add(place)

    @rule(hold=holds)
    def release(self, hold: str) -> None:
        assert run_now(self.store.release(hold, self.now)) == (self.held.pop(hold, None) is not None)

    @rule(seconds=st.integers(0, 2000))
    def wait(self, seconds: int) -> None:
        self.now += seconds * 1_000_000

    @invariant()
    def the_store_agrees_with_the_model_and_no_cap_is_passed_but_by_over_runs(self) -> None:
        if not hasattr(self, "store"):
            return
        for account in run_now(self.store.usage(self.now)):
            key = tuple(account.key.values())
            place = (account.cap, key, (account.window_start_us or 0) // 3_600_000_000)
            for unit, most in enumerate(account.ceiling):
                total = account.spent[unit] + account.held[unit]
                assert total == self._total(place, unit), UNITS[unit]
                assert min(account.spent[unit], account.held[unit]) >= 0
                assert most is None or total <= most or place in self.overrun


TestBudget = Budget.TestCase
TestBudget.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
