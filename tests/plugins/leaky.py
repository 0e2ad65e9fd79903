"""A plugin that cannot be imported, for a reason with a secret in it."""

import os

raise RuntimeError(f"The licence server refused token={os.environ['LEAKY_TOKEN']}")
