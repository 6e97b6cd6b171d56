# Stage 6: what the Trust Services Criteria ask of a step. Each reason names its criterion.
package meshflow.compliance

import data.meshflow.pack

decision := pack.answer(denials, escalations, obligations)

reason(code, criterion, message) := pack.reason(code, concat(" ", ["TSC", criterion]), message)

# CC6.1. Asked of every step.
denials contains reason("not_authenticated", "CC6.1", "no verified credential backs the principal") if {
	not pack.verified
}

denials contains reason("no_unique_user", "CC6.1", "the step names no accountable subject and agent") if {
	not pack.unique_user
}

# CC6.3
denials contains reason("role_not_allowed", "CC6.3", "no role of the principal has access") if {
	not may_access
}

may_access if pack.has_role(pack.setting("allowed_roles"))

may_access if {
	count(pack.setting("allowed_roles")) == 0
	count(pack.roles) > 0
}

# CC6.7
denials contains reason("unknown_recipient", "CC6.7", "the step reaches outside, and recipients lists neither its tool nor its node") if {
	pack.outside
	not pack.listed("recipients")
}

denials contains reason("unencrypted", "CC6.7", "the arguments name an address without encryption") if {
	pack.plain_address
}

# CC8.1
denials contains reason("no_change_ticket", "CC8.1", "a change needs change_ticket in the step's metadata") if {
	pack.acts("changes")
	not pack.reference("change_ticket")
}

escalations contains reason("change_needs_approval", "CC8.1", "a change must be approved by a person") if {
	pack.acts("changes")
}

denials contains reason("approved_by_requester", "CC8.1", "who asked for the change approved it") if {
	pack.acts("changes")
	pack.approved_by_requester
}

# C1.1
obligations contains pack.mask
