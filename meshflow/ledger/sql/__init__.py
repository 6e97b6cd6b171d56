"""What every SQL store does alike: batches, erasure, holds, proofs, look-ups."""
