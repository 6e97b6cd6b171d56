"""Workflows: steps, conditions and data flow in YAML that is checked whole before anything runs."""
