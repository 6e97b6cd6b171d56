"""What a record says of itself and of those around it: who agreed, and what was stopped when it began."""

from __future__ import annotations

from typing import Any

import pytest

from meshflow.profiles.conditions import ERASED
from meshflow.profiles.records import Record, RunFacts
from meshflow.profiles.stops import Stops
from meshflow.step import ACTING_AGENT


def step(**more: Any) -> dict[str, Any]:
    principal = {"subject": "ana", "agent_id": "desk"}
    return {
        "kind": "step", "seq": 1, "run_id": "r", "tenant_id": "acme", "tool": "mail", "started_us": 50, "stages": [],
        "erased": [], "redaction": "stage", "metadata": {}, "input_task": {},
        "principal": principal, "approval_request": None, "approval_id": None, **more,
    }  # fmt: skip


def said(kind: str, approver: str | None, **more: Any) -> dict[str, Any]:
    erased = [] if approver is not None else ["approver"]
    return {
        "kind": kind,
        "seq": 2,
        "approval_id": "a",
        "approved": True,
        "approver": approver,
        "erased": erased,
        **more,
    }


@pytest.mark.parametrize(
    ("votes", "last", "own"),
    [
        ([], "mara", False), ([], " ANA", True), (["Ana"], "mara", True), (["bo"], "mara", False),
        ([None], "mara", ERASED), (["desk", None], "mara", True), (["bo"], None, ERASED),
    ],
)  # fmt: skip
def test_an_approval_is_ones_own_where_any_of_those_who_agreed_had_asked(
    votes: list[str | None], last: str | None, own: Any
) -> None:
    run = RunFacts()
    run.take(step(approval_request={"approval_id": "a"}))
    for vote in votes:
        run.take(said("vote", vote))
    run.take(said("approval", last))
    assert Record(step(approval_id="a"), run, "p", {}, 0).value("approval.own") is own


BOSS = {"subject": "bo", "agent_id": "boss"}
STOPS = [
    {"started_us": 10, "code": "pause", "target": {"tool": "mail"}},
    {"started_us": 20, "code": "kill", "target": {"agent": "desk", "tenant": "acme"}},
    {"started_us": 30, "code": "release", "target": {"agent": "desk", "tenant": "acme"}},
    {"started_us": 40, "code": "release", "target": {"tool": "mail"}},
    {"started_us": 60, "code": "quarantine", "target": {"run": "r"}},
]


@pytest.mark.parametrize(
    ("at", "changes", "code"),
    [
        (5, {}, None), (10, {}, None), (15, {}, "pause"), (25, {}, "kill"), (25, {"tenant_id": "other"}, "pause"),
        (25, {"tool": None}, "kill"), (25, {"tool": None, "tenant_id": "other"}, None), (35, {}, "pause"),
        (45, {}, None), (65, {}, "quarantine"), (65, {"run_id": "q"}, None), (35, {"erased": ["principal"]}, ERASED),
        (25, {"principal": None, "tool": None}, None), (25, {"principal": BOSS}, "pause"),
        (25, {"principal": BOSS, "metadata": {ACTING_AGENT: "desk"}}, "kill"),
        (25, {"metadata": {ACTING_AGENT: "else"}}, "kill"), (25, {"metadata": {ACTING_AGENT: ["desk"]}}, "kill"),
        (25, {"metadata": None}, "kill"), (25, {"erased": ["metadata"]}, ERASED),
        (25, {"metadata": {"meshflow:withheld": {}}}, ERASED),
    ],
)  # fmt: skip
def test_a_step_is_stopped_by_the_strongest_entry_in_force_when_it_began(
    at: int, changes: dict[str, Any], code: Any
) -> None:
    record = Record(step(started_us=at, **changes), RunFacts(Stops(STOPS)), "p", {}, 0)
    assert record.value("stopped_by") is code if code is ERASED else record.value("stopped_by") == code


def test_stops_are_told_by_when_they_were_given_in_whatever_order_they_were_written() -> None:
    late = {"started_us": 20, "code": "kill", "target": {"tool": "mail"}}
    early = {"started_us": 10, "code": "release", "target": {"tool": "mail"}}
    for at, code in ((15, None), (25, "kill")):
        assert Record(step(started_us=at), RunFacts(Stops([late, early])), "p", {}, 0).value("stopped_by") == code


WITHHELD = {"meshflow:withheld": {"type": "dict", "cause": "timeout"}}


@pytest.mark.parametrize("field", ["metadata.purpose", "entities.any", "evidence.policy_evaluation.rules",
                                   "profile.active", "input_keys", "plain_address"])  # fmt: skip
def test_what_redaction_withheld_shows_nothing_either_way(field: str) -> None:
    stage = {"stage": "policy_evaluation", "plugin": "rego", "effect": "allow", "enforced": True, "evidence": {}}
    withheld = step(redaction="withheld", metadata=WITHHELD, input_task=WITHHELD, stages=[stage])
    assert Record(withheld, RunFacts(), "p", {}, 0).value(field) is ERASED
    assert Record(step(stages=[stage]), RunFacts(), "p", {}, 0).value(field) is not ERASED


def test_evidence_that_is_there_counts_where_the_input_alone_was_withheld() -> None:
    stage = {"stage": "policy_evaluation", "plugin": "rego", "effect": "allow", "enforced": True, "evidence": {"x": 1}}
    record = Record(step(redaction="withheld", input_task=WITHHELD, stages=[stage]), RunFacts(), "p", {}, 0)
    assert record.value("evidence.policy_evaluation.x") == 1
    assert record.value("input_keys") is ERASED
