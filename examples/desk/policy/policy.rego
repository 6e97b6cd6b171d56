# Stage 5: what the desk's agent may never do, whoever asks.
package meshflow.policy

import data.desk.lib

decision := {
	"allow": count(denials) == 0,
	"reasons": denials,
	"obligations": [],
	"escalate": false,
}

denials contains lib.reason("not_verified", "the desk works for verified agents only") if not verified

default verified := false

verified := input.principal.verified

denials contains lib.reason("role_missing", "the principal has no role that works at the desk") if not at_desk

at_desk if {
	some role in input.principal.roles
	role in data.desk.roles
}

# One customer's orders may be exported; the list of all customers may not.
denials contains lib.reason("export_of_everyone", "the orders of all customers are never exported") if {
	lib.calls("export_orders")
	input.arguments.customer_email == "*"
}

denials contains lib.reason("export_of_another", "a customer gets their own orders, not another's") if {
	lib.calls("export_orders")
	lower(input.arguments.customer_email) != lib.sender
}

denials contains lib.reason("customer_of_another", "a sender may ask about their own account only") if {
	lib.calls("lookup_customer")
	lower(input.arguments.email) != lib.sender
}

# An order is touched for its owner alone, and only after it was looked up.
owners_only := {"issue_refund", "update_address", "add_note"}

denials contains lib.reason("order_of_another", message) if {
	input.tool in owners_only
	not owns
	message := sprintf("%s needs an order that belongs to the sender", [input.tool])
}

owns if lib.owner == lib.sender

denials contains lib.reason("refund_too_large", "no refund above the desk's limit, approved or not") if {
	lib.calls("issue_refund")
	input.arguments.amount_cents > data.desk.refund_limit_cents
}
