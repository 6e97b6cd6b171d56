package meshflow.compliance_test

import data.meshflow.compliance

step := {
	"principal": {"subject": "ana", "agent_id": "grid-agent", "verified": true, "roles": ["operator"]},
	"node": {"id": "n", "kind": "tool"},
	"action": null,
	"tool": "read_alarm",
	"arguments": {},
	"input": null,
	"declared": {"risk": null},
	"approval": null,
	"metadata": {},
}

settings := {
	"authorized_roles": ["operator"],
	"bcsi": ["read_diagram"],
	"bcsi_roles": ["engineer"],
	"changes": ["set_*"],
	"shared_accounts": ["operator1"],
}

controls(decision) := {reason.control | some reason in decision.reasons}

codes(decision) := {reason.code | some reason in decision.reasons}

test_an_authorized_operator_is_allowed if {
	decision := compliance.decision with input as step with data.meshflow.profile.settings as settings
	decision == {"allow": true, "reasons": set(), "obligations": set(), "escalate": false}
}

test_an_empty_input_and_no_settings_are_refused if {
	empty := compliance.decision with input as {} with data.meshflow.profile.settings as settings
	not empty.allow
	unset := compliance.decision with input as step with data.meshflow.profile.settings as {}
	controls(unset) == {"CIP-004-7 R4 Part 4.1"}
}

test_who_acts_is_authenticated_and_alone if {
	unverified := compliance.decision with input as object.union(step, {"principal": {"verified": false}})
		with data.meshflow.profile.settings as settings
	controls(unverified) == {"CIP-007-6 R5 Part 5.1"}
	shared := compliance.decision with input as object.union(step, {"principal": {"subject": "Operator1"}})
		with data.meshflow.profile.settings as settings
	controls(shared) == {"CIP-007-6 R5 Part 5.3"}
}

test_information_is_marked_and_for_those_authorized if {
	reading := object.union(step, {"tool": "read_diagram"})
	decision := compliance.decision with input as reading with data.meshflow.profile.settings as settings
	controls(decision) == {"CIP-004-7 R6 Part 6.1", "CIP-011-3 R1 Part 1.1"}
	engineer := {"principal": {"roles": ["operator", "engineer"]}, "metadata": {"classification": "bcsi"}}
	allowed := compliance.decision with input as object.union(reading, engineer)
		with data.meshflow.profile.settings as settings
	allowed.allow
}

test_information_leaves_for_listed_places_alone_and_encrypted if {
	leaving := object.union(step, {
		"tool": "mail", "node": {"kind": "http"}, "metadata": {"classification": "bcsi"},
		"principal": {"roles": ["operator", "engineer"]}, "arguments": {"to": "http://vendor.example"},
	})
	decision := compliance.decision with input as leaving with data.meshflow.profile.settings as settings
	codes(decision) == {"bcsi_leaves", "bcsi_unencrypted"}
	count(decision.obligations) == 1
	listed := object.union(settings, {"destinations": ["mail"]})
	secure := object.union(leaving, {"arguments": {"to": "https://vendor.example"}})
	allowed := compliance.decision with input as secure with data.meshflow.profile.settings as listed
	allowed.allow
}

test_a_change_has_a_ticket_and_another_persons_authorization if {
	changing := object.union(step, {"tool": "set_relay"})
	decision := compliance.decision with input as changing with data.meshflow.profile.settings as settings
	codes(decision) == {"no_change_ticket", "change_needs_authorization"}
	own := {"metadata": {"change_ticket": "CHG-1"}, "approval": {"approver": "ana", "approved": true}}
	refused := compliance.decision with input as object.union(changing, own)
		with data.meshflow.profile.settings as settings
	"authorized_by_requester" in codes(refused)
	not refused.allow
}
