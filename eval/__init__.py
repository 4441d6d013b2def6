"""Layer 3: lm-eval runs and evaluation records."""
