"""Layer 1: strict config, canonical digests, artifacts and lineage, hash chains, environment, console."""
