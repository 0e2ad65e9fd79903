"""One data directory: the one writer, atomic files, migrations and the lock."""
