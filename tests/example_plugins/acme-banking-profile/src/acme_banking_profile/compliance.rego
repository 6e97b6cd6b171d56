package meshflow.compliance

import data.meshflow.pack

decision := pack.answer(denials, escalations, [])

denials contains pack.reason("above_limit", "AB-7.2", message) if {
	pack.listed("payments")
	not within_limit
	message := sprintf("a payment may move at most %d cents", [pack.setting_or("limit_cents", 0)])
}

within_limit if {
	is_number(input.arguments.cents)
	input.arguments.cents <= pack.setting_or("limit_cents", 0)
}

denials contains pack.reason("no_reference", "AB-7.3", "a payment needs a reference") if {
	pack.listed("payments")
	not referenced
}

referenced if pack.named(input.arguments.reference)

denials contains pack.reason("released_by_requester", "AB-7.1", "who asked released the payment") if {
	pack.listed("payments")
	pack.approved_by_requester
}

escalations contains pack.reason("needs_release", "AB-7.1", "a second person must release this payment") if {
	pack.listed("payments")
}
