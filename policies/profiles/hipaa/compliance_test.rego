package meshflow.compliance_test

import data.meshflow.compliance

step := {
	"version": 1,
	"principal": {"subject": "dr.lee", "agent_id": "chart-agent", "verified": true, "roles": ["nurse"]},
	"tenant": "clinic",
	"node": {"id": "read_chart", "kind": "tool"},
	"action": null,
	"tool": "read_chart",
	"arguments": {"patient": "p-17"},
	"input": null,
	"declared": {"risk": null, "idempotent": null},
	"metadata": {},
}

codes(decision) := {reason.code | some reason in decision.reasons}

controls(decision) := {reason.control | some reason in decision.reasons}

test_a_verified_nurse_reads_a_chart_with_identifiers_masked if {
	decision := compliance.decision with input as step
	decision.allow
	not decision.escalate
	some duty in decision.obligations
	duty.name == "mask_entities"
	"US_SSN" in duty.parameters.entities
}

test_a_principal_without_credential_is_refused_by_312_d if {
	every principal in [{"verified": false}, {"verified": null}, {"verified": "true"}] {
		decision := compliance.decision with input as object.union(step, {"principal": principal})
		not decision.allow
		controls(decision) == {"45 CFR 164.312(d)"}
	}
}

test_an_empty_input_is_refused if {
	decision := compliance.decision with input as {}
	not decision.allow
	"not_authenticated" in codes(decision)
	"no_unique_user" in codes(decision)
	"no_role" in codes(decision)
}

test_a_shared_or_nameless_account_is_refused if {
	every subject in ["Admin", "shared", "", "  ", null] {
		decision := compliance.decision with input as object.union(step, {"principal": {"subject": subject}})
		controls(decision) == {"45 CFR 164.312(a)(2)(i)"}
	}
}

test_a_principal_without_role_is_refused if {
	decision := compliance.decision with input as object.union(step, {"principal": {"roles": []}})
	controls(decision) == {"45 CFR 164.312(a)(1)"}
}

test_a_role_that_is_not_allowed_is_refused if {
	decision := compliance.decision with input as step
		with data.meshflow.profile.settings as {"allowed_roles": ["clinician"]}
	controls(decision) == {"45 CFR 164.308(a)(4)(ii)(B)"}
	allowed := compliance.decision with input as step
		with data.meshflow.profile.settings as {"allowed_roles": ["nurse"]}
	allowed.allow
}

test_reaching_outside_needs_a_business_associate if {
	every kind in ["model", "http", "mcp", "carrier_pigeon"] {
		outside := object.union(step, {"tool": null, "node": {"id": "summarise", "kind": kind}})
		decision := compliance.decision with input as outside
		controls(decision) == {"45 CFR 164.308(b)(1)"}
		listed := compliance.decision with input as outside
			with data.meshflow.profile.settings as {"business_associates": ["summ*"]}
		listed.allow
	}
}

test_a_node_named_like_an_associate_does_not_cover_another_tool if {
	disguised := object.union(step, {"tool": "post_anywhere", "node": {"id": "claims_api", "kind": "http"}})
	decision := compliance.decision with input as disguised
		with data.meshflow.profile.settings as {"business_associates": ["claims_api"]}
	not decision.allow
}

test_an_address_without_encryption_is_refused_at_any_depth if {
	every url in ["http://lab.example/results", " HTTP://LAB.example", "ftp://lab.example"] {
		decision := compliance.decision with input as object.union(step, {"arguments": {"to": [{"url": url}]}})
		controls(decision) == {"45 CFR 164.312(e)(1)"}
	}
	mentioned := object.union(step, {"arguments": {"note": "see http://lab.example", "url": "https://lab.example"}})
	decision := compliance.decision with input as mentioned
	decision.allow
}

test_a_step_declared_irreversible_waits_for_a_person if {
	decision := compliance.decision with input as object.union(step, {"declared": {"risk": "irreversible"}})
	decision.allow
	decision.escalate
	controls(decision) == {"45 CFR 164.308(a)(3)(ii)(A)"}
	lower_risk := compliance.decision with input as object.union(step, {"declared": {"risk": "external_io"}})
	not lower_risk.escalate
}

test_supervised_tools_and_actions_wait_for_a_person if {
	every change in [{"tool": "export_chart"}, {"action": "export_all"}] {
		decision := compliance.decision with input as object.union(step, change)
			with data.meshflow.profile.settings as {"supervised": ["export_*"]}
		decision.escalate
	}
}

test_treatment_needs_purpose_and_role if {
	treating := object.union(step, {"metadata": {"purpose": "treatment"}})
	settings := {"treatment_roles": ["nurse"]}
	unmasked := compliance.decision with input as treating with data.meshflow.profile.settings as settings
	count(unmasked.obligations) == 0
	no_purpose := compliance.decision with input as step with data.meshflow.profile.settings as settings
	count(no_purpose.obligations) == 1
	no_role := compliance.decision with input as treating
		with data.meshflow.profile.settings as {"treatment_roles": ["surgeon"]}
	count(no_role.obligations) == 1
}

test_more_entities_can_be_masked if {
	decision := compliance.decision with input as step
		with data.meshflow.profile.settings as {"extra_entities": ["PERSON"]}
	some duty in decision.obligations
	"PERSON" in duty.parameters.entities
	"EMAIL_ADDRESS" in duty.parameters.entities
}

test_steps_without_health_information_are_asked_for_authentication_only if {
	settings := {"without_phi": ["weather"], "allowed_roles": ["clinician"]}
	weather := object.union(step, {"tool": "weather", "declared": {"risk": "irreversible"}})
	decision := compliance.decision with input as weather with data.meshflow.profile.settings as settings
	decision == {"allow": true, "reasons": set(), "obligations": set(), "escalate": false}
	anonymous := object.union(weather, {"principal": {"verified": false}})
	refused := compliance.decision with input as anonymous with data.meshflow.profile.settings as settings
	not refused.allow
}

test_a_tool_call_is_not_exempted_by_its_node if {
	disguised := object.union(step, {"node": {"id": "weather"}, "principal": {"roles": []}})
	decision := compliance.decision with input as disguised
		with data.meshflow.profile.settings as {"without_phi": ["weather"]}
	not decision.allow
}

test_an_emergency_needs_a_role_and_a_reason if {
	settings := {"emergency_roles": ["nurse"], "supervised": ["read_chart"]}
	urgent := object.union(step, {"metadata": {"purpose": "emergency"}})
	refused := compliance.decision with input as urgent with data.meshflow.profile.settings as settings
	controls(refused) == {"45 CFR 164.312(a)(2)(ii)"}
	reasoned := object.union(urgent, {"metadata": {"emergency_reason": "cardiac arrest"}})
	allowed := compliance.decision with input as reasoned with data.meshflow.profile.settings as settings
	allowed == {"allow": true, "reasons": set(), "obligations": set(), "escalate": false}
}

test_an_emergency_in_the_name_of_another_role_changes_nothing if {
	urgent := object.union(step, {"metadata": {"purpose": "emergency", "emergency_reason": "x"}, "tool": "export"})
	decision := compliance.decision with input as urgent
		with data.meshflow.profile.settings as {"emergency_roles": ["surgeon"], "supervised": ["export"]}
	decision.escalate
	count(decision.obligations) == 1
}
