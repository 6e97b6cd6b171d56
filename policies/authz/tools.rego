# Stage 11, tool permission: the same step again, now with its risk, its labels and what was found in it.
package meshflow.tools

import data.meshflow.lib

decision := {
	"allow": count(denials) == 0,
	"reasons": denials | escalations,
	"obligations": [],
	"escalate": count(escalations) > 0,
}

irreversible if {
	lib.is_tool_call
	input.risk == "irreversible"
}

outward if input.risk in {"external_io", "irreversible"}

# A risk that is not known counts as the worst.
irreversible if {
	lib.is_tool_call
	not risk_known
}

outward if not risk_known

risk_known if is_string(input.risk)

# settings: {verified_for_irreversible: true}
denials contains lib.reason("tools", "not_verified", "only a verified principal may call an irreversible tool") if {
	irreversible
	lib.setting("verified_for_irreversible", false) == true
	not lib.verified
}

# Keys, tokens and passwords that nobody masked stay inside: a tool that needs one fetches it itself.
denials contains lib.reason("tools", "secret_leaves", message) if {
	lib.is_tool_call
	outward
	input.labels.confidentiality == "secret"
	message := sprintf("the arguments of %s carry a secret", [input.tool])
}

# What cannot be undone waits for a person. settings: {approve_irreversible: false} lets it pass.
escalations contains lib.reason("tools", "needs_approval", message) if {
	irreversible
	lib.setting("approve_irreversible", true) != false
	message := sprintf("%s cannot be undone; a person must approve it", [input.tool])
}
