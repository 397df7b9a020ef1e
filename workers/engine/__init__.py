"""The engine: a library that compresses a model block by block, without web, queue or database."""
