package meshflow.compliance_test

import data.meshflow.compliance

step := {
	"principal": {"subject": "ana", "agent_id": "desk", "verified": false, "roles": ["support"]},
	"node": {"id": "n", "kind": "tool"},
	"action": null,
	"tool": "look_up",
	"arguments": {},
	"input": null,
	"declared": {"risk": null},
	"approval": null,
	"metadata": {"purpose": "support"},
}

codes(decision) := {reason.code | some reason in decision.reasons}

test_an_ordinary_step_is_allowed_and_masked if {
	decision := compliance.decision with input as step
	decision.allow
	count(decision.obligations) == 1
	not decision.escalate
}

test_an_empty_input_is_refused if {
	decision := compliance.decision with input as {}
	codes(decision) == {"nobody_accountable", "no_role"}
}

test_somebody_is_accountable_and_has_a_role if {
	nameless := compliance.decision with input as object.union(step, {"principal": {"agent_id": ""}})
	codes(nameless) == {"nobody_accountable"}
	roleless := compliance.decision with input as object.union(step, {"principal": {"roles": []}})
	codes(roleless) == {"no_role"}
}

test_what_is_supervised_or_irreversible_is_overseen_by_another if {
	settings := {"supervised": ["look_*"]}
	asked := compliance.decision with input as step with data.meshflow.profile.settings as settings
	codes(asked) == {"needs_oversight"}
	asked.escalate
	own := object.union(step, {"approval": {"approver": "desk", "approved": true}})
	refused := compliance.decision with input as own with data.meshflow.profile.settings as settings
	"overseen_by_requester" in codes(refused)
	risky := compliance.decision with input as object.union(step, {"declared": {"risk": "irreversible"}})
	risky.escalate
}

test_another_purpose_is_refused if {
	decision := compliance.decision with input as step
		with data.meshflow.profile.settings as {"intended_purposes": ["triage"]}
	codes(decision) == {"not_intended"}
	same := compliance.decision with input as step
		with data.meshflow.profile.settings as {"intended_purposes": ["support"]}
	same.allow
}

test_more_can_be_masked if {
	decision := compliance.decision with input as step
		with data.meshflow.profile.settings as {"extra_entities": ["PERSON"]}
	some duty in decision.obligations
	"PERSON" in duty.parameters.entities
}
