"""A ledger's tables in PostgreSQL, over asyncpg."""
