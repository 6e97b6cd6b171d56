# Stage 6: what the NERC CIP standards ask of a step near BES Cyber Systems. Each reason names its requirement part.
package meshflow.compliance

import data.meshflow.pack

decision := pack.answer(denials, escalations, obligations)

# CIP-007-6 R5 Part 5.1. Asked of every step.
denials contains pack.reason("not_authenticated", "CIP-007-6 R5 Part 5.1", "no verified credential backs the principal") if {
	not pack.verified
}

# CIP-007-6 R5 Part 5.3. Asked of every step.
denials contains pack.reason("shared_account", "CIP-007-6 R5 Part 5.3", "the step is not one identified person's") if {
	not pack.unique_user
}

# CIP-004-7 R4 Part 4.1
denials contains pack.reason("access_not_authorized", "CIP-004-7 R4 Part 4.1", "no role of the principal is authorized for electronic access") if {
	touches_bes
	not authorized
}

authorized if pack.has_role(pack.setting("authorized_roles"))

# CIP-004-7 R6 Part 6.1
denials contains pack.reason("bcsi_not_authorized", "CIP-004-7 R6 Part 6.1", "no role of the principal is authorized for BES Cyber System Information") if {
	bcsi
	not pack.has_role(pack.setting("bcsi_roles"))
}

# CIP-011-3 R1 Part 1.1
denials contains pack.reason("bcsi_not_identified", "CIP-011-3 R1 Part 1.1", "the step's metadata does not say classification: bcsi") if {
	pack.acts("bcsi")
	not marked
}

marked if input.metadata.classification == "bcsi"

# CIP-011-3 R1 Part 1.2
denials contains pack.reason("bcsi_leaves", "CIP-011-3 R1 Part 1.2", "BES Cyber System Information would leave for a place that destinations does not list") if {
	bcsi
	pack.outside
	not pack.listed("destinations")
}

denials contains pack.reason("bcsi_unencrypted", "CIP-011-3 R1 Part 1.2", "the arguments name an address without encryption") if {
	bcsi
	pack.plain_address
}

# CIP-010-4 R1 Part 1.2
denials contains pack.reason("no_change_ticket", "CIP-010-4 R1 Part 1.2", "a change needs change_ticket in the step's metadata") if {
	pack.acts("changes")
	not pack.reference("change_ticket")
}

escalations contains pack.reason("change_needs_authorization", "CIP-010-4 R1 Part 1.2", "a change to the baseline must be authorized by a person") if {
	pack.acts("changes")
}

denials contains pack.reason("authorized_by_requester", "CIP-010-4 R1 Part 1.2", "who asked for the change authorized it") if {
	pack.acts("changes")
	pack.approved_by_requester
}

# Network addresses of the systems are BCSI themselves.
obligations contains pack.mask if {
	touches_bes
	pack.outside
	not pack.listed("destinations")
}

bcsi if pack.acts("bcsi")

bcsi if marked

default touches_bes := true

touches_bes := false if pack.listed("without_bes")
