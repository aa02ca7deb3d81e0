"""Has a job's original and its headline's model timed on the GPU that it trained on, once nothing trains any more."""

from collections.abc import Generator

from pydantic import TypeAdapter

from compression.engine.job import Job
from compression.evaluation.on_card.measure import CardSpec, TimedModel
from compression.planning.verdicts import choose
from compression.schema.events import Event, Log
from compression.schema.report.card_rows import CardReport
from compression.schema.stages import BASELINE, Stage
from compression.system.child_process import ChildFailed, Step, child_lines
from compression.system.device import release_device_memory, training_device

SILENT_SECONDS = 3000.0
"""Seconds after which a process that says nothing is given up: compiling a large model takes minutes."""
parse_line: TypeAdapter[Step | CardReport] = TypeAdapter(Step | CardReport)


def measure_on_card(job: Job) -> Generator[Event, None, CardReport | None]:
    """Time the models in a fresh process; None on a CPU, for several datasets, and for a model that is never whole in memory.
    A process that fails costs these figures and not the job.
    """
    part = job.part
    if training_device().type != "cuda" or part is None or job.spec.parts or part.on_disk:
        return None
    yield Log(message="The original and the headline's model are timed on the GPU.")
    part.leave_device()
    release_device_memory()
    chosen, _ = choose(job.rows, job.spec.targets)
    artifacts = {row.stage: job.base / job.spec.output / "artifacts" / row.artifact for row in (job.rows[0], chosen)}
    stages: list[Stage] = [BASELINE, *([chosen.stage] if chosen.stage != BASELINE else [])]
    models = [
        TimedModel(
            stage=stage,
            folder=str((job.folder_of(stage) / stage).resolve()),
            onnx=str(artifacts[stage].resolve()) if (artifacts[stage] / "model.onnx").is_file() else None,
        )
        for stage in stages
    ]
    spec = CardSpec(task=part.data.task.name, models=tuple(models), length=job.spec.evaluate.length)
    try:
        for line in child_lines("measure-card", spec, silence=SILENT_SECONDS):
            found = parse_line.validate_json(line)
            if isinstance(found, CardReport):
                return found
            yield Log(message=f"Timed {found.done} of {found.total} on the GPU.")
    except ChildFailed as problem:
        yield Log(level="warning", message=f"Nothing was timed on the GPU: {problem}."[:4000])
    return None
