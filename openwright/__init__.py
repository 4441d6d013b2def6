"""Layer 5: the command line and the pipeline."""
