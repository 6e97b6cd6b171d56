# Stage 6: what the HIPAA Security Rule and the minimum necessary standard ask of a step. Each reason names its control.
package meshflow.compliance

decision := {
	"allow": count(denials) == 0,
	"reasons": denials | escalations,
	"obligations": obligations,
	"escalate": count(escalations) > 0,
}

reason(code, control, message) := {
	"code": code,
	"control": concat(" ", ["45 CFR", control]),
	"message": message,
	"rule": concat(".", ["hipaa", code]),
}

setting(name) := object.get(settings, name, [])

default settings := {}

settings := data.meshflow.profile.settings

# 164.312(d). Asked of every step, whatever it touches.
denials contains reason("not_authenticated", "164.312(d)", "no verified credential backs the principal") if {
	not authenticated
}

authenticated if input.principal.verified == true

# 164.312(a)(2)(i). Asked of every step too.
denials contains reason("no_unique_user", "164.312(a)(2)(i)", "the step names no accountable subject and agent") if {
	not unique_user
}

unique_user if {
	named(input.principal.subject)
	named(input.principal.agent_id)
	not shared_account
}

shared_account if {
	named(input.principal.subject)
	lower(trim_space(input.principal.subject)) in setting("shared_accounts")
}

named(text) if {
	is_string(text)
	trim_space(text) != ""
}

# 164.312(a)(1)
denials contains reason("no_role", "164.312(a)(1)", "the principal has no role") if {
	touches_phi
	count(roles) == 0
}

# 164.308(a)(4)(ii)(B)
denials contains reason("role_not_allowed", "164.308(a)(4)(ii)(B)", "allowed_roles has no role of the principal") if {
	touches_phi
	count(setting("allowed_roles")) > 0
	count(roles & {role | some role in setting("allowed_roles")}) == 0
}

# 164.308(b)(1)
denials contains reason("no_business_associate", "164.308(b)(1)", message) if {
	touches_phi
	outside
	not listed("business_associates")
	message := "the step reaches outside, and business_associates lists neither its tool nor its node"
}

# A kind that is unknown here counts as outside.
outside if not inside

inside if input.node.kind in {"agent", "function", "human", "subgraph", "tool"}

# 164.312(e)(1). A text that is an address, not one that mentions it.
denials contains reason("unencrypted", "164.312(e)(1)", "the arguments name an address without encryption") if {
	touches_phi
	some part in ["arguments", "input"]
	walk(object.get(input, part, null), [_, value])
	unencrypted(value)
}

unencrypted(value) if {
	is_string(value)
	some scheme in ["http://", "ftp://", "ws://", "telnet://"]
	startswith(lower(trim_space(value)), scheme)
}

# 164.308(a)(3)(ii)(A)
escalations contains reason("needs_supervision", "164.308(a)(3)(ii)(A)", "a person must agree to this step") if {
	touches_phi
	supervised
}

supervised if {
	tiers := ["read_only", "internal", "external_io", "irreversible"]
	some floor, tier in tiers
	tier == data.meshflow.profile.approval.declared_risk
	some rank, declared in tiers
	declared == input.declared.risk
	rank >= floor
}

supervised if {
	some pattern in setting("supervised")
	some name in [input.tool, input.action]
	matches(pattern, name)
}

# 164.502(b) and 164.514(d). Parameters without entities mean all of them.
obligations contains {"name": "mask_entities", "parameters": {"entities": entities}} if {
	touches_phi
	not treatment
}

entities := sort(own_entities | {entity | some entity in setting("extra_entities")})

own_entities := {entity | some entity in data.meshflow.profile.entities}

# 164.502(b)(2)(i): the standard does not bind those who treat. The purpose is the caller's word; a role must back it.
treatment if {
	authenticated
	input.metadata.purpose == "treatment"
	count(roles & {role | some role in setting("treatment_roles")}) > 0
}

default touches_phi := true

touches_phi := false if listed("without_phi")

# A node's id is the caller's to choose: where a tool is called, its name decides.
listed(name) if {
	is_tool_call
	some pattern in setting(name)
	matches(pattern, input.tool)
}

listed(name) if {
	not is_tool_call
	some pattern in setting(name)
	matches(pattern, input.node.id)
}

is_tool_call if is_string(input.tool)

matches(pattern, name) if pattern == name

matches(pattern, name) if {
	is_string(name)
	endswith(pattern, "*")
	startswith(name, trim_suffix(pattern, "*"))
}

roles := {role | some role in input.principal.roles}
