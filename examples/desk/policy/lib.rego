# What the desk's rules share.
package desk.lib

reason(code, message) := {"code": code, "message": message, "rule": concat(".", ["desk", code])}

calls(name) if input.tool == name

# Who wrote the message, and whose the order is, come from the application in `metadata`; the agent cannot set them.
sender := lower(input.metadata.sender)

owner := lower(input.metadata.owners[input.arguments.order_id])
