"""`python -m client` is the `lathe` command."""

from client.cli import main

main()
