"""The engine's subcommands `run` and `validate`."""
