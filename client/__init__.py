"""The typed HTTP client of Lathe and the `lathe` command. Works without torch; imports neither the service nor the workers.

`core/` defines each endpoint once, without a socket, and the two drivers that send; `transfers/` moves files; `api` joins them
in `Lathe` and `AsyncLathe`. `commands/` holds the commands, `terminal/` what they show, `embedded/` the service of `lathe up`.
Of the engine it imports the torch-free modules alone.
"""

from client.api import AsyncLathe, Lathe
from client.errors import ClientError, Problem

__all__ = ["AsyncLathe", "ClientError", "Lathe", "Problem"]
