# Stage 11: what waits for a person, once risk and labels are known.
package meshflow.tools

import data.desk.lib

decision := {
	"allow": true,
	"reasons": escalations,
	"obligations": [],
	"escalate": count(escalations) > 0,
}

escalations contains lib.reason("large_refund", message) if {
	lib.calls("issue_refund")
	input.arguments.amount_cents > data.desk.refund_alone_cents
	message := sprintf("a refund of %d cents needs a person", [input.arguments.amount_cents])
}

# What the sender asked for, as read from the message itself, is in `metadata.asked`. A call that only a tool's result
# suggested (a note on an order, say) is not the sender's wish.
escalations contains lib.reason("not_asked_for", "the sender did not ask for a refund") if {
	lib.calls("issue_refund")
	not asked_for_a_refund
}

asked_for_a_refund if "refund" in input.metadata.asked.intents

escalations contains lib.reason("not_asked_for", "the sender did not name this address") if {
	lib.calls("update_address")
	not asked_for_this_address
}

asked_for_this_address if input.arguments.address == input.metadata.asked.new_address

escalations contains lib.reason("third_party_mail", "mail to someone other than the sender needs a person") if {
	lib.calls("send_email")
	lower(input.arguments.to) != lib.sender
}
