package meshflow.pack_test

import data.meshflow.pack

step := {
	"principal": {"subject": "ana", "agent_id": "desk", "verified": true, "roles": ["support"]},
	"node": {"id": "greet", "kind": "function"},
	"action": null,
	"tool": null,
	"arguments": null,
	"input": null,
	"declared": {"risk": null},
	"approval": null,
	"metadata": {},
}

test_an_answer_allows_what_nothing_denies if {
	pack.answer(set(), set(), []) == {"allow": true, "reasons": set(), "obligations": [], "escalate": false}
	denial := pack.reason("late", "X 1", "too late")
	pack.answer({denial}, set(), []).allow == false
	pack.answer(set(), {denial}, []) == {"allow": true, "reasons": {denial}, "obligations": [], "escalate": true}
}

test_a_reason_names_the_profile if {
	found := pack.reason("late", "X 1", "too late") with data.meshflow.profile as {"name": "acme"}
	found == {"code": "late", "control": "X 1", "message": "too late", "rule": "acme.late"}
}

test_only_true_is_verified if {
	pack.verified with input as step
	every said in [false, null, "true", 1] {
		not pack.verified with input as object.union(step, {"principal": {"verified": said}})
	}
	not pack.verified with input as {}
}

test_a_shared_or_blank_account_is_no_unique_user if {
	settings := {"shared_accounts": ["admin"]}
	pack.unique_user with input as step with data.meshflow.profile.settings as settings
	every subject in ["Admin ", "", "  ", null] {
		not pack.unique_user with input as object.union(step, {"principal": {"subject": subject}})
			with data.meshflow.profile.settings as settings
	}
}

test_a_tool_is_listed_by_its_name_and_not_by_its_node if {
	settings := {"quiet": ["greet", "lookup_*"]}
	pack.listed("quiet") with input as step with data.meshflow.profile.settings as settings
	call := object.union(step, {"tool": "lookup_order"})
	pack.listed("quiet") with input as call with data.meshflow.profile.settings as settings
	disguised := object.union(step, {"tool": "wipe"})
	not pack.listed("quiet") with input as disguised with data.meshflow.profile.settings as settings
	not pack.listed("other") with input as step with data.meshflow.profile.settings as settings
}

test_an_action_counts_where_a_list_is_of_acts if {
	acting := object.union(step, {"action": "wire_money"})
	pack.acts("money") with input as acting with data.meshflow.profile.settings as {"money": ["wire_*"]}
	not pack.acts("money") with input as step with data.meshflow.profile.settings as {"money": ["wire_*"]}
}

test_a_kind_that_is_unknown_is_outside if {
	not pack.outside with input as step
	every kind in ["model", "http", "mcp", "carrier_pigeon"] {
		pack.outside with input as object.union(step, {"node": {"kind": kind}})
	}
	pack.outside with input as {}
}

test_a_declared_risk_counts_from_its_tier_on if {
	risky := object.union(step, {"declared": {"risk": "external_io"}})
	pack.declares("internal") with input as risky
	pack.declares("external_io") with input as risky
	not pack.declares("irreversible") with input as risky
	not pack.declares("internal") with input as step
}

test_an_address_without_encryption_is_found_at_any_depth if {
	pack.plain_address with input as object.union(step, {"input": {"to": [" FTP://x"]}})
	not pack.plain_address with input as object.union(step, {"input": {"note": "see http://x", "to": "https://x"}})
}

test_nobody_approves_their_own_step if {
	agreed := object.union(step, {"approval": {"approver": " ANA", "approved": true}})
	pack.approved with input as agreed
	pack.approved_by_requester with input as agreed
	other := object.union(step, {"approval": {"approver": "mara", "approved": true}})
	not pack.approved_by_requester with input as other
	not pack.approved with input as step
}

test_an_obligation_to_mask_names_its_entities if {
	profile := {"entities": ["US_SSN"], "settings": {"extra_entities": ["PERSON"]}}
	pack.mask.parameters.entities == ["PERSON", "US_SSN"] with data.meshflow.profile as profile
}
