package meshflow.policy_test

import data.meshflow.policy

principal := {"subject": "ana", "agent_id": "desk", "verified": false, "roles": ["support"]}

step := {
	"version": 1,
	"time_us": 1700000000000000, # Tuesday 2023-11-14, 22:13 UTC
	"principal": principal,
	"tenant": "acme",
	"tool": null,
	"arguments": null,
	"estimate": {"micro_usd": null, "tokens": 0},
}

call := object.union(step, {"tool": "lookup_order", "arguments": {"id": 7}})

codes(decision) := {reason.code | some reason in decision.reasons}

test_an_ordinary_step_is_allowed if {
	policy.decision == {"allow": true, "reasons": set(), "obligations": [], "escalate": false} with input as step
}

test_a_tool_call_of_the_local_principal_is_allowed if {
	policy.decision.allow with input as call
}

test_a_step_without_a_principal_is_refused if {
	decision := policy.decision with input as object.union(step, {"principal": null})
	not decision.allow
	codes(decision) == {"no_principal"}
}

test_an_empty_input_is_refused if {
	not policy.decision.allow with input as {}
}

test_a_blocked_tool_is_refused_by_name_and_by_prefix if {
	every pattern in ["lookup_order", "lookup_*", "*"] {
		decision := policy.decision with input as call with data.meshflow.blocked_tools as [pattern]
		not decision.allow
		codes(decision) == {"tool_blocked"}
	}
	policy.decision.allow with input as call with data.meshflow.blocked_tools as ["lookup", "order", "*order"]
}

test_roles_grant_tools if {
	roles := {"support": {"tools": ["lookup_*"]}, "admin": {"tools": ["*"]}}
	policy.decision.allow with input as call with data.meshflow.roles as roles
	refund := object.union(call, {"tool": "refund"})
	decision := policy.decision with input as refund with data.meshflow.roles as roles
	codes(decision) == {"tool_not_granted"}
	policy.decision.allow with input as step with data.meshflow.roles as roles
}

test_an_empty_list_of_roles_grants_nothing if {
	not policy.decision.allow with input as call with data.meshflow.roles as {}
}

test_arguments_may_not_name_another_tenant if {
	same := object.union(call, {"arguments": {"tenant": "acme"}})
	policy.decision.allow with input as same
	every key in ["tenant", "tenant_id"] {
		other := object.union(call, {"arguments": {key: "rival"}})
		decision := policy.decision with input as other
		codes(decision) == {"other_tenant"}
	}
}

test_a_step_above_the_cap_is_refused if {
	dear := object.union(step, {"estimate": {"micro_usd": 500001, "tokens": 0}})
	policy.decision.allow with input as dear
	settings := {"max_step_micro_usd": 500000}
	decision := policy.decision with input as dear with data.meshflow.settings as settings
	codes(decision) == {"step_too_dear"}
	level := object.union(step, {"estimate": {"micro_usd": 500000, "tokens": 0}})
	policy.decision.allow with input as level with data.meshflow.settings as settings
}

test_office_hours_bind_tools_only if {
	day := {"office_hours": {"zone": "UTC", "from": 8, "to": 18}}
	night := {"office_hours": {"zone": "UTC", "from": 22, "to": 23}}
	decision := policy.decision with input as call with data.meshflow.settings as day
	codes(decision) == {"outside_office_hours"}
	policy.decision.allow with input as call with data.meshflow.settings as night
	policy.decision.allow with input as step with data.meshflow.settings as day
}

test_the_weekend_is_outside_office_hours if {
	saturday := object.union(call, {"time_us": 1700308800000000}) # 2023-11-18, 12:00 UTC
	settings := {"office_hours": {"zone": "UTC", "from": 8, "to": 18}}
	not policy.decision.allow with input as saturday with data.meshflow.settings as settings
}

test_a_misspelt_setting_is_refused if {
	decision := policy.decision with input as step with data.meshflow.settings as {"max_step_usd": 1}
	codes(decision) == {"unknown_setting"}
}

test_the_rule_is_named if {
	decision := policy.decision with input as call with data.meshflow.blocked_tools as ["*"]
	some reason in decision.reasons
	reason.rule == "meshflow.policy.tool_blocked"
}
