# What the other files share. Texts that people read are made here, so that all reasons look alike.
package meshflow.lib

# A reason says which rule decided: a stable code, a sentence, and the rule's own name.
reason(area, code, message) := {
	"code": code,
	"message": message,
	"rule": concat(".", ["meshflow", area, code]),
}

# "refund" names one tool, "lookup_*" all that start so.
matches(pattern, tool) if pattern == tool

matches(pattern, tool) if {
	endswith(pattern, "*")
	startswith(tool, trim_suffix(pattern, "*"))
}

# null is a value in Rego, and true enough for `if input.tool`; ask for the type instead.
is_tool_call if is_string(input.tool)

default verified := false

verified := input.principal.verified

# A setting of data.yaml, or what to take where it is absent.
setting(name, otherwise) := object.get(settings, name, otherwise)

default settings := {}

settings := data.meshflow.settings
