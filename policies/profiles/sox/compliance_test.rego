package meshflow.compliance_test

import data.meshflow.compliance

step := {
	"principal": {"subject": "ana", "agent_id": "ledger-agent", "verified": true, "roles": ["clerk"]},
	"node": {"id": "n", "kind": "tool"},
	"action": null,
	"tool": "read_balance",
	"arguments": {},
	"input": null,
	"declared": {"risk": null},
	"approval": null,
	"metadata": {},
}

posting := object.union(step, {"tool": "post_journal"})

deploying := object.union(step, {"tool": "deploy", "metadata": {"change_ticket": "CHG-1"}})

settings := {"financial": ["post_*"], "changes": ["deploy"], "shared_accounts": ["admin"]}

controls(decision) := {reason.control | some reason in decision.reasons}

test_an_ordinary_step_is_allowed if {
	decision := compliance.decision with input as step with data.meshflow.profile.settings as settings
	decision == {"allow": true, "reasons": set(), "obligations": [], "escalate": false}
}

test_an_empty_input_is_refused if {
	decision := compliance.decision with input as {}
	not decision.allow
}

test_who_acts_is_verified_and_alone if {
	unverified := compliance.decision with input as object.union(step, {"principal": {"verified": false}})
	controls(unverified) == {"17 CFR 240.13a-15(f)(3)"}
	shared := compliance.decision with input as object.union(step, {"principal": {"subject": "ADMIN"}})
		with data.meshflow.profile.settings as settings
	controls(shared) == {"17 CFR 240.13a-15(f)(1)"}
}

test_a_transaction_is_authorized_by_a_person if {
	decision := compliance.decision with input as posting with data.meshflow.profile.settings as settings
	decision.allow
	decision.escalate
	controls(decision) == {"17 CFR 240.13a-15(f)(2)"}
}

test_access_to_assets_comes_with_a_role if {
	strict := object.union(settings, {"allowed_roles": ["accountant"]})
	decision := compliance.decision with input as posting with data.meshflow.profile.settings as strict
	"15 U.S.C. 78m(b)(2)(B)(iii)" in controls(decision)
	not decision.allow
	roleless := compliance.decision with input as object.union(posting, {"principal": {"roles": []}})
		with data.meshflow.profile.settings as settings
	not roleless.allow
}

test_who_agreed_is_an_approver if {
	strict := object.union(settings, {"approvers": ["mara"]})
	agreed := object.union(posting, {"approval": {"approver": "Mara", "approved": true}})
	allowed := compliance.decision with input as agreed with data.meshflow.profile.settings as strict
	allowed.allow
	other := object.union(posting, {"approval": {"approver": "bo", "approved": true}})
	refused := compliance.decision with input as other with data.meshflow.profile.settings as strict
	not refused.allow
	"15 U.S.C. 78m(b)(2)(B)(i)" in controls(refused)
}

test_who_asked_may_not_approve if {
	every approver in ["ana", " ANA ", "ledger-agent"] {
		own := object.union(posting, {"approval": {"approver": approver, "approved": true}})
		decision := compliance.decision with input as own with data.meshflow.profile.settings as settings
		not decision.allow
		"requester_approves" in {reason.code | some reason in decision.reasons}
	}
}

test_roles_that_are_kept_apart_are_not_held_together if {
	strict := object.union(settings, {"separate_roles": ["preparer + approver"]})
	both := object.union(posting, {"principal": {"roles": ["preparer", "approver"]}})
	decision := compliance.decision with input as both with data.meshflow.profile.settings as strict
	not decision.allow
	"roles_conflict" in {reason.code | some reason in decision.reasons}
	one := object.union(posting, {"principal": {"roles": ["preparer"]}})
	allowed := compliance.decision with input as one with data.meshflow.profile.settings as strict
	allowed.allow
}

test_a_change_has_a_ticket_and_an_approval if {
	decision := compliance.decision with input as deploying with data.meshflow.profile.settings as settings
	decision.escalate
	codes := {reason.code | some reason in decision.reasons}
	codes == {"change_needs_approval"}
	ticketless := compliance.decision with input as object.remove(deploying, ["metadata"])
		with data.meshflow.profile.settings as settings
	not ticketless.allow
	"no_change_ticket" in {reason.code | some reason in ticketless.reasons}
}
