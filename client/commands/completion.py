"""Shell completion: values from the service; none if it does not answer quickly."""

from collections.abc import Callable
from itertools import islice

from client.api import Lathe
from client.errors import ClientError
from client.terminal.text import one_line

Offer = list[tuple[str, str]]
MOST = 30
SECONDS = 2.0


def _asked(incomplete: str, ask: Callable[[Lathe], Offer]) -> Offer:
    try:
        with Lathe.from_config(timeout=SECONDS, attempts=1) as lathe:
            return [(name, one_line(about)) for name, about in ask(lathe) if name.startswith(incomplete)]
    except ClientError:
        return []


def job_ids(incomplete: str) -> Offer:
    """Offer the newest jobs."""
    return _asked(incomplete, lambda lathe: [(job.id, f"{job.state}: {job.name}") for job in islice(lathe.jobs(), MOST)])


def recipe_names(incomplete: str) -> Offer:
    """Offer the recipes that have a name."""
    return _asked(incomplete, lambda lathe: [(one.name, one.summary) for one in lathe.recipes()])


def model_ids(incomplete: str) -> Offer:
    """Offer the models that are ready."""
    return _asked(incomplete, lambda lathe: [(one.id, one.name) for one in lathe.uploads("models") if one.state == "ready"])


def dataset_ids(incomplete: str) -> Offer:
    """Offer the datasets that are ready."""
    return _asked(incomplete, lambda lathe: [(one.id, one.name) for one in lathe.uploads("datasets") if one.state == "ready"])
