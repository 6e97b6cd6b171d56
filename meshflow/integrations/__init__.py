"""Meshflow behind the interfaces of other projects; each module needs what it integrates with."""
