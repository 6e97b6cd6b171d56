"""Any sequence of answers to a request, held against a model of ten lines of what they may come to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshflow.clock import ManualClock
from meshflow.facts import Principal
from meshflow.ledger import ApprovalRefusedError, ReplayLedger
from meshflow.record import ApprovalRequest, StepRecord, Verdict

LASTS_S = 60
PEOPLE = {"alice": "alice", "ALICE": "alice", "agent-7": "agent-7", "bob": "bob", " Bob": "bob", "b\u200bob": "bob",
          "carol": "carol", "CAROL\ufe0f": "carol", "dave": "dave", "": "", "\u2060": ""}  # fmt: skip
EDITS: list[Any] = [None, {"cents": 5}, {"cents": 6}]


@dataclass(frozen=True)
class Saying:
    """One answer, so many seconds after the one before."""

    who: str
    approve: bool
    edited: Any
    after_s: int


@dataclass
class Model:
    """What should come of it."""

    required: int
    now_s: int = 0
    voted: dict[str, Any] = field(default_factory=dict)
    decided: bool | None = None

    def hear(self, saying: Saying) -> str:
        self.now_s += saying.after_s
        who = PEOPLE[saying.who]
        if not who:
            return "approver"
        if self.decided is not None:
            return "decided"
        if self.now_s >= LASTS_S:
            return "expired"
        if who in ("alice", "agent-7"):
            return "self_approval"
        if saying.edited is not None and not saying.approve:
            return "edit"
        if not saying.approve:
            self.decided = False
            return "made"
        return self._count(who, saying.edited)

    def _count(self, who: str, edited: Any) -> str:
        for other, theirs in self.voted.items():
            if other == who:
                return "voted"
            if theirs != edited:
                return "edit"
        self.voted[who] = edited
        if len(self.voted) < self.required:
            return "counted"
        self.decided = True
        return "made"


sayings = st.builds(
    Saying, st.sampled_from(list(PEOPLE)), st.booleans() | st.just(True), st.sampled_from(EDITS) | st.none(),
    st.sampled_from([0, 0, 0, 1, 20]),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 3), st.lists(sayings, max_size=9))
def test_answers_come_to_what_the_model_says(required: int, said: list[Saying]) -> None:
    asyncio.run(_hold(Model(required), said))


async def _hold(model: Model, said: list[Saying]) -> None:
    clock = ManualClock()
    begun_us = clock.now_us()
    async with ReplayLedger(":memory:", clock=clock, key=None) as ledger:
        request = ApprovalRequest(
            "ap", "d" * 64, "5a" * 16, begun_us + LASTS_S * 1_000_000, ("x.y",), required=model.required
        )
        await ledger.write(
            StepRecord(
                run_id="r", node_id="n", step_id="s", verdict=Verdict.ESCALATE, code="x.y", started_us=begun_us,
                principal=Principal("alice", "agent-7"), approval_request=request,
            )
        )  # fmt: skip
        for saying in said:
            clock.advance(saying.after_s)
            assert await _answer(ledger, saying) == model.hear(saying), saying
        found = await ledger.find_approval("r", "s")
        if model.decided is None:
            assert found is None
        else:
            assert found is not None
            assert (found.approved, found.used) == (model.decided, False)
        if found is not None and found.approved:
            assert {PEOPLE[name] for name in (*found.approvers, found.approver)} == set(model.voted)
            assert found.edited_input == next(iter(model.voted.values()))
        assert len(await ledger.pending_approvals()) == (model.decided is None)
        assert (await ledger.verify_chain("r"))["valid"]


async def _answer(ledger: ReplayLedger, saying: Saying) -> str:
    edited = {"edited": saying.edited} if saying.edited is not None else {}
    try:
        made = await ledger.decide_approval("ap", approve=saying.approve, approver=saying.who, **edited)
    except ApprovalRefusedError as refused:
        return refused.cause
    return "made" if made["decided"] else "counted"
