"""Which weights exist, where they come from, and whether they are whole."""
