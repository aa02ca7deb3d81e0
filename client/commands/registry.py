"""Registers commands: each takes --json, and gets the client that environment and config name if it asks for `lathe`."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from client.api import Lathe
from client.terminal.output import AsJson

Command = TypeVar("Command", bound=Callable[..., None])


class Commands(typer.Typer):
    """A group of commands."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Command], Command]:
        """Register a command, as Typer does."""
        register = super().command(name, **options)

        def add(command: Command) -> Command:
            signature = inspect.signature(command)
            given = [each for each in signature.parameters.values() if each.name != "lathe"]

            @functools.wraps(command)
            def run(json: bool = False, **given: Any) -> None:  # noqa: ARG001 - as_json() tells it
                if "lathe" not in signature.parameters:
                    command(**given)
                    return
                with Lathe.from_config() as lathe:
                    command(lathe, **given)

            run.__annotations__ = {**command.__annotations__, "json": AsJson}
            json = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
            run.__signature__ = signature.replace(parameters=[*given, json])  # type: ignore[attr-defined]
            register(run)
            return command

        return add
