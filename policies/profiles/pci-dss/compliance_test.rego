package meshflow.compliance_test

import data.meshflow.compliance

step := {
	"principal": {"subject": "ana", "agent_id": "desk", "verified": true, "roles": ["billing"]},
	"node": {"id": "charge", "kind": "tool"},
	"action": null,
	"tool": "charge",
	"arguments": {"order": 7},
	"input": null,
	"declared": {"risk": null},
	"approval": null,
	"metadata": {},
}

controls(decision) := {reason.control | some reason in decision.reasons}

test_a_verified_person_with_a_role_is_allowed_and_masked if {
	decision := compliance.decision with input as step
	decision.allow
	some duty in decision.obligations
	"CREDIT_CARD" in duty.parameters.entities
}

test_an_empty_input_is_refused if {
	decision := compliance.decision with input as {}
	not decision.allow
}

test_who_acts_is_verified_named_and_alone if {
	unverified := compliance.decision with input as object.union(step, {"principal": {"verified": "yes"}})
	controls(unverified) == {"PCI DSS 8.3.1"}
	nameless := compliance.decision with input as object.union(step, {"principal": {"agent_id": " "}})
	controls(nameless) == {"PCI DSS 8.2.1"}
	shared := compliance.decision with input as object.union(step, {"principal": {"subject": "Root"}})
	controls(shared) == {"PCI DSS 8.2.2"}
}

test_a_need_to_know_comes_with_a_role if {
	roleless := compliance.decision with input as object.union(step, {"principal": {"roles": []}})
	controls(roleless) == {"PCI DSS 7.2.2"}
	other := compliance.decision with input as step
		with data.meshflow.profile.settings as {"allowed_roles": ["acquiring"]}
	controls(other) == {"PCI DSS 7.2.2"}
	quiet := compliance.decision with input as object.union(step, {"principal": {"roles": []}})
		with data.meshflow.profile.settings as {"without_account_data": ["charge"]}
	quiet.allow
	count(quiet.obligations) == 0
}

test_sensitive_authentication_data_is_refused_at_any_depth if {
	every key in ["cvv", "CVV2", "pin_block", "track2"] {
		carrying := object.union(step, {"arguments": {"card": [{key: "123"}]}})
		decision := compliance.decision with input as carrying
		controls(decision) == {"PCI DSS 3.3.1"}
	}
	empty := compliance.decision with input as object.union(step, {"arguments": {"cvv": null}})
	empty.allow
}

test_an_address_without_encryption_is_refused if {
	decision := compliance.decision with input as object.union(step, {"arguments": {"to": "ftp://x"}})
	controls(decision) == {"PCI DSS 4.2.1"}
}

test_the_full_number_is_for_those_who_need_it if {
	decision := compliance.decision with input as step
		with data.meshflow.profile.settings as {"pan_roles": ["billing"]}
	decision.allow
	count(decision.obligations) == 0
}
