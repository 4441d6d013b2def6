"""Layer 3: pretraining and fine-tuning with exact bits."""
