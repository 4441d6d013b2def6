"""Layer 4: bundle, openness rules, cards, page, verify, reproduce."""
