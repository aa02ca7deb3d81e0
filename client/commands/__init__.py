"""The commands of `lathe`, one file a noun. They read arguments, call the client and print; everything else is elsewhere."""

from client.api import Lathe


def connect() -> Lathe:
    """Return the service that environment and config name. Raises NoKey and BadConfig."""
    return Lathe.from_config()
