"""Policy: which hosts and origins are answered, and with which headers."""
