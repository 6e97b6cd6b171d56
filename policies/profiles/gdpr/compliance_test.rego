package meshflow.compliance_test

import data.meshflow.compliance

step := {
	"principal": {"subject": "ana", "agent_id": "desk", "verified": true, "roles": ["support"]},
	"run": {"run_id": "r-1"},
	"step": {"step_id": "s-1"},
	"node": {"id": "answer", "kind": "function"},
	"action": null,
	"tool": null,
	"arguments": null,
	"input": {"note": "x"},
	"declared": {"risk": null},
	"approval": null,
	"metadata": {"purpose": "support"},
}

controls(decision) := {reason.control | some reason in decision.reasons}

test_a_step_with_role_and_purpose_is_allowed_and_masked if {
	decision := compliance.decision with input as step
	decision.allow
	not decision.escalate
	some duty in decision.obligations
	"EMAIL_ADDRESS" in duty.parameters.entities
}

test_an_empty_input_is_refused if {
	decision := compliance.decision with input as {}
	not decision.allow
}

test_who_acts_is_known if {
	decision := compliance.decision with input as object.union(step, {"principal": {"verified": false}})
	controls(decision) == {"GDPR Art. 32(1)(b)"}
	roleless := compliance.decision with input as object.union(step, {"principal": {"roles": []}})
	controls(roleless) == {"GDPR Art. 32(4)"}
}

test_an_id_that_names_a_person_is_refused if {
	every change in [
		{"run": {"run_id": "ada@example.com"}},
		{"step": {"step_id": "mail to ada@example.com"}},
		{"node": {"id": "ada@example.com"}},
		{"action": "greet ada@example.com"},
	] {
		decision := compliance.decision with input as object.union(step, change)
		controls(decision) == {"GDPR Art. 17(1)"}
	}
	decision := compliance.decision with input as object.union(step, {"input": "ada@example.com"})
	decision.allow
}

test_a_purpose_is_stated_and_is_one_of_those_agreed if {
	none := compliance.decision with input as object.remove(step, ["metadata"])
	controls(none) == {"GDPR Art. 30(1)(b)"}
	other := compliance.decision with input as step with data.meshflow.profile.settings as {"purposes": ["billing"]}
	controls(other) == {"GDPR Art. 5(1)(b)"}
	same := compliance.decision with input as step with data.meshflow.profile.settings as {"purposes": ["support"]}
	same.allow
}

test_recipients_are_listed if {
	outside := object.union(step, {"node": {"kind": "model"}})
	decision := compliance.decision with input as outside
	controls(decision) == {"GDPR Art. 30(1)(d)"}
	listed := compliance.decision with input as outside with data.meshflow.profile.settings as {"recipients": ["ans*"]}
	listed.allow
}

test_an_address_without_encryption_is_refused if {
	decision := compliance.decision with input as object.union(step, {"input": {"to": "http://x.example"}})
	controls(decision) == {"GDPR Art. 32(1)(a)"}
}

test_a_decision_with_legal_effect_waits_for_another_person if {
	settings := {"legal_effect": ["reject_loan"]}
	deciding := object.union(step, {"action": "reject_loan"})
	asked := compliance.decision with input as deciding with data.meshflow.profile.settings as settings
	asked.escalate
	controls(asked) == {"GDPR Art. 22(3)"}
	own := object.union(deciding, {"approval": {"approver": "Ana", "approved": true}})
	refused := compliance.decision with input as own with data.meshflow.profile.settings as settings
	"reviewed_by_requester" in {reason.code | some reason in refused.reasons}
	not refused.allow
}

test_only_purposes_that_need_identifiers_get_them if {
	settings := {"identified_purposes": ["support"]}
	decision := compliance.decision with input as step with data.meshflow.profile.settings as settings
	count(decision.obligations) == 0
}

test_steps_without_personal_data_are_asked_for_little if {
	bare := object.remove(step, ["metadata"])
	decision := compliance.decision with input as bare
		with data.meshflow.profile.settings as {"without_personal_data": ["answer"]}
	decision == {"allow": true, "reasons": set(), "obligations": set(), "escalate": false}
}
