"""The operations desk of Halden Supply, a worked example of an agent with real tools."""
