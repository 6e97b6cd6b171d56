# Stage 6: what the General Data Protection Regulation asks of a step. Each reason names its article.
package meshflow.compliance

import data.meshflow.pack

decision := pack.answer(denials, escalations, obligations)

reason(code, article, message) := pack.reason(code, concat(" ", ["GDPR", article]), message)

# Art. 32(1)(b). Asked of every step: without knowing who acts, nothing is confidential.
denials contains reason("not_authenticated", "Art. 32(1)(b)", "no verified credential backs the principal") if {
	not pack.verified
}

# Art. 17(1). Asked of every step: ids of runs, steps, nodes, tools and actions stay in the ledger for good.
denials contains reason("not_erasable", "Art. 17(1)", "an id or name that cannot be erased later names a person") if {
	pack.names_a_person
}

# Art. 32(4)
denials contains reason("no_role", "Art. 32(4)", "the principal has no role under which it was instructed") if {
	touches_personal_data
	count(pack.roles) == 0
}

# Art. 30(1)(b)
denials contains reason("no_purpose", "Art. 30(1)(b)", "the step's metadata states no purpose") if {
	touches_personal_data
	not pack.reference("purpose")
}

# Art. 5(1)(b)
denials contains reason("other_purpose", "Art. 5(1)(b)", "the purpose is none of those that data were collected for") if {
	touches_personal_data
	pack.reference("purpose")
	count(pack.setting("purposes")) > 0
	not input.metadata.purpose in pack.setting("purposes")
}

# Art. 30(1)(d)
denials contains reason("unknown_recipient", "Art. 30(1)(d)", message) if {
	touches_personal_data
	pack.outside
	not pack.listed("recipients")
	message := "the step reaches outside, and recipients lists neither its tool nor its node"
}

# Art. 32(1)(a)
denials contains reason("unencrypted", "Art. 32(1)(a)", "the arguments name an address without encryption") if {
	touches_personal_data
	pack.plain_address
}

# Art. 22(3): the right to obtain human intervention, before the decision takes effect.
escalations contains reason("needs_a_person", "Art. 22(3)", "a person must decide on what has legal effects") if {
	pack.acts("legal_effect")
}

# Art. 22(3): who asks for the decision does not review it.
denials contains reason("reviewed_by_requester", "Art. 22(3)", "who asked for the decision reviewed it") if {
	pack.acts("legal_effect")
	pack.approved_by_requester
}

# Art. 5(1)(c), Art. 25(1)
obligations contains pack.mask if {
	touches_personal_data
	not identified
}

# Purposes that cannot be served without identifiers.
identified if {
	pack.verified
	input.metadata.purpose in pack.setting("identified_purposes")
}

default touches_personal_data := true

touches_personal_data := false if pack.listed("without_personal_data")
