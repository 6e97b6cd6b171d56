"""The bytes: canonical form, hashes, the Merkle log, signed notes; pure functions that no store is needed for."""
