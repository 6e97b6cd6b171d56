"""A step that waits for a person, and what an approval does and does not cover."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshflow import Decision, NodeInput, Status, StepDeniedError
from meshflow.clock import ManualClock
from meshflow.config.models import ApprovalsConfig
from meshflow.digest import arguments_digest
from meshflow.facts import Principal, RiskTier
from meshflow.step import Approval

ASK = Decision.escalate("policy_evaluation.large", "over the limit")
STEP = NodeInput(node_id="refund", input={"amount": 900}, run_id="r", step_id="s", handler=lambda value: "paid")


class Desk:
    """A runtime that asks for every step, and the answer that a person gives."""

    def __init__(self, kit, on=None, **answer):
        self.given = None
        self.clock = ManualClock()
        self.runtime = kit.runtime({"evaluate_policy": ASK, "find_approval": lambda context: self.given, **(on or {})})
        self.runtime._clock = self.clock
        self.runtime._core.clock = self.clock
        self.answer = answer

    async def ask_and_answer(self, step=STEP):
        paused = await self.runtime.run(step)
        request = paused.record.approval_request
        approval = Approval(
            approval_id=request.approval_id,
            run_id=paused.run_id,
            step_id=paused.step_id,
            approved=True,
            approver="grace",
            arguments_digest=request.arguments_digest,
            salt=request.salt,
            fingerprint=paused.record.fingerprint,
            expires_at_us=request.expires_at_us,
            principal=paused.record.principal,
            attempt=paused.record.attempt,
            holds_output=request.holds_output,
            tenant_id=paused.record.tenant_id,
            node_id=paused.record.node_id,
            node_kind=paused.record.node_kind,
            tool=paused.record.tool,
            action=paused.record.action,
            codes=request.codes,
        )
        self.given = replace(approval, **self.answer)
        return paused


async def test_an_escalated_step_pauses_without_running_and_is_recorded(kit):
    desk = Desk(kit)
    outcome = await desk.ask_and_answer()
    assert (outcome.status, outcome.code) == (Status.PAUSED, "policy_evaluation.large")
    assert outcome.approval_id == outcome.record.approval_request.approval_id
    assert "execute_step" not in kit.plugin.calls
    assert kit.plugin.settled[0].executed is False


async def test_after_approval_the_step_really_runs_as_another_attempt(kit):
    desk = Desk(kit)
    await desk.ask_and_answer()
    outcome = await desk.runtime.run(replace(STEP, resume=True))
    assert (outcome.status, outcome.output) == (Status.COMPLETED, "paid")
    assert (outcome.record.attempt, outcome.record.approval_id) == (2, desk.given.approval_id)


async def test_an_approval_is_not_looked_for_unless_the_step_is_resumed(kit):
    desk = Desk(kit)
    await desk.ask_and_answer()
    assert (await desk.runtime.run(STEP)).status is Status.PAUSED


@pytest.mark.parametrize("codes", ["large", 5, None, [5, "4111 1111 1111 1111", ["x"]], {"x": "y"}])
async def test_what_a_plugin_calls_codes_and_is_none_is_not_asked_about(kit, codes):
    asks = replace(ASK, evidence={"codes": codes})
    desk = Desk(kit, on={"evaluate_policy": asks})
    paused = await desk.ask_and_answer()
    assert paused.record.approval_request.codes == (ASK.code,)


async def test_resuming_before_anybody_decided_stays_paused_and_writes_nothing(kit):
    desk = Desk(kit)
    await desk.runtime.run(STEP)
    outcome = await desk.runtime.run(replace(STEP, resume=True))
    assert (outcome.status, outcome.code) == (Status.PAUSED, "approval.pending")
    assert len(kit.plugin.records) == 1


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"approved": False}, "approval.rejected"),
        ({"used": True}, "approval.used"),
        ({"step_id": "other"}, "approval.other_step"),
        ({"run_id": "other"}, "approval.other_step"),
        ({"node_id": "other"}, "approval.other_step"),
        ({"node_kind": "http"}, "approval.other_step"),
        ({"tool": "wire_transfer"}, "approval.other_step"),
        ({"action": "delete"}, "approval.other_step"),
        ({"tenant_id": "other"}, "approval.other_tenant"),
        ({"tenant_id": ""}, "approval.other_tenant"),
        ({"principal": Principal("ada", "agent-1", issuer="elsewhere")}, "approval.other_principal"),
        ({"approver": "ada"}, "approval.self_approved"),
        ({"approver": "agent-1"}, "approval.self_approved"),
        ({"fingerprint": "0" * 64}, "approval.policy_changed"),
        ({"arguments_digest": "0" * 64}, "approval.arguments_changed"),
        ({"expires_at_us": 1}, "approval.expired"),
    ],
)
async def test_an_approval_that_does_not_fit_denies(kit, changed, code):
    desk = Desk(kit, **changed)
    await desk.ask_and_answer()
    outcome = await desk.runtime.run(replace(STEP, resume=True))
    assert (outcome.status, outcome.code) == (Status.DENIED, code)
    assert "execute_step" not in kit.plugin.calls


async def test_an_approval_does_not_cover_other_arguments(kit):
    desk = Desk(kit)
    await desk.ask_and_answer()
    outcome = await desk.runtime.run(replace(STEP, input={"amount": 90_000}, resume=True))
    assert outcome.code == "approval.arguments_changed"


@pytest.mark.parametrize(("seconds", "code"), [(86_399.9, ""), (86_400, "approval.expired")])
async def test_an_approval_runs_out_at_the_moment_that_was_told(kit, seconds, code):
    desk = Desk(kit)
    await desk.ask_and_answer()
    desk.clock.advance(seconds)
    assert (await desk.runtime.run(replace(STEP, resume=True))).code == code


async def test_an_approval_runs_out_while_the_gates_are_passed(kit):
    desk = Desk(kit)
    await desk.ask_and_answer()
    desk.clock.advance(86_399)
    kit.plugin.on["authorize_tool"] = lambda context: desk.clock.advance(2) or Decision.allow()
    assert (await desk.runtime.run(replace(STEP, resume=True))).code == "approval.expired"


async def test_an_approval_does_not_lift_a_denial(kit):
    desk = Desk(kit)
    await desk.ask_and_answer()
    kit.plugin.on["authorize_tool"] = Decision.deny("tool_permission.disabled", "switched off")
    outcome = await desk.runtime.run(replace(STEP, resume=True))
    assert outcome.code == "tool_permission.disabled"


async def test_an_escalated_output_is_held_and_never_made_twice(kit):
    ran = []
    step = replace(STEP, handler=lambda value: ran.append(1) or "report")
    desk = Desk(
        kit, {"evaluate_policy": Decision.allow(), "guard_output": Decision.escalate("output_guardrails.x", "look")}
    )
    paused = await desk.ask_and_answer(step)
    assert (paused.status, paused.output) == (Status.PAUSED, None)
    assert paused.record.output == "report"
    desk.given = replace(desk.given, held_output=paused.record.output)
    outcome = await desk.runtime.run(replace(step, resume=True))
    assert (outcome.status, outcome.output, ran) == (Status.COMPLETED, "report", [1])
    assert outcome.record.executed is False


async def test_the_digest_of_a_short_argument_does_not_give_it_away(kit):
    desk = Desk(kit)
    first = (await desk.ask_and_answer()).record.approval_request
    second = (await desk.ask_and_answer(replace(STEP, step_id="t"))).record.approval_request
    assert first.arguments_digest != second.arguments_digest


class TestRules:
    """Several approvers, named approvers, and edited arguments."""

    @staticmethod
    def desk(kit, rules, **answer):
        desk = Desk(kit, **answer)
        desk.runtime._core.approvals = ApprovalsConfig.model_validate(rules)
        return desk

    async def test_too_few_people_are_not_enough_whatever_the_decision_says(self, kit):
        desk = self.desk(kit, {"required": 2})
        paused = await desk.ask_and_answer()
        assert paused.record.approval_request.required == 2
        outcome = await desk.runtime.run(replace(STEP, resume=True))
        assert (outcome.status, outcome.code) == (Status.DENIED, "approval.too_few")

    @pytest.mark.parametrize("approvers", [("grace",), (" Grace ",)])
    async def test_one_person_twice_is_one_person(self, kit, approvers):
        desk = self.desk(kit, {"required": 2}, approvers=approvers)
        await desk.ask_and_answer()
        assert (await desk.runtime.run(replace(STEP, resume=True))).code == "approval.too_few"

    async def test_two_people_are_enough_for_two(self, kit):
        desk = self.desk(kit, {"required": 2}, approvers=("heidi",))
        await desk.ask_and_answer()
        assert (await desk.runtime.run(replace(STEP, resume=True))).output == "paid"

    async def test_somebody_who_is_not_named_does_not_count(self, kit):
        desk = self.desk(kit, {"approvers": ["heidi"]})
        await desk.ask_and_answer()
        assert (await desk.runtime.run(replace(STEP, resume=True))).code == "approval.not_an_approver"

    async def test_who_asked_is_not_one_of_several(self, kit):
        desk = self.desk(kit, {"required": 2})
        paused = await desk.ask_and_answer()
        desk.given = replace(desk.given, approvers=(paused.record.principal.subject.upper(),))
        assert (await desk.runtime.run(replace(STEP, resume=True))).code == "approval.self_approved"

    async def test_a_rule_speaks_for_its_tools_alone(self, kit):
        rules = {"rules": [{"tools": ["wire"], "required": 3}, {"tenants": ["acme"], "approvers": ["heidi"]}]}
        config = ApprovalsConfig.model_validate(rules)
        assert config.terms("wire", "acme") == (3, ())
        assert config.terms("mail", "acme") == (1, ("heidi",))
        assert config.terms("mail", None) == (1, ())

    def test_more_approvals_than_approvers_are_refused(self):
        with pytest.raises(ValueError, match="needs 3 approvals and names 2 approvers"):
            ApprovalsConfig.model_validate({"required": 3, "approvers": ["a", "b"]})

    async def test_edited_arguments_pass_the_gates_and_run(self, kit):
        seen = []
        step = replace(STEP, handler=lambda value: seen.append(value) or "paid")
        desk = self.desk(kit, {})
        await desk.ask_and_answer(step)
        edited = {"amount": 5}
        digest = arguments_digest(edited, desk.given.salt)
        desk.given = replace(desk.given, edited=True, edited_input=edited, arguments_digest=digest)
        outcome = await desk.runtime.run(replace(step, resume=True))
        assert (outcome.output, seen, outcome.record.input) == ("paid", [edited], edited)

    async def test_edited_arguments_that_a_gate_denies_do_not_run(self, kit):
        def no_more_than_ten(context):
            return Decision.deny("input_guardrails.large", "too much") if context.input["amount"] == 5_000 else None

        desk = Desk(kit, {"guard_input": no_more_than_ten})
        await desk.ask_and_answer()
        edited = {"amount": 5_000}
        digest = arguments_digest(edited, desk.given.salt)
        desk.given = replace(desk.given, edited=True, edited_input=edited, arguments_digest=digest)
        assert (await desk.runtime.run(replace(STEP, resume=True))).code == "input_guardrails.large"


class TestOtherQuestions:
    """What gates have come to ask since, nobody has answered."""

    @staticmethod
    def gate(desk, code):
        desk.runtime.plugin("every").on["guard_input"] = Decision.escalate(code, "looks odd")

    async def test_a_question_that_nobody_was_asked_waits_for_an_answer_of_its_own(self, kit):
        desk = Desk(kit)
        first = await desk.ask_and_answer()
        self.gate(desk, "input_guardrails.odd")
        again = await desk.runtime.run(replace(STEP, resume=True))
        assert (again.status, again.code) == (Status.PAUSED, "approval.incomplete")
        assert again.approval_id not in (None, first.approval_id)
        assert "execute_step" not in kit.plugin.calls
        asked = again.record.approval_request
        assert {"policy_evaluation.large", "input_guardrails.odd"} <= set(asked.codes)
        desk.given = replace(
            desk.given, approval_id=asked.approval_id, salt=asked.salt, arguments_digest=asked.arguments_digest,
            codes=asked.codes, attempt=2,
        )  # fmt: skip
        assert (await desk.runtime.run(replace(STEP, resume=True))).output == "paid"

    async def test_a_question_less_needs_no_other_answer(self, kit):
        desk = Desk(kit, {"guard_input": Decision.escalate("input_guardrails.odd", "looks odd")})
        await desk.ask_and_answer()
        desk.runtime.plugin("every").on["guard_input"] = Decision.abstain()
        assert (await desk.runtime.run(replace(STEP, resume=True))).output == "paid"

    async def test_an_edit_that_raises_another_question_waits_again(self, kit):
        def odd(context):
            return Decision.escalate("input_guardrails.odd", "odd") if context.input["amount"] == 7 else None

        desk = Desk(kit, {"guard_input": odd})
        await desk.ask_and_answer()
        digest = arguments_digest({"amount": 7}, desk.given.salt)
        desk.given = replace(desk.given, edited=True, edited_input={"amount": 7}, arguments_digest=digest)
        again = await desk.runtime.run(replace(STEP, resume=True))
        assert (again.status, again.code, again.record.input) == (Status.PAUSED, "approval.incomplete", {"amount": 7})

    async def test_an_output_about_which_something_else_is_asked_stays_held(self, kit):
        desk = Desk(
            kit, {"evaluate_policy": Decision.allow(), "guard_output": Decision.escalate("output_guardrails.x", "look")}
        )
        await desk.ask_and_answer()
        desk.given = replace(desk.given, held_output="paid")
        desk.runtime.plugin("every").on["guard_output"] = Decision.escalate("output_guardrails.y", "look again")
        again = await desk.runtime.run(replace(STEP, resume=True))
        assert (again.status, again.code, again.output) == (Status.PAUSED, "approval.incomplete", None)
        assert again.record.approval_request.holds_output


async def test_what_an_approval_of_elsewhere_holds_is_nowhere_in_the_outcome(kit):
    desk = Desk(kit, tenant_id="other", edited=True, edited_input={"amount": 987_654_321_012}, holds_output=True)
    await desk.ask_and_answer()
    desk.given = replace(desk.given, held_output="their report")
    outcome = await desk.runtime.run(replace(STEP, resume=True))
    assert outcome.code == "approval.other_tenant"
    assert "987654321012" not in repr(outcome)
    assert "their report" not in repr(outcome)
    assert kit.plugin.calls.count("evaluate_policy") == 1


async def test_an_approval_leaves_an_intent_also_of_what_only_reads(kit):
    desk = Desk(kit, {"classify_risk": Decision.allow(fact=RiskTier.READ_ONLY)})
    await desk.ask_and_answer()
    assert kit.plugin.intents == []
    assert (await desk.runtime.run(replace(STEP, resume=True))).ok
    assert len(kit.plugin.intents) == 1


class TestStreams:
    """A stream that waited is handed in again as any other step."""

    @staticmethod
    def step(**more):
        async def stream(value):
            yield "one "
            yield "two"

        return replace(STEP, handler=stream, **more)

    async def test_an_approved_stream_runs(self, kit):
        desk = Desk(kit)
        await desk.ask_and_answer(self.step())
        stream = desk.runtime.stream(self.step(resume=True))
        assert "".join([part async for part in stream]) == "one two"
        assert (stream.outcome.status, stream.outcome.record.attempt) == (Status.COMPLETED, 2)
        assert stream.outcome.record.approval_id == desk.given.approval_id

    async def test_one_that_nobody_has_decided_waits_on_and_writes_nothing(self, kit):
        desk = Desk(kit)
        await desk.runtime.run(self.step())
        stream = desk.runtime.stream(self.step(resume=True))
        with pytest.raises(StepDeniedError, match=r"approval\.pending"):
            [part async for part in stream]
        assert (stream.outcome.status, len(kit.plugin.records)) == (Status.PAUSED, 1)

    async def test_a_held_answer_is_released_without_being_made_again(self, kit):
        made = []

        async def stream(value):
            made.append(1)
            yield "report"

        desk = Desk(
            kit, {"evaluate_policy": Decision.allow(), "guard_output": Decision.escalate("output_guardrails.x", "look")}
        )
        step = replace(STEP, handler=stream)
        await desk.ask_and_answer(step)
        desk.given = replace(desk.given, held_output="report")
        released = [part async for part in desk.runtime.stream(replace(step, resume=True))]
        assert (released, made) == (["report"], [1])
