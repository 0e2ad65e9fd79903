"""Long work and batches: jobs of items, each with exactly one recorded result."""
