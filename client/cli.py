"""The `lathe` command: registers the commands, and turns errors into messages and exit codes."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from client.commands import audit, data, device, jobs, keys, profiles, recipe, results, serve, service, submit, targets, teams
from client.commands.registry import Commands
from client.embedded.up import up
from client.errors import EXITS, INTERRUPTED, ClientError
from client.terminal import output

app = Commands(
    name="lathe",
    help="Compression as a service: quantize, prune and distill models, and download what was measured.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="LATHE_URL and LATHE_KEY name the service and your key; else $LATHE_HOME/client.json (~/.lathe) does. "
    "Every command takes --json. NO_COLOR is respected. Exit codes: "
    + "; ".join(f"{code} {meaning}" for code, meaning in EXITS.items())
    + ".",
)
app.command()(up)
app.add_typer(keys.app, name="keys")
app.add_typer(teams.app, name="teams")
app.add_typer(device.app, name="device")
app.add_typer(data.models, name="models")
app.add_typer(data.datasets, name="datasets")
app.add_typer(recipe.app, name="recipe")
COMMANDS: tuple[Callable[..., None], ...] = (
    submit.submit,
    jobs.ls,
    jobs.show,
    jobs.watch,
    jobs.wait,
    jobs.logs,
    results.report,
    results.compare,
    results.try_,
    targets.target,
    results.share,
    results.shares,
    results.download,
    profiles.profile,
    profiles.profiles,
    serve.serve,
    jobs.cancel,
    jobs.retry,
    jobs.rm,
    service.families,
    service.workers,
    service.queue,
    service.usage,
    service.quotas,
    audit.audit,
)
for command in COMMANDS:
    app.command(command.__name__.rstrip("_"))(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code."""
    output.reset()
    try:
        app(args=arguments, prog_name="lathe")
    except ClientError as error:
        output.show_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader has closed the pipe (`lathe ls | head`); nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # A full disk, a folder that may not be read: the user's machine, not a bug.
        output.show_error(ClientError(str(error), remedy="Check the path and the free space, and run the command again."))
        sys.exit(ClientError.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)
