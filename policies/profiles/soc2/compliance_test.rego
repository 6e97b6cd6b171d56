package meshflow.compliance_test

import data.meshflow.compliance

step := {
	"principal": {"subject": "ana", "agent_id": "desk", "verified": true, "roles": ["support"]},
	"node": {"id": "n", "kind": "tool"},
	"action": null,
	"tool": "look_up",
	"arguments": {},
	"input": null,
	"declared": {"risk": null},
	"approval": null,
	"metadata": {},
}

controls(decision) := {reason.control | some reason in decision.reasons}

codes(decision) := {reason.code | some reason in decision.reasons}

test_an_ordinary_step_is_allowed_and_masked if {
	decision := compliance.decision with input as step
	decision.allow
	count(decision.obligations) == 1
}

test_an_empty_input_is_refused if {
	decision := compliance.decision with input as {}
	not decision.allow
}

test_who_acts_is_known_and_has_access if {
	unverified := compliance.decision with input as object.union(step, {"principal": {"verified": false}})
	codes(unverified) == {"not_authenticated"}
	shared := compliance.decision with input as object.union(step, {"principal": {"subject": "guest"}})
	codes(shared) == {"no_unique_user"}
	roleless := compliance.decision with input as object.union(step, {"principal": {"roles": []}})
	controls(roleless) == {"TSC CC6.3"}
	other := compliance.decision with input as step with data.meshflow.profile.settings as {"allowed_roles": ["admin"]}
	controls(other) == {"TSC CC6.3"}
}

test_information_leaves_for_listed_places_and_encrypted if {
	outside := object.union(step, {"node": {"kind": "http"}, "arguments": {"to": "http://x.example"}})
	decision := compliance.decision with input as outside
	codes(decision) == {"unknown_recipient", "unencrypted"}
	secure := object.union(outside, {"arguments": {"to": "https://x.example"}})
	allowed := compliance.decision with input as secure
		with data.meshflow.profile.settings as {"recipients": ["look_up"]}
	allowed.allow
}

test_a_change_has_a_ticket_and_another_persons_approval if {
	settings := {"changes": ["deploy"]}
	changing := object.union(step, {"tool": "deploy"})
	decision := compliance.decision with input as changing with data.meshflow.profile.settings as settings
	codes(decision) == {"no_change_ticket", "change_needs_approval"}
	own := {"metadata": {"change_ticket": "C-1"}, "approval": {"approver": "ana", "approved": true}}
	refused := compliance.decision with input as object.union(changing, own)
		with data.meshflow.profile.settings as settings
	"approved_by_requester" in codes(refused)
}

test_more_can_be_masked if {
	decision := compliance.decision with input as step
		with data.meshflow.profile.settings as {"extra_entities": ["PERSON"]}
	some duty in decision.obligations
	"PERSON" in duty.parameters.entities
}
