"""Outside systems, a folder each: client, source of models and texts, target of results, hook."""
