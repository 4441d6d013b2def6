"""Layer 2: sources, licences, filters, tokenizing, token shards, documents, order."""
