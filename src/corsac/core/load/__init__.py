"""What keeps a loaded server polite: rate limits and, where they are needed, caches and balancers."""
