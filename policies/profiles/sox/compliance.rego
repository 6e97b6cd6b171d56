# Stage 6: what internal control over financial reporting asks of a step. Each reason names its rule.
package meshflow.compliance

import data.meshflow.pack

decision := pack.answer(denials, escalations, [])

# 17 CFR 240.13a-15(f)(3). Asked of every step: an actor without credential cannot be held to anything.
denials contains pack.reason("not_authenticated", "17 CFR 240.13a-15(f)(3)", "no verified credential backs the principal") if {
	not pack.verified
}

# 17 CFR 240.13a-15(f)(1). Asked of every step.
denials contains pack.reason("no_unique_user", "17 CFR 240.13a-15(f)(1)", "the step names no accountable subject and agent") if {
	not pack.unique_user
}

# 15 U.S.C. 78m(b)(2)(B)(iii)
denials contains pack.reason("role_not_allowed", "15 U.S.C. 78m(b)(2)(B)(iii)", "no role of the principal has access to these assets") if {
	financial
	not may_access
}

may_access if pack.has_role(pack.setting("allowed_roles"))

may_access if {
	count(pack.setting("allowed_roles")) == 0
	count(pack.roles) > 0
}

# 17 CFR 240.13a-15(f)(2)
escalations contains pack.reason("needs_authorization", "17 CFR 240.13a-15(f)(2)", "a transaction must be authorized by a person") if {
	financial
}

# 15 U.S.C. 78m(b)(2)(B)(i)
denials contains pack.reason("approver_not_listed", "15 U.S.C. 78m(b)(2)(B)(i)", "who agreed is none of approvers") if {
	controlled
	pack.approved
	not pack.approver_listed("approvers")
}

# COSO 2013 Principle 10
denials contains pack.reason("requester_approves", "COSO 2013 Principle 10", "who asked may not approve") if {
	controlled
	pack.approved_by_requester
}

denials contains pack.reason("roles_conflict", "COSO 2013 Principle 10", "the principal has two roles that are kept apart") if {
	controlled
	pack.roles_conflict("separate_roles")
}

# COSO 2013 Principle 11
denials contains pack.reason("no_change_ticket", "COSO 2013 Principle 11", "a change needs change_ticket in the step's metadata") if {
	change
	not pack.reference("change_ticket")
}

escalations contains pack.reason("change_needs_approval", "COSO 2013 Principle 11", "a change to programs or settings must be approved") if {
	change
}

controlled if financial

controlled if change

financial if pack.acts("financial")

change if pack.acts("changes")
