# An 80-line policy over 1,000 roles and 1,000 tools, as a desk of agents may have one.
package meshflow.policy

decision := {
	"allow": count(denials) == 0,
	"reasons": denials,
	"obligations": obligations,
	"escalate": escalate,
}

denials contains {"code": "no_principal", "message": "nobody is accountable"} if not someone

someone if is_object(input.principal)

# Roles inherit from others, up to three steps away.
granted_roles contains role if some role in input.principal.roles

granted_roles contains parent if {
	some role in input.principal.roles
	some parent in data.desk.roles[role].inherits
}

granted_roles contains grandparent if {
	some role in input.principal.roles
	some parent in data.desk.roles[role].inherits
	some grandparent in data.desk.roles[parent].inherits
}

grants contains pattern if {
	some role in granted_roles
	some pattern in data.desk.roles[role].tools
}

denials contains {"code": "tool_not_granted", "message": sprintf("no role grants %s", [input.tool])} if {
	is_string(input.tool)
	not granted
}

granted if {
	some pattern in grants
	glob.match(pattern, ["."], input.tool)
}

denials contains {"code": "unknown_tool", "message": sprintf("%s is not declared", [input.tool])} if {
	is_string(input.tool)
	not data.desk.tools[input.tool]
}

denials contains {"code": "too_dear", "message": "the estimate exceeds the role's budget"} if {
	limits := {limit | some role in granted_roles; limit := data.desk.roles[role].budget_micro_usd}
	input.estimate.micro_usd > max(limits)
}

denials contains {"code": "other_tenant", "message": "the arguments name another tenant"} if {
	some key in ["tenant", "tenant_id"]
	input.arguments[key] != input.tenant
}

denials contains {"code": "tenant_suspended", "message": "the tenant is suspended"} if {
	data.desk.tenants[input.tenant].suspended
}

denials contains {"code": "unlabelled", "message": "the step carries a label that its tool does not take"} if {
	some label in input.metadata.labels
	not label in data.desk.tools[input.tool].accepts
}

denials contains {"code": "blocked_text", "message": "the arguments hold a blocked word"} if {
	some pattern in data.desk.blocked
	some value in input.arguments
	is_string(value)
	regex.match(pattern, value)
}

denials contains {"code": "closed", "message": "the desk is closed"} if {
	hour := time.clock(input.time_us * 1000)[0]
	hour < data.desk.hours.from
}

default escalate := false

escalate if data.desk.tools[input.tool].tier >= 3

obligations contains {"name": "mask_entities", "parameters": {"entities": data.desk.tools[input.tool].mask}} if {
	data.desk.tools[input.tool].mask
}
