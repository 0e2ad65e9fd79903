"""Supervised child processes for native code that can crash, hang or grow."""
