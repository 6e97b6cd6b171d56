# Stage 6: what the HIPAA Security Rule and the minimum necessary standard ask of a step. Each reason names its control.
package meshflow.compliance

import data.meshflow.pack

decision := pack.answer(denials, escalations, obligations)

reason(code, control, message) := pack.reason(code, concat(" ", ["45 CFR", control]), message)

# 164.312(d). Asked of every step, whatever it touches.
denials contains reason("not_authenticated", "164.312(d)", "no verified credential backs the principal") if {
	not pack.verified
}

# 164.312(a)(2)(i). Asked of every step too.
denials contains reason("no_unique_user", "164.312(a)(2)(i)", "the step names no accountable subject and agent") if {
	not pack.unique_user
}

# 164.312(a)(1)
denials contains reason("no_role", "164.312(a)(1)", "the principal has no role") if {
	touches_phi
	count(pack.roles) == 0
}

# 164.308(a)(4)(ii)(B)
denials contains reason("role_not_allowed", "164.308(a)(4)(ii)(B)", "allowed_roles has no role of the principal") if {
	touches_phi
	count(pack.setting("allowed_roles")) > 0
	not pack.has_role(pack.setting("allowed_roles"))
}

# 164.308(b)(1)
denials contains reason("no_business_associate", "164.308(b)(1)", message) if {
	touches_phi
	pack.outside
	not pack.listed("business_associates")
	message := "the step reaches outside, and business_associates lists neither its tool nor its node"
}

# 164.312(e)(1)
denials contains reason("unencrypted", "164.312(e)(1)", "the arguments name an address without encryption") if {
	touches_phi
	pack.plain_address
}

# 164.312(a)(2)(ii)
denials contains reason("emergency_without_reason", "164.312(a)(2)(ii)", message) if {
	emergency
	not pack.reference("emergency_reason")
	message := "emergency access needs emergency_reason in the step's metadata"
}

# 164.312(a)(2)(ii): whoever has a role for it acts at once in an emergency; the record says why.
emergency if {
	input.metadata.purpose == "emergency"
	pack.verified
	pack.has_role(pack.setting("emergency_roles"))
}

# 164.308(a)(3)(ii)(A)
escalations contains reason("needs_supervision", "164.308(a)(3)(ii)(A)", "a person must agree to this step") if {
	touches_phi
	pack.supervised
	not emergency
}

# 164.502(b) and 164.514(d)
obligations contains pack.mask if {
	touches_phi
	not treatment
	not emergency
}

# 164.502(b)(2)(i): the standard does not bind those who treat. The purpose is the caller's word; a role must back it.
treatment if {
	pack.verified
	input.metadata.purpose == "treatment"
	pack.has_role(pack.setting("treatment_roles"))
}

default touches_phi := true

touches_phi := false if pack.listed("without_phi")
