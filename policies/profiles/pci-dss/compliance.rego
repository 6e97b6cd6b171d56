# Stage 6: what PCI DSS asks of a step that may touch account data. Each reason names its requirement.
package meshflow.compliance

import data.meshflow.pack

decision := pack.answer(denials, escalations, obligations)

reason(code, requirement, message) := pack.reason(code, concat(" ", ["PCI DSS", requirement]), message)

escalations := set()

# 8.3.1. Asked of every step.
denials contains reason("not_authenticated", "8.3.1", "no verified credential backs the principal") if {
	not pack.verified
}

# 8.2.1. Asked of every step.
denials contains reason("no_unique_user", "8.2.1", "the step names no accountable subject and agent") if {
	not someone
}

someone if {
	pack.named(input.principal.subject)
	pack.named(input.principal.agent_id)
}

# 8.2.2. Asked of every step.
denials contains reason("shared_account", "8.2.2", "the account is shared by several people") if {
	pack.shared_account
}

# 7.2.2
denials contains reason("role_not_allowed", "7.2.2", "no role of the principal has a need to know account data") if {
	touches_account_data
	not may_know
}

may_know if pack.has_role(pack.setting("allowed_roles"))

may_know if {
	count(pack.setting("allowed_roles")) == 0
	count(pack.roles) > 0
}

# 3.3.1: neither kept nor passed on. Names of arguments give it away; a bare number of three digits does not.
denials contains reason("authentication_data", "3.3.1", "the arguments carry sensitive authentication data") if {
	pack.carries_key(pack.setting("authentication_data"))
}

# 4.2.1
denials contains reason("unencrypted", "4.2.1", "the arguments name an address without encryption") if {
	touches_account_data
	pack.plain_address
}

# 3.4.1: whoever needs more than the first six and last four digits has a role for it.
obligations contains pack.mask if {
	touches_account_data
	not may_see_pan
}

may_see_pan if {
	pack.verified
	pack.has_role(pack.setting("pan_roles"))
}

default touches_account_data := true

touches_account_data := false if pack.listed("without_account_data")
