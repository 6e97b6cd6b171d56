"""The kernel: a compiled pipeline of fifteen stages, and the runtime that takes steps through it."""
