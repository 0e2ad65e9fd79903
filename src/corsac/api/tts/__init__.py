"""Speech from text, with measured quality."""
