"""Running a workflow: every node is a governed step."""
