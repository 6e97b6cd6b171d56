"""The SQLite store: its file, its tables, its connections."""
