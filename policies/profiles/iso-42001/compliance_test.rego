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

controls(decision) := {reason.control | some reason in decision.reasons}

test_an_ordinary_step_is_allowed if {
	decision := compliance.decision with input as step
	decision == {"allow": true, "reasons": set(), "obligations": [], "escalate": false}
}

test_an_empty_input_is_refused if {
	decision := compliance.decision with input as {}
	not decision.allow
}

test_somebody_is_accountable_and_has_a_role if {
	shared := compliance.decision with input as object.union(step, {"principal": {"subject": "guest"}})
	controls(shared) == {"ISO/IEC 42001 A.6.2.8"}
	roleless := compliance.decision with input as object.union(step, {"principal": {"roles": []}})
	controls(roleless) == {"ISO/IEC 42001 A.3.2"}
}

test_what_is_supervised_is_agreed_to_by_another if {
	settings := {"supervised": ["look_*"]}
	asked := compliance.decision with input as step with data.meshflow.profile.settings as settings
	asked.escalate
	controls(asked) == {"ISO/IEC 42001 A.9.2"}
	own := object.union(step, {"approval": {"approver": "ana", "approved": true}})
	refused := compliance.decision with input as own with data.meshflow.profile.settings as settings
	not refused.allow
	"overseen_by_requester" in {reason.code | some reason in refused.reasons}
}

test_another_purpose_is_refused if {
	decision := compliance.decision with input as step
		with data.meshflow.profile.settings as {"intended_purposes": ["triage"]}
	controls(decision) == {"ISO/IEC 42001 A.9.4"}
}

test_suppliers_are_listed if {
	outside := object.union(step, {"node": {"kind": "model"}})
	decision := compliance.decision with input as outside
	controls(decision) == {"ISO/IEC 42001 A.10.3"}
	listed := compliance.decision with input as outside
		with data.meshflow.profile.settings as {"suppliers": ["look_*"]}
	listed.allow
}
