"""A plugin for tests that cannot even be imported."""

raise RuntimeError("This plugin has never worked.")
