"""`python -m compression measure-card SPEC.json`: times models on the GPU in each runtime; prints all rows after each."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from compression.evaluation.generation_latency import TOKENS
from compression.evaluation.on_card.runtimes import NO_FILE, RUNTIMES, CardModel, Opened, Unavailable
from compression.evaluation.on_card.timing import SECONDS, repeat, summary
from compression.schema.config import Config
from compression.schema.errors import DeviceError
from compression.schema.recipe.base import Task
from compression.schema.report.card_rows import CardFigures, CardReport, CardRow
from compression.schema.stages import Stage
from compression.schema.tasks import TASKS
from compression.system.card_state import card_state
from compression.system.child_process import Step, telling
from compression.system.device import release_device_memory
from compression.system.failures import typed
from compression.system.host_lock import host_lock

BATCHES = (1, 8, 32)
FAILED = "the GPU failed before, and this process cannot use it any more."
NO_TURN = "the measurement ended before its turn."


class TimedModel(Config):
    """One model of a job. Paths are absolute."""

    stage: Stage
    folder: Annotated[str, Field(description="Of its stock checkpoint.")]
    onnx: Annotated[str | None, Field(description="Folder of its ONNX artifact; null: there is none.")] = None
    lacks: Annotated[str, Field(description="Why there is none.")] = NO_FILE


class CardSpec(Config):
    """Input of `python -m compression measure-card`."""

    version: Literal[1] = 1
    task: Task
    models: tuple[TimedModel, ...]
    batches: tuple[int, ...] = BATCHES
    length: Annotated[int, Field(description="Tokens of a row; of a language model, of a prompt.")]
    seconds: Annotated[float, Field(gt=0, description="For each shape.")] = SECONDS


def measure_card(spec: CardSpec, runtimes: Mapping[str, Callable[[CardModel], Opened]] = RUNTIMES) -> Iterator[CardReport]:
    """Time all models in all runtimes; yield all rows after each. What a runtime cannot time has the reason in its row; once
    the GPU itself has failed, so has all that is left.
    """
    facts = torch.cuda.get_device_properties(0)
    turns = [(name, model) for name in runtimes for model in spec.models]
    uuid, works = f"GPU-{facts.uuid}", True
    before = card_state(uuid)
    rows = [CardRow(stage=model.stage, runtime=name, not_measured=NO_TURN) for name, model in turns]
    for at, (name, model) in enumerate(turns):
        if works:
            with host_lock() as turn:  # for each: other jobs of the host wait for it
                row, works = time_model(spec, model, name, runtimes[name])
            rows[at] = row.model_copy(update={"exclusive": turn.exclusive})
        else:
            rows[at] = rows[at].model_copy(update={"not_measured": FAILED})
        yield CardReport(device=facts.name, before=before, after=card_state(uuid), rows=tuple(rows))


def time_model(spec: CardSpec, model: TimedModel, name: str, open_model: Callable[[CardModel], Opened]) -> tuple[CardRow, bool]:
    """Return the row of a model in a runtime, and whether the GPU still works."""
    onnx, facts, figures = None if model.onnx is None else Path(model.onnx), dict[str, Any](), list[CardFigures]()
    opened: Opened | None = None
    works = True
    try:
        try:
            opened = open_model(CardModel(Path(model.folder), onnx, spec.task, model.lacks))
            facts = {"version": opened.version, "timed_by": opened.timed_by}
            for batch in spec.batches:
                figures.append(figures_of(spec, opened, batch))
        except Unavailable as reason:
            facts["not_measured"] = str(reason)
        except Exception as problem:
            facts["not_measured"], works = _reason(problem), not isinstance(typed(problem), DeviceError)
        opened = None
        release_device_memory()
    except RuntimeError as problem:  # what a pass before it did to the GPU may be told here
        facts["not_measured"], works = facts.get("not_measured") or _reason(problem), False
    return CardRow(stage=model.stage, runtime=name, figures=tuple(figures), **facts), works


def _reason(problem: Exception) -> str:
    told = (str(problem).strip() or "no cause was given").splitlines()[0][:500]
    return f"{type(problem).__name__}: {told}"


def figures_of(spec: CardSpec, opened: Opened, batch: int) -> CardFigures:
    """Time passes of a batch; of a model that continues prompts, what TOKENS further tokens add to them too."""
    times = repeat(opened.call(batch, spec.length), opened.timer, spec.seconds)
    median, high = summary(times)
    own: dict[str, float | None] = {}
    if opened.continues:
        longer, _ = summary(repeat(opened.call(batch, spec.length, TOKENS), opened.timer, spec.seconds))
        token = max(longer - median, 0.0) / TOKENS
        own = {"prefill_per_second": 1000 * batch * spec.length / median, "decode_ms": token}
        own["decode_per_second"] = 1000 * batch / token if token else None
    length = spec.length if TASKS[spec.task].sequences else 0
    return CardFigures(
        batch=batch,
        length=length,
        median_ms=median,
        p95_ms=high,
        runs=len(times),
        rows_per_second=1000 * batch / median,
        peak_bytes=opened.peak_bytes(),
        **own,
    )


def main(path: Path) -> int:
    """Measure the spec at `path`; print reports, and a step after each. Return the exit code."""
    tell, spec = telling(), CardSpec.model_validate_json(path.read_bytes())
    for done, report in enumerate(measure_card(spec), 1):
        tell(report)
        tell(Step(done=done, total=len(report.rows)))
    return 0
