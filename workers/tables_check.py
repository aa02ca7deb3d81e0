"""Whether error tables are ones that a job may send. The service and later engines read them, and check what is in them."""

from collections.abc import Sequence

from app.store.models import Job
from compression.schema.events import TablesSaved
from compression.schema.recipe.recipe import Recipe
from compression.schema.solved_search import MOST_JSON, MOST_ORDERS
from compression.schema.tables_files import FILES, ORDERS
from workers.folders import Untrustworthy


def check_tables(event: TablesSaved, job: Job, part_names: Sequence[str]) -> int | None:
    """Refuse tables of a job that searches for no widths, of a dataset that it has not, and files other than tables have or
    larger than anybody reads. Return the place of their dataset among several. Raises Untrustworthy.
    """
    prune = Recipe.model_validate(job.recipe).prune
    if prune is None or prune.search is None:
        raise Untrustworthy("it sent error tables, which its recipe does not ask for")
    if event.part not in (part_names or [""]):
        raise Untrustworthy(f"the job has no part {event.part!r} with error tables")
    within = f"{event.part}/" if event.part else ""
    names = [file.path.removeprefix(within) for file in event.files if file.path.startswith(within)]
    if len(names) < len(event.files) or len(set(names)) < len(names) or not {*names} <= {*FILES}:
        raise Untrustworthy("its error tables have other files")
    for file in event.files:
        most = MOST_ORDERS if file.path.endswith(ORDERS) else MOST_JSON
        if file.size > most:
            raise Untrustworthy(f"{file.path} of its error tables has more than {most:,} bytes")
    return part_names.index(event.part) if part_names else None
