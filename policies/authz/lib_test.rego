package meshflow.lib_test

import data.meshflow.lib

test_a_reason_names_its_rule if {
	lib.reason("policy", "too_dear", "no") == {"code": "too_dear", "message": "no", "rule": "meshflow.policy.too_dear"}
}

test_a_pattern_matches_itself_and_by_prefix if {
	lib.matches("refund", "refund")
	lib.matches("lookup_*", "lookup_order")
	lib.matches("*", "anything")
	not lib.matches("refund", "refund_all")
	not lib.matches("*_order", "lookup_order")
}

test_only_a_named_tool_is_a_tool_call if {
	lib.is_tool_call with input as {"tool": "refund"}
	not lib.is_tool_call with input as {"tool": null}
	not lib.is_tool_call with input as {}
}

test_nobody_is_verified_unless_it_says_so if {
	lib.verified with input as {"principal": {"verified": true}}
	not lib.verified with input as {"principal": {"verified": false}}
	not lib.verified with input as {"principal": null}
	not lib.verified with input as {}
}

test_a_setting_has_a_value_where_data_has_none if {
	lib.setting("office_hours", null) == null with data.meshflow.settings as {}
	lib.setting("approve_irreversible", true) == false with data.meshflow.settings as {"approve_irreversible": false}
}
