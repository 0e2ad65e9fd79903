"""Behind the loggers: one sink, one line format, and the places where lines go."""
