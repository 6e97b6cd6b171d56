"""Stages 3 and 4: how often an agent may act, and for how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from meshflow.plugin import (
    BudgetChecker,
    BudgetReservation,
    Decision,
    Host,
    Plugin,
    RateLease,
    RateLimiter,
    StepContext,
    StepRecord,
    hookimpl,
)
from meshflow_limits import codes
from meshflow_limits.budget import MemoryBudgetStore
from meshflow_limits.build import cap_of, rule_of
from meshflow_limits.denials import short, too_fast, unscoped
from meshflow_limits.estimate import Estimator
from meshflow_limits.gcra import MemoryRateStore
from meshflow_limits.holds import OpenHolds, SteadyTime
from meshflow_limits.scope import Key, Scope, UnscopedError, key_of
from meshflow_limits.settings import LimitsSettings
from meshflow_limits.store import AccountUsage, Amount, BudgetStore, Cap, RateStore, Shortage
from meshflow_limits.units import parse_duration_s


class LimitsPlugin(Plugin[LimitsSettings]):
    """Counts steps against rates and reserves what they may cost.

    A tenant's own instance may run for the same step beside the base's, so each keeps its holds under the step's key
    and never reads them back from the step's facts. ``rates`` and ``budget`` take other stores in place of memory.
    """

    settings_type = LimitsSettings
    section = "limits"

    def __init__(
        self,
        settings: LimitsSettings,
        host: Host | None = None,
        *,
        rates: RateStore | None = None,
        budget: BudgetStore | None = None,
    ) -> None:
        super().__init__(settings, host)
        self._rules = tuple(rule_of(rate) for rate in settings.rates)
        self._caps = tuple(cap_of(cap) for cap in settings.caps)
        self._estimator = Estimator(settings)
        self._rates: RateStore = rates or MemoryRateStore(settings.max_keys)
        self._forget_us = parse_duration_s(settings.forget_runs_after) * 1_000_000
        self._budget: BudgetStore = budget or MemoryBudgetStore(settings.max_keys, self._forget_us)
        self._time = SteadyTime()
        self._holds = OpenHolds()
        self._unlimited = Decision.allow(fact=RateLease())

    def assures(self) -> Mapping[str, Any]:
        """Vouch for limits, where some are set."""
        return {"rates_limited": bool(self.settings.rates), "spending_capped": bool(self.settings.caps)}

    def adopt(self, previous: Plugin[Any]) -> None:
        """Go on with what has been counted, spent and held: a reload changes the limits, not the past."""
        if not isinstance(previous, LimitsPlugin):
            return
        rates, budget, most = previous._rates, previous._budget, self.settings.max_keys
        self._rates = MemoryRateStore(most, rates) if isinstance(rates, MemoryRateStore) else rates
        if isinstance(budget, MemoryBudgetStore):
            budget = MemoryBudgetStore(most, self._forget_us, budget)
        self._budget = budget
        self._time = previous._time

    @hookimpl
    async def limit_rate(self, context: StepContext) -> Decision:
        """Count the step against every rate that applies, or against none of them and deny."""
        if not self._rules:
            return self._unlimited
        scope = Scope.of(context)
        try:
            claims = [(rule, key_of(rule, scope)) for rule in self._rules if rule.matcher.fits(scope)]
        except UnscopedError as error:
            return unscoped(codes.RATE_UNSCOPED, error)
        answer = await self._rates.acquire(claims, context.clock.monotonic_ns(), consume=not context.look_only)
        if answer.refused_by is not None:
            return too_fast(answer.refused_by, answer)
        return Decision.allow(fact=RateLease(answer.remaining))

    @hookimpl
    async def check_budget(self, context: StepContext) -> Decision:
        """Reserve what the step may use on every cap that applies, or on none of them and deny."""
        scope = Scope.of(context) if self._caps else None
        caps = [cap for cap in self._caps if cap.matcher.fits(scope)] if scope is not None else []
        amount = self._estimator.amount(context.step, caps)
        if isinstance(amount, Decision):
            return amount
        hold_id = self._holds.new_id()
        if scope is not None and caps:
            try:
                claims = [(cap, key_of(cap, scope)) for cap in caps]
            except UnscopedError as error:
                return unscoped(codes.BUDGET_UNSCOPED, error)
            shortage = await self._reserve(context, hold_id, claims, amount)
            if shortage is not None:
                return short(shortage)
        fact = BudgetReservation(hold_id, amount.micro_usd, amount.tokens, tuple(cap.name for cap in caps))
        return Decision.allow(fact=fact)

    async def _reserve(
        self, context: StepContext, hold_id: str, claims: list[tuple[Cap, Key]], amount: Amount
    ) -> Shortage | None:
        now_us = self._time.now_us(context.clock)
        expires_us = now_us + self.settings.hold_ttl_s * 1_000_000
        if context.look_only:
            return await self._budget.reserve(hold_id, claims, amount, now_us, expires_us, consume=False)
        # Noted before the store is asked: settle_step finds it also where a step is cancelled while a store answers.
        self._holds.note(context, hold_id, amount)
        shortage = await self._budget.reserve(hold_id, claims, amount, now_us, expires_us, consume=True)
        if shortage is not None:
            self._holds.refuse(context, hold_id)
        return shortage

    @hookimpl
    async def settle_step(self, context: StepContext, record: StepRecord) -> None:
        """Spend what the step used if it executed, however it ended; give the reservation back if it did not."""
        if context.look_only:
            return
        hold = self._holds.take(context, granted=record.executed or "budget_check" in context.facts)
        if hold is None or hold.hold_id is None:
            return
        now_us = self._time.now_us(context.clock)
        if not record.executed:
            await self._budget.release(hold.hold_id, now_us)
            return
        usd, tokens = _used(record.cost_micro_usd, hold.amount.micro_usd), _used(record.tokens, hold.amount.tokens)
        await self._budget.settle(hold.hold_id, Amount(usd, tokens, 1), now_us)

    async def usage(self) -> list[AccountUsage]:
        """Return a snapshot of all accounts: what is spent and held on each, and its cap."""
        return await self._budget.usage(self._time.now_us(self.host.clock))

    async def overdue_holds(self) -> int:
        """Return how many reservations have been open for longer than ``hold_ttl_s``."""
        return await self._budget.overdue(self._time.now_us(self.host.clock))


def _used(recorded: object, held: int) -> int:
    # A record that does not say what was used leaves only the reservation to go by.
    if isinstance(recorded, bool) or not isinstance(recorded, int) or recorded < 0:
        return held
    return recorded


if TYPE_CHECKING:
    _rate: RateLimiter = LimitsPlugin(LimitsSettings())
    _budget: BudgetChecker = LimitsPlugin(LimitsSettings())
