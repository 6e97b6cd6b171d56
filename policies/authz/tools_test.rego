package meshflow.tools_test

import data.meshflow.tools

call := {
	"version": 1,
	"principal": {"subject": "ana", "verified": false, "roles": []},
	"tool": "refund",
	"arguments": {"amount": 10},
	"risk": "internal",
	"labels": {"origin": "user", "confidentiality": "personal"},
}

codes(decision) := {reason.code | some reason in decision.reasons}

test_reading_and_internal_tools_are_allowed if {
	every risk in ["read_only", "internal", "external_io"] {
		decision := tools.decision with input as object.union(call, {"risk": risk})
		decision == {"allow": true, "reasons": set(), "obligations": [], "escalate": false}
	}
}

test_an_irreversible_tool_waits_for_a_person if {
	decision := tools.decision with input as object.union(call, {"risk": "irreversible"})
	decision.allow
	decision.escalate
	codes(decision) == {"needs_approval"}
}

test_an_unknown_risk_counts_as_irreversible if {
	every risk in [null, 3] {
		decision := tools.decision with input as object.union(call, {"risk": risk})
		decision.escalate
	}
}

test_approval_can_be_waived if {
	input_ := object.union(call, {"risk": "irreversible"})
	decision := tools.decision with input as input_ with data.meshflow.settings as {"approve_irreversible": false}
	decision.allow
	not decision.escalate
}

test_an_unverified_principal_is_refused_where_set if {
	input_ := object.union(call, {"risk": "irreversible"})
	settings := {"verified_for_irreversible": true}
	decision := tools.decision with input as input_ with data.meshflow.settings as settings
	not decision.allow
	"not_verified" in codes(decision)
	verified := object.union(input_, {"principal": {"verified": true}})
	tools.decision.allow with input as verified with data.meshflow.settings as settings
}

test_a_secret_does_not_leave if {
	labels := {"origin": "user", "confidentiality": "secret"}
	secret := object.union(call, {"labels": labels})
	tools.decision.allow with input as secret
	every risk in ["external_io", "irreversible", null] {
		decision := tools.decision with input as object.union(secret, {"risk": risk})
		not decision.allow
		"secret_leaves" in codes(decision)
	}
}

test_a_step_that_calls_no_tool_is_allowed if {
	decision := tools.decision with input as object.union(call, {"tool": null, "risk": "irreversible"})
	decision.allow
	not decision.escalate
}
