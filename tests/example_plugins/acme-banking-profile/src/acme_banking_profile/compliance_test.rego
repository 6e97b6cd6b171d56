package meshflow.compliance_test

import data.meshflow.compliance

payment := {
	"principal": {"subject": "ana", "agent_id": "desk"},
	"node": {"id": "n", "kind": "tool"},
	"tool": "pay_out",
	"arguments": {"cents": 500, "reference": "INV-7"},
	"approval": null,
}

codes(decision) := {reason.code | some reason in decision.reasons}

test_a_payment_waits_for_a_second_person if {
	decision := compliance.decision with input as payment
	decision.allow
	codes(decision) == {"needs_release"}
	own := object.union(payment, {"approval": {"approver": "ana", "approved": true}})
	refused := compliance.decision with input as own
	"released_by_requester" in codes(refused)
}

test_a_payment_keeps_to_the_limit_and_has_a_reference if {
	every wrong in [{"cents": 100001}, {"cents": "much"}, {"cents": null}] {
		decision := compliance.decision with input as object.union(payment, {"arguments": wrong})
		not decision.allow
		"above_limit" in codes(decision)
	}
	bare := compliance.decision with input as object.union(payment, {"arguments": {"reference": " "}})
	"no_reference" in codes(bare)
}

test_other_tools_are_left_alone if {
	decision := compliance.decision with input as object.union(payment, {"tool": "look_up"})
	decision == {"allow": true, "reasons": set(), "obligations": [], "escalate": false}
}
