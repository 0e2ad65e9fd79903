"""`python -m corsac.cli` is `corsac`."""

from corsac.cli import main

main()
