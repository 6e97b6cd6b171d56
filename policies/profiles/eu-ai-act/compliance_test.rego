package meshflow.compliance_test

import data.meshflow.compliance

step := {
	"principal": {"subject": "ana", "agent_id": "hr-agent", "verified": true, "roles": []},
	"node": {"id": "rank", "kind": "model"},
	"action": "rank_candidates",
	"tool": null,
	"arguments": null,
	"input": {},
	"declared": {"risk": null},
	"approval": null,
	"metadata": {"purpose": "recruitment"},
}

settings := {"oversight": ["rank_*"], "overseers": ["mara"], "intended_purposes": ["recruitment"]}

codes(decision) := {reason.code | some reason in decision.reasons}

controls(decision) := {reason.control | some reason in decision.reasons}

test_an_ordinary_step_is_allowed if {
	decision := compliance.decision with input as step with data.meshflow.profile.settings as {}
	decision == {"allow": true, "reasons": set(), "obligations": [], "escalate": false}
}

test_an_empty_input_is_refused if {
	decision := compliance.decision with input as {}
	controls(decision) == {"EU AI Act Art. 12(2)(a)"}
}

test_a_step_under_oversight_waits_for_a_person if {
	decision := compliance.decision with input as step with data.meshflow.profile.settings as settings
	decision.escalate
	controls(decision) == {"EU AI Act Art. 14(1)"}
	risky := object.union(step, {"declared": {"risk": "irreversible"}})
	asked := compliance.decision with input as risky with data.meshflow.profile.settings as {}
	asked.escalate
}

test_oversight_is_by_those_assigned_and_never_by_who_asked if {
	assigned := object.union(step, {"approval": {"approver": "Mara", "approved": true}})
	allowed := compliance.decision with input as assigned with data.meshflow.profile.settings as settings
	allowed.allow
	other := object.union(step, {"approval": {"approver": "bo", "approved": true}})
	refused := compliance.decision with input as other with data.meshflow.profile.settings as settings
	not refused.allow
	"overseer_not_assigned" in codes(refused)
	own := object.union(step, {"approval": {"approver": "ana", "approved": true}})
	itself := compliance.decision with input as own with data.meshflow.profile.settings as {"oversight": ["rank_*"]}
	not itself.allow
	"overseen_by_requester" in codes(itself)
}

test_another_purpose_is_refused if {
	other := object.union(step, {"metadata": {"purpose": "dismissal"}})
	decision := compliance.decision with input as other with data.meshflow.profile.settings as settings
	not decision.allow
	"not_intended" in codes(decision)
	none := compliance.decision with input as object.remove(step, ["metadata"])
		with data.meshflow.profile.settings as settings
	"not_intended" in codes(none)
}

test_what_is_not_high_risk_is_left_alone if {
	decision := compliance.decision with input as object.union(step, {"metadata": {"purpose": "chat"}})
		with data.meshflow.profile.settings as object.union(settings, {"not_high_risk": ["rank"]})
	decision == {"allow": true, "reasons": set(), "obligations": [], "escalate": false}
}
