"""Whether a device table can be of this machine. All teams read it, and the engine that sends it has read what a team sent."""

from app.store.models import Job
from compression.schema.device_table import DeviceTable
from compression.schema.recipe.recipe import JobEvaluate, Recipe
from compression.system.processor import possible_instructions, processor, runtime_versions
from workers.folders import Untrustworthy


def check_table(table: DeviceTable, job: Job) -> None:
    """Refuse a table of a job that reads none, and one of other conditions than this machine's and the job's. Instruction sets
    are torch's, which no worker imports: one that the processor lacks is refused. Raises Untrustworthy.
    """
    if not Recipe.model_validate(job.recipe).reads_device_table:
        raise Untrustworthy("it measured a device table, which its recipe does not read")
    told, possible = table.conditions, possible_instructions()
    here = (processor(), JobEvaluate.model_validate(job.evaluate).threads, runtime_versions())
    if (told.processor, told.threads, told.runtimes) != here or (possible is not None and told.instructions not in possible):
        raise Untrustworthy("its device table is of another machine")
