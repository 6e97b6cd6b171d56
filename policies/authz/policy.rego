# Stage 5, policy evaluation: who may do what, when, and for how much. Risk and labels come later; see tools.rego.
#
# Everything is allowed that no rule below refuses. To add a rule, add a `denials contains ... if { ... }`.
package meshflow.policy

import data.meshflow.lib

decision := {
	"allow": count(denials) == 0,
	"reasons": denials,
	"obligations": [],
	"escalate": false,
}

denials contains lib.reason("policy", "no_principal", "nobody is accountable for this step") if {
	not someone
}

# `not` takes the name of a rule here, never a call: of what is missing, `not f(input.x)` is not true but nothing.
someone if is_object(input.principal)

# blocked_tools: [shell, "admin_*"]
denials contains lib.reason("policy", "tool_blocked", sprintf("the tool %s is blocked", [input.tool])) if {
	lib.is_tool_call
	some pattern in data.meshflow.blocked_tools
	lib.matches(pattern, input.tool)
}

# roles: {support: {tools: ["lookup_*", refund]}}. Once there is such a list, only what a role grants may be called.
denials contains lib.reason("policy", "tool_not_granted", message) if {
	lib.is_tool_call
	data.meshflow.roles
	not granted
	message := sprintf("no role of the principal grants the tool %s", [input.tool])
}

granted if {
	lib.is_tool_call
	some role in input.principal.roles
	some pattern in data.meshflow.roles[role].tools
	lib.matches(pattern, input.tool)
}

# A call may not name another tenant than the one that the step runs for.
denials contains lib.reason("policy", "other_tenant", "the arguments name another tenant") if {
	lib.is_tool_call
	some key in ["tenant", "tenant_id"]
	input.arguments[key] != input.tenant
}

# settings: {max_step_micro_usd: 500000} is 0.50 USD a step.
denials contains lib.reason("policy", "step_too_dear", message) if {
	cap := lib.setting("max_step_micro_usd", null)
	is_number(cap)
	input.estimate.micro_usd > cap
	message := sprintf("the step may cost %d micro-USD; the cap is %d", [input.estimate.micro_usd, cap])
}

# settings: {office_hours: {zone: Europe/Berlin, from: 8, to: 18}} lets tools be called on weekdays, 8:00 to 17:59.
denials contains lib.reason("policy", "outside_office_hours", "tools are called in office hours only") if {
	lib.is_tool_call
	hours := lib.setting("office_hours", null)
	is_object(hours)
	not within(hours)
}

within(hours) if {
	now := [input.time_us * 1000, hours.zone]
	not time.weekday(now) in {"Saturday", "Sunday"}
	[hour, _, _] := time.clock(now)
	hour >= hours.from
	hour < hours.to
}

# A misspelt setting would be a rule that never fires.
denials contains lib.reason("policy", "unknown_setting", sprintf("data.yaml has an unknown setting %s", [name])) if {
	some name, _ in data.meshflow.settings
	not name in known_settings
}

known_settings := {"approve_irreversible", "max_step_micro_usd", "office_hours", "verified_for_irreversible"}
