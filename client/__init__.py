"""The typed HTTP client of Lathe and the `lathe` command. Works without torch; imports neither the service nor the workers.

`api.Lathe` speaks HTTP, `transfer` moves files, `commands/` holds the commands, `render` draws tables, `up` runs the whole
set on one machine. Of the engine it may import the four torch-free modules (recipe, report, errors, catalog) alone.
"""

from client.api import Lathe
from client.errors import ClientError, Problem

__all__ = ["ClientError", "Lathe", "Problem"]
