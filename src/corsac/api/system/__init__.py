"""The server's own routes: health, registry, keys, logs and documentation."""
