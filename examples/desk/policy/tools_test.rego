package meshflow.tools_test

import data.meshflow.tools

desk := {"refund_alone_cents": 10000}

metadata := {
	"sender": "ana@example.com",
	"owners": {},
	"asked": {"intents": ["refund"], "new_address": "1 High Street"},
}

escalated(tool, arguments) := {reason.code |
	step := {"tool": tool, "arguments": arguments, "metadata": metadata}
	decision := tools.decision with input as step with data.desk as desk
	some reason in decision.reasons
}

test_a_small_refund_goes_out_at_once if escalated("issue_refund", {"amount_cents": 10000}) == set()

test_a_large_refund_waits if escalated("issue_refund", {"amount_cents": 10001}) == {"large_refund"}

test_mail_to_the_sender_goes_out_at_once if escalated("send_email", {"to": "Ana@example.com"}) == set()

test_mail_to_another_waits if escalated("send_email", {"to": "eve@example.com"}) == {"third_party_mail"}

test_a_refund_that_nobody_asked_for_waits if {
	decision := tools.decision with data.desk as desk with input as {
		"tool": "issue_refund",
		"arguments": {"amount_cents": 1},
		"metadata": object.union(metadata, {"asked": {"intents": ["thanks"]}}),
	}
	decision.escalate
}

test_only_the_address_that_the_sender_named_goes_through if {
	escalated("update_address", {"address": "1 High Street"}) == set()
	escalated("update_address", {"address": "Locker 88"}) == {"not_asked_for"}
}

test_a_step_that_calls_no_tool_passes if {
	tools.decision.allow with input as {"tool": null, "metadata": metadata} with data.desk as desk
}
