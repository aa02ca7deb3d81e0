"""The typed HTTP client of Lathe and the `lathe` command. Works without torch; imports neither the service nor the workers.

`wire`, `calls` and `following` say what is sent and what an answer means, without a socket; `http` and `aio` send it, one at
a time or awaited; `api.Lathe` and `aio.AsyncLathe` add files. `commands/` holds the commands, `render` draws tables, `up` runs
the whole set on one machine. Of the engine it may import the four torch-free modules (recipe, report, errors, catalog) alone.
"""

from client.aio import AsyncLathe
from client.api import Lathe
from client.errors import ClientError, Problem

__all__ = ["AsyncLathe", "ClientError", "Lathe", "Problem"]
