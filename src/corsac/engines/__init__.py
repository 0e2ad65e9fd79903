"""Engines do the work and know no HTTP: one folder a kind, one file an engine."""
