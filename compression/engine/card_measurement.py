"""Has a job's original and its headline's model timed on the GPU that it trained on, once nothing trains any more."""

from collections.abc import Generator
from pathlib import Path

from pydantic import TypeAdapter

from compression.engine.job import Job
from compression.evaluation.generation_latency import prompt_of
from compression.evaluation.on_card.measure import CardSpec, TimedModel
from compression.evaluation.runtimes.onnx import FILE as ONNX_FILE
from compression.evaluation.runtimes.runner import config_of
from compression.planning.verdicts import choose
from compression.schema.events import Event, Log
from compression.schema.report.card_rows import CardReport
from compression.schema.report.measurements import Row
from compression.schema.tasks import TASKS
from compression.system import progress
from compression.system.child_process import ChildFailed, Step, child_lines
from compression.system.device import release_device_memory, training_device

PHASE = "time on the GPU"
SILENT_SECONDS, TOTAL_SECONDS = 3000.0, 14_400.0
"""Seconds after which a process is given up that says nothing, and that is not done: compiling a large model takes minutes. The
first is less than a worker waits for a sign of the engine."""
GONE = "its file was written by an earlier attempt and is not on this machine."
parse_line: TypeAdapter[Step | CardReport] = TypeAdapter(Step | CardReport)


def measure_on_card(job: Job) -> Generator[Event, None, CardReport | None]:
    """Time the models in a fresh process; None on a CPU, for several datasets, and for a model that is never whole in memory.
    A process that fails costs the figures that it had not told yet, and not the job.
    """
    part = job.part
    if training_device().type != "cuda" or part is None or job.spec.parts or part.on_disk:
        return None
    yield Log(message="The original and the headline's model are timed on the GPU.")
    part.leave_device()
    release_device_memory()
    chosen, _ = choose(job.rows, job.spec.targets)
    models = tuple(_timed_model(job, row) for row in {row.stage: row for row in (job.rows[0], chosen)}.values())
    task, length = part.data.task.name, job.spec.evaluate.length
    if TASKS[task].generates:  # further tokens need positions too, in each of the models
        length = min(prompt_of(length, config_of(Path(model.folder))) for model in models)
    spec = CardSpec(task=task, models=models, length=length)
    report: CardReport | None = None
    try:
        for line in child_lines("measure-card", spec, timeout=TOTAL_SECONDS, silence=SILENT_SECONDS):
            found = parse_line.validate_json(line)
            if isinstance(found, CardReport):
                report = found
            else:
                yield job.tracker.after(PHASE, progress.Step(found.done, found.total))
    except ChildFailed as problem:
        lost = "Nothing" if report is None else "Not everything"
        yield Log(level="warning", message=f"{lost} was timed on the GPU: {problem}."[:4000])
    return report


def _timed_model(job: Job, row: Row) -> TimedModel:
    """Return the model of a row. A new attempt has the checkpoints of an earlier one, and not its artifacts."""
    onnx, found = job.base / job.spec.output / "artifacts" / row.artifact, dict[str, str]()
    if (onnx / ONNX_FILE).is_file():
        found["onnx"] = str(onnx.resolve())
    elif any(file.path == ONNX_FILE for each in job.artifacts if each.name == row.artifact for file in each.files):
        found["lacks"] = GONE
    return TimedModel(stage=row.stage, folder=str((job.folder_of(row.stage) / row.stage).resolve()), **found)
