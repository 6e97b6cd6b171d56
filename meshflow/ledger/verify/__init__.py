"""Checking a run or a whole ledger against its own evidence and what is held outside."""
