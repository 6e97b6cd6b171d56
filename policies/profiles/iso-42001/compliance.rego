# Stage 6: what ISO/IEC 42001, Annex A, asks of a step of an AI system. Each reason names its control.
package meshflow.compliance

import data.meshflow.pack

decision := pack.answer(denials, escalations, [])

reason(code, control, message) := pack.reason(code, concat(" ", ["ISO/IEC 42001", control]), message)

# A.6.2.8: an event in nobody's name is no record. Asked of every step.
denials contains reason("nobody_accountable", "A.6.2.8", "the step names no accountable subject and agent") if {
	not pack.unique_user
}

# A.3.2
denials contains reason("no_role", "A.3.2", "the principal has no role") if {
	count(pack.roles) == 0
}

# A.9.2
escalations contains reason("needs_oversight", "A.9.2", "a person must agree to this step") if {
	pack.supervised
}

denials contains reason("overseen_by_requester", "A.9.2", "who asked may not agree") if {
	pack.supervised
	pack.approved_by_requester
}

# A.9.4
denials contains reason("not_intended", "A.9.4", "the step's purpose is none of those that the system is intended for") if {
	count(pack.setting("intended_purposes")) > 0
	not intended
}

intended if input.metadata.purpose in pack.setting("intended_purposes")

# A.10.3
denials contains reason("unknown_supplier", "A.10.3", "the step reaches outside, and suppliers lists neither its tool nor its node") if {
	pack.outside
	not pack.listed("suppliers")
}
