"""`python -m workers.start_settings`: print what whoever starts workers must know of their settings, as one JSON document.

It reads the environment and `.env` as a worker does that starts in the same folder.
"""

import json
import sys

from pydantic import ValidationError

from app.core.settings import Settings, get_settings
from workers import engine, folders

MARGIN = engine.SECONDS_TO_GO + folders.SECONDS_TO_GO
"""Seconds after its end in which an engine closes its pipe, and in which strays of its folder end."""


def stop_seconds(settings: Settings) -> float:
    """Return the seconds that a worker for jobs may take from SIGTERM to its end.

    Its lease reads the drain at a heartbeat; then the engine may save its training, and then end by itself before it is
    killed. What is being copied to storage meanwhile is not counted.
    """
    return settings.heartbeat_seconds + settings.drain_grace_seconds + settings.cancel_grace_seconds + MARGIN


def main() -> int:
    """Print the document, or to stderr which settings are wrong; return the exit code."""
    try:
        settings = get_settings()
    except ValidationError as problem:
        for error in problem.errors():  # without its input, which may be a secret
            name = "".join(f"LATHE_{str(place).upper()}: " for place in error["loc"][:1])
            sys.stderr.write(f"{name}{error['msg']}\n")
        return 2
    # Nobody's word is not a no: `lathe up` may then decide.
    unconfined = settings.unconfined if "unconfined" in settings.model_fields_set else None
    facts = {"device": settings.device, "unconfined": unconfined, "stop_seconds": stop_seconds(settings)}
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
