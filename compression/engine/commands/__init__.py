"""The engine's subcommands `run`, `validate` and `probe`."""
