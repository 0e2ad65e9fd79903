"""Streams of events: who produces them, where they wait, and how they go over the wire."""
