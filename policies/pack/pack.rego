# What profile packs share. Every pack finds it as data.meshflow.pack; its own rules are in data.meshflow.compliance.
package meshflow.pack

# The decision of a pack: it allows what no denial refuses, and asks a person where an escalation says so.
answer(denials, escalations, obligations) := {
	"allow": count(denials) == 0,
	"reasons": denials | escalations,
	"obligations": obligations,
	"escalate": count(escalations) > 0,
}

# A reason says which rule decided, and names the control that the rule serves, as the manifest spells it.
reason(code, control, message) := {
	"code": code,
	"control": control,
	"message": message,
	"rule": concat(".", [profile_name, code]),
}

default profile_name := "profile"

profile_name := data.meshflow.profile.name

default settings := {}

settings := data.meshflow.profile.settings

# A setting that is a list, empty where it is not set.
setting(name) := object.get(settings, name, [])

# Any other setting, or what to take where it is not set.
setting_or(name, otherwise) := object.get(settings, name, otherwise)

# Who asks

default verified := false

verified if input.principal.verified == true

default unique_user := false

# A person or service and an agent that can be told apart from all others.
unique_user if {
	named(input.principal.subject)
	named(input.principal.agent_id)
	not shared_account
}

default shared_account := false

shared_account if {
	named(input.principal.subject)
	lower(trim_space(input.principal.subject)) in setting("shared_accounts")
}

named(text) if {
	is_string(text)
	trim_space(text) != ""
}

roles := {role | some role in input.principal.roles}

has_role(wanted) if count(roles & {role | some role in wanted}) > 0

# What is asked

is_tool_call if is_string(input.tool)

matches(pattern, name) if pattern == name

matches(pattern, name) if {
	is_string(name)
	endswith(pattern, "*")
	startswith(name, trim_suffix(pattern, "*"))
}

# Whether a list of the settings names the step. A node's id is the caller's to choose: a tool decides by its name.
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

# Whether a list names the step's tool or its action.
acts(name) if {
	some pattern in setting(name)
	some what in [input.tool, input.action]
	matches(pattern, what)
}

acts(name) if listed(name)

default outside := true

# A kind that is unknown here counts as outside.
outside := false if input.node.kind in {"agent", "function", "human", "subgraph", "tool"}

tiers := ["read_only", "internal", "external_io", "irreversible"]

# Whether the caller declares this risk or a higher one.
declares(tier) if {
	some floor, one in tiers
	one == tier
	some rank, declared in tiers
	declared == input.declared.risk
	rank >= floor
}

default supervised := false

supervised if declares(data.meshflow.profile.approval.declared_risk)

supervised if acts("supervised")

default plain_address := false

# A text that is an address without encryption, not one that mentions it, at any depth of what the step carries.
plain_address if {
	some part in ["arguments", "input"]
	walk(object.get(input, part, null), [_, value])
	unencrypted(value)
}

unencrypted(value) if {
	is_string(value)
	contains(value, "://") # one look spares all others the rest
	text := lower(trim_space(value))
	some scheme in ["http://", "ftp://", "ws://", "telnet://", "ldap://", "smtp://"]
	startswith(text, scheme)
}

# Who agreed

default approved := false

approved if input.approval.approved == true

default approved_by_requester := false

approved_by_requester if {
	approved
	some name in [input.principal.subject, input.principal.agent_id]
	is_string(name)
	lower(trim_space(name)) == lower(trim_space(input.approval.approver))
}

# Whether who approved is in a list of the settings; an empty list lets anybody approve.
approver_listed(name) if count(setting(name)) == 0

approver_listed(name) if {
	some one in setting(name)
	lower(one) == lower(trim_space(input.approval.approver))
}

# Whether the principal has two roles that "preparer+approver" of a list keeps apart.
roles_conflict(name) if {
	some pair in setting(name)
	parts := split(pair, "+")
	count(parts) > 1
	every part in parts {
		trim_space(part) in roles
	}
}

# Whether some key of what the step carries, at any depth, is one of these.
carries_key(names) if {
	some part in ["arguments", "input"]
	walk(object.get(input, part, null), [path, value])
	count(path) > 0
	value != null
	lower(sprintf("%v", [path[count(path) - 1]])) in names
}

# What the ledger keeps for good may not name a person: no erasure reaches it.
default names_a_person := false

names_a_person if {
	some text in [input.run.run_id, input.step.step_id, input.node.id, input.tool, input.action]
	is_string(text)
	regex.match(`[^\s@]@[^\s@]+\.[^\s@]`, text)
}

# A reference that the step's metadata carries, such as a change ticket.
reference(key) if named(input.metadata[key])

# Obligations

entities := sort(own_entities | {entity | some entity in setting("extra_entities")})

own_entities := {entity | some entity in data.meshflow.profile.entities}

# Parameters without entities would mean all of them.
mask := {"name": "mask_entities", "parameters": {"entities": entities}}
