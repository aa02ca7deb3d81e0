"""`python -m compression measure-card SPEC.json`: times models on the GPU in each runtime, and prints one `CardReport`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from compression.evaluation.on_card.runtimes import RUNTIMES, CardModel, Opened, Unavailable
from compression.evaluation.on_card.timing import SECONDS, repeat, summary
from compression.schema.config import Config
from compression.schema.recipe.base import Task
from compression.schema.report.card_rows import CardFigures, CardReport, CardRow
from compression.schema.stages import Stage
from compression.schema.tasks import TASKS
from compression.system.card_state import card_state
from compression.system.child_process import Step, telling
from compression.system.device import release_device_memory
from compression.system.host_lock import host_lock

BATCHES = (1, 8, 32)
TOKENS = 32
"""Generated after each prompt of a language model."""


class TimedModel(Config):
    """One model of a job. Paths are absolute."""

    stage: Stage
    folder: Annotated[str, Field(description="Of its stock checkpoint.")]
    onnx: Annotated[str | None, Field(description="Folder of its ONNX artifact; null: it has none.")] = None


class CardSpec(Config):
    """Input of `python -m compression measure-card`."""

    version: Literal[1] = 1
    task: Task
    models: tuple[TimedModel, ...]
    batches: tuple[int, ...] = BATCHES
    length: Annotated[int, Field(description="Tokens of a row; of a language model, of a prompt.")]
    seconds: Annotated[float, Field(gt=0, description="For each shape.")] = SECONDS


def measure_card(
    spec: CardSpec,
    tell: Callable[[Step], None] = lambda _: None,
    runtimes: Mapping[str, Callable[[CardModel], Opened]] = RUNTIMES,
) -> CardReport:
    """Time all models in all runtimes. tell: called after each. What a runtime cannot time has the reason in its row."""
    facts = torch.cuda.get_device_properties(0)
    uuid, rows = f"GPU-{facts.uuid}", list[CardRow]()
    with host_lock():
        before = card_state(uuid)
        for name, open_model in runtimes.items():
            for model in spec.models:
                rows.append(time_model(spec, model, name, open_model))
                tell(Step(done=len(rows), total=len(runtimes) * len(spec.models)))
        return CardReport(device=facts.name, before=before, after=card_state(uuid), rows=tuple(rows))


def time_model(spec: CardSpec, model: TimedModel, name: str, open_model: Callable[[CardModel], Opened]) -> CardRow:
    """Return the row of a model in a runtime."""
    onnx, facts, figures = None if model.onnx is None else Path(model.onnx), dict[str, Any](), list[CardFigures]()
    opened: Opened | None = None
    try:
        opened = open_model(CardModel(Path(model.folder), onnx, spec.task))
        facts = {"version": opened.version, "timed_by": opened.timed_by}
        for batch in spec.batches:
            figures.append(figures_of(spec, opened, batch))
    except Unavailable as reason:
        facts["not_measured"] = str(reason)
    except Exception as problem:
        told = (str(problem).strip() or "no cause was given").splitlines()[0][:500]
        facts["not_measured"] = f"{type(problem).__name__}: {told}"
    del opened
    release_device_memory()
    return CardRow(stage=model.stage, runtime=name, figures=tuple(figures), **facts)


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
    """Measure the spec at `path`; print steps and the report. Return the exit code."""
    tell = telling()
    tell(measure_card(CardSpec.model_validate_json(path.read_bytes()), tell))
    return 0
