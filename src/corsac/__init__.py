"""Corsac: one self-hosted AI backend."""
