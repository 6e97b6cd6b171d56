# Stage 6: what the EU AI Act asks of a step of a high-risk AI system. Each reason names its article.
package meshflow.compliance

import data.meshflow.pack

decision := pack.answer(denials, escalations, [])

reason(code, article, message) := pack.reason(code, concat(" ", ["EU AI Act", article]), message)

# Art. 26(1): use in accordance with the instructions of the provider.
denials contains reason("not_intended", "Art. 26(1)", "the step's purpose is none of those that the system is intended for") if {
	high_risk
	count(pack.setting("intended_purposes")) > 0
	not intended
}

intended if input.metadata.purpose in pack.setting("intended_purposes")

# Art. 12(2)(a): a risk that happens in nobody's name cannot be traced.
denials contains reason("not_traceable", "Art. 12(2)(a)", "the step names no accountable subject and agent") if {
	high_risk
	not pack.unique_user
}

# Art. 14(1)
escalations contains reason("needs_oversight", "Art. 14(1)", "a person must oversee this step") if {
	overseen
}

# Art. 26(2): oversight is assigned to people with competence, training and authority.
denials contains reason("overseer_not_assigned", "Art. 26(2)", "who agreed is none of overseers") if {
	overseen
	pack.approved
	not pack.approver_listed("overseers")
}

denials contains reason("overseen_by_requester", "Art. 14(1)", "who asked cannot oversee") if {
	overseen
	pack.approved_by_requester
}

overseen if {
	high_risk
	pack.acts("oversight")
}

overseen if {
	high_risk
	pack.declares(data.meshflow.profile.approval.declared_risk)
}

default high_risk := true

high_risk := false if pack.listed("not_high_risk")
