"""The profile acme-banking: its manifest and rules lie beside this file."""
