# Stage 6: what the NIST AI Risk Management Framework suggests for a step. Each reason names its subcategory.
package meshflow.compliance

import data.meshflow.pack

decision := pack.answer(denials, escalations, obligations)

# MEASURE 2.8: accountability. Asked of every step.
denials contains pack.reason("nobody_accountable", "NIST AI RMF MEASURE 2.8", "the step names no accountable subject and agent") if {
	not pack.unique_user
}

# GOVERN 2.1
denials contains pack.reason("no_role", "NIST AI RMF GOVERN 2.1", "the principal has no role") if {
	count(pack.roles) == 0
}

# MAP 3.5
escalations contains pack.reason("needs_oversight", "NIST AI RMF MAP 3.5", "a person must oversee this step") if {
	pack.supervised
}

denials contains pack.reason("overseen_by_requester", "NIST AI RMF MAP 3.5", "who asked cannot oversee") if {
	pack.supervised
	pack.approved_by_requester
}

# MANAGE 2.4
denials contains pack.reason("not_intended", "NIST AI RMF MANAGE 2.4", "the step's purpose is none of those that the system is intended for") if {
	count(pack.setting("intended_purposes")) > 0
	not intended
}

intended if input.metadata.purpose in pack.setting("intended_purposes")

# MEASURE 2.10
obligations contains pack.mask
