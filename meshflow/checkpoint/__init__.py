"""Checkpoints of runs: the contract of a store, and stores in memory, in SQLite and in Postgres."""
