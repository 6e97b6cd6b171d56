package meshflow.policy_test

import data.meshflow.policy

step := {
	"principal": {"subject": "operations-desk", "verified": true, "roles": ["support"]},
	"tool": null,
	"arguments": null,
	"metadata": {"sender": "ana@example.com", "owners": {"HS-20001": "Ana@example.com", "HS-20002": "bo@example.com"}},
}

desk := {"roles": ["support"], "refund_limit_cents": 200000}

codes(changes) := {reason.code |
	decision := policy.decision with input as object.union(step, changes) with data.desk as desk
	some reason in decision.reasons
}

test_reading_a_message_is_allowed if {
	policy.decision.allow with input as step with data.desk as desk
}

test_an_unverified_principal_is_refused if {
	codes({"principal": {"verified": false}}) == {"not_verified"}
}

test_a_principal_without_the_role_is_refused if {
	codes({"principal": {"roles": []}}) == {"role_missing"}
}

test_an_empty_step_is_refused if {
	not policy.decision.allow with input as {} with data.desk as desk
}

test_everyone_is_never_exported if {
	"export_of_everyone" in codes({"tool": "export_orders", "arguments": {"customer_email": "*"}})
}

test_a_sender_gets_their_own_orders if {
	codes({"tool": "export_orders", "arguments": {"customer_email": "ANA@example.com"}}) == set()
	codes({"tool": "export_orders", "arguments": {"customer_email": "bo@example.com"}}) == {"export_of_another"}
}

test_a_sender_asks_about_their_own_account if {
	codes({"tool": "lookup_customer", "arguments": {"email": "ana@example.com"}}) == set()
	codes({"tool": "lookup_customer", "arguments": {"email": "bo@example.com"}}) == {"customer_of_another"}
}

test_an_order_is_touched_for_its_owner_alone if {
	every tool in ["issue_refund", "update_address", "add_note"] {
		codes({"tool": tool, "arguments": {"order_id": "HS-20001", "amount_cents": 5}}) == set()
		codes({"tool": tool, "arguments": {"order_id": "HS-20002", "amount_cents": 5}}) == {"order_of_another"}
		codes({"tool": tool, "arguments": {"order_id": "HS-29999", "amount_cents": 5}}) == {"order_of_another"}
	}
}

test_no_refund_above_the_limit if {
	codes({"tool": "issue_refund", "arguments": {"order_id": "HS-20001", "amount_cents": 200000}}) == set()
	codes({"tool": "issue_refund", "arguments": {"order_id": "HS-20001", "amount_cents": 200001}}) == {"refund_too_large"}
}
