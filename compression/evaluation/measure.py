"""Measures artifacts as downloaded: `python -m compression measure SPEC.json`. Torch-free, unless the artifact is a checkpoint.

Each measurement is a fresh process, without anything of the training: its memory is its own, latency has a fixed number of
threads, and a host lock prevents two jobs from measuring it at once (host_lock.py). Scores have all threads of the engine, or
its GPU where the artifact's runtime answers there as on the CPU.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, TypeAdapter

from compression.evaluation import generation_latency
from compression.evaluation.card_check import CardCheck, hastened
from compression.evaluation.runtimes.runner import config_of, open_artifact, operators_of
from compression.evaluation.turns import Timer, Turns, settle
from compression.modalities.registry import scorer_of
from compression.modalities.scoring.base import ArtifactReader, Inputs, Row, RowScorer, Runner, Scored, Scorer, SplitScoring
from compression.modalities.scoring.paired import packed
from compression.modalities.scoring.row_sample import ScoringLimit
from compression.modalities.text.decoding import Decoder
from compression.schema.artifact_formats import ARTIFACT_FORMATS, Kind
from compression.schema.config import Config
from compression.schema.errors import OutOfMemory
from compression.schema.recipe.base import Split, Task
from compression.schema.recipe.recipe import Evaluate
from compression.schema.report.draws import NO_DRAWS, SplitDraws
from compression.schema.report.measurements import Latency, NotMeasured, Score
from compression.schema.report.operators import Operators
from compression.schema.report.samples import SampleAnswer
from compression.schema.tasks import TASKS
from compression.schema.worker_device import DeviceKind
from compression.system import failures
from compression.system.child_process import OUT_OF_MEMORY, Step, telling
from compression.system.host_lock import host_lock

WARM_UP_RUNS = 10
FEWEST_RUNS, MOST_RUNS = 40, 400
LONG_SECONDS = 1.0  #: of a pass of each model together: caches hold little of such models, and every pass counts
SECONDS = 8.0  #: default duration of a latency measurement, approximately: between FEWEST_RUNS and MOST_RUNS of each model


class MeasureSpec(Config):
    """Input of `python -m compression measure`. Paths are absolute."""

    version: Literal[1] = 1
    kind: Kind
    folder: Annotated[str, Field(description="The artifact that is measured.")]
    baseline: Annotated[str | None, Field(description="Folder of what latency is held against.")] = None
    task: Task
    labels: Annotated[tuple[str, ...], Field(description="In the order of the outputs; none where the task has none.")]
    test_rows: Annotated[str | None, Field(description="JSONL of rows as `scoring` reads them; null takes no score.")] = None
    validation_rows: Annotated[str | None, Field(description="The same of validation, which is scored first.")] = None
    samples: Annotated[tuple[int, ...], Field(description="Numbers of the test rows whose answers are shown to people.")] = ()
    seed: Annotated[int, Field(ge=0, description="Of the samples of the rows: each dataset of a job has its own.")] = 0
    evaluate: Evaluate = Evaluate()
    score_threads: Annotated[int | None, Field(ge=1, description="Threads while it is scored; null: evaluate.threads.")] = None
    device: Annotated[DeviceKind, Field(description="For scores, if the artifact answers there: see `card_check`.")] = "cpu"
    not_on_card: Annotated[str | None, Field(description="Of a worker with a GPU, why that is not tried.")] = None
    rounds: Annotated[bool, Field(description="Whether it computes in less than float32.")] = False
    score_rows: Annotated[dict[Split, int], Field(default_factory=dict)]
    """The most rows that are scored, by split; all where absent."""
    score_seconds: Annotated[float | None, Field(gt=0)] = None
    """Time for the scores of both splits, after which the rest of the rows is left out; null: no limit."""
    by_row: Annotated[bool, Field(description="Whether the draws come with what the metric is computed from, by row.")] = False
    seconds: Annotated[float, Field(gt=0, description="About how long latency is timed.")] = SECONDS


class Measured(Config):
    """Output, one JSON object per line: all results known so far; the last line is complete."""

    latency: Latency | NotMeasured
    score: Score | NotMeasured
    peak_memory_bytes: int | NotMeasured
    validation: Score | NotMeasured | None = None
    saved: Annotated[float, Field(description="Share of the baseline's time that is saved; 0 without a latency.")] = 0.0
    draws: SplitDraws = NO_DRAWS
    answers: Annotated[tuple[SampleAnswer, ...], Field(description="To the samples, in their order.")] = ()
    operators: Operators | None = None
    """null if the runtime does not tell, and of an artifact that is timed alone."""


@dataclass(frozen=True)
class Saving:
    """What an artifact saves of another one's time, measured in turns."""

    share: float  #: of its time, see `time_both`
    whole_ms: float  #: its latency


FIGURE_OF: dict[Split, str] = {"validation": "validation", "test": "score"}  #: split → the field of its score in `Measured`
parse_line: TypeAdapter[Step | Measured] = TypeAdapter(Step | Measured)
Tell = Callable[[Step | Measured], None]


def measure(spec: MeasureSpec, tell: Tell = lambda _: None) -> Measured:
    """Open the spec's artifact and measure it. tell: called with the results before the score, and with its progress."""
    scorer, folder = scorer_of(spec.task, spec.evaluate, spec.labels), Path(spec.folder)
    reader = scorer.reader(folder)
    timed, example, check = served_alone(spec, reader, scorer)
    if not paths_of(spec):
        return timed
    found = scored_on_card(spec, check, reader, scorer, timed, tell) if check is not None else spec.not_on_card
    if not isinstance(found, Measured):
        runner = hastened(open_artifact(spec.kind, folder, threads=spec.score_threads or spec.evaluate.threads))
        found = scored(spec, runner, reader, scorer, timed, tell, why=found)
        del runner  # before the artifact is opened again
    if spec.test_rows is None:
        return found
    tell(found)
    return found.model_copy(update={"operators": operators_of(spec.kind, folder, example)})


def served_alone(spec: MeasureSpec, reader: ArtifactReader, scorer: Scorer) -> tuple[Measured, Inputs, CardCheck | None]:
    """Open the artifact as a user does, and measure its memory and latency. Returns also what it ran on, and what a GPU that
    scores are wanted of has to answer.
    """
    folder = Path(spec.folder)
    runner = open_artifact(spec.kind, folder, threads=spec.evaluate.threads)
    decodes = isinstance(runner, Decoder)
    length = generation_latency.prompt_of(spec.evaluate.length, config_of(folder)) if decodes else spec.evaluate.length
    example = reader.example(spec.evaluate.batch, length)
    for _ in range(1 if decodes else WARM_UP_RUNS):
        logits = runner.logits(example)
    if isinstance(runner, Decoder):
        generation_latency.warm_up(runner, example.arrays["input_ids"])
    # Read before anything else is opened here, so that it is the memory of serving alone.
    memory = peak_memory()
    latency, saved = time_artifact(spec, runner, example)
    unscored = NotMeasured(not_measured="No test rows were given.")
    timed = Measured(latency=latency, saved=saved, score=unscored, peak_memory_bytes=memory)
    if spec.device == "cpu" or not paths_of(spec):
        return timed, example, None
    rows = read_rows(next(iter(paths_of(spec).values())))
    return timed, example, CardCheck.of(runner, reader, scorer, rows, logits.shape[-1], rounds=spec.rounds)


def scored_on_card(
    spec: MeasureSpec, check: CardCheck, reader: ArtifactReader, scorer: Scorer, timed: Measured, tell: Tell
) -> Measured | str:
    """Score the artifact on the GPU, or return why it cannot be."""
    try:
        runner = check.open(spec.kind, Path(spec.folder), threads=spec.score_threads or spec.evaluate.threads)
        return scored(spec, runner, reader, scorer, timed, tell, device="cuda")
    except Exception as problem:  # of any runtime or driver: the CPU can still take it
        return str(problem).strip().partition("\n")[0][:500] or type(problem).__name__


def scored(
    spec: MeasureSpec,
    runner: Runner[Any],
    reader: ArtifactReader,
    scorer: Scorer,
    timed: Measured,
    tell: Tell = lambda _: None,
    *,
    device: DeviceKind = "cpu",
    why: str | None = None,
) -> Measured:
    """Score the artifact on validation, then on test, for the splits in the spec. timed: the results known already. tell:
    called with the results after each split, and with the progress of both together. device: of the runner. why: why it is not
    a GPU.
    """
    paths = paths_of(spec)
    unknown = {split: NotMeasured(not_measured=f"Answering the {split} rows did not come to its end.") for split in paths}
    known = timed.model_copy(update={FIGURE_OF[split]: reason for split, reason in unknown.items()})
    if paths:
        tell(known)
    rows = {split: read_rows(path) for split, path in paths.items()}
    asked = open_splits(spec, runner, reader, scorer, rows)
    if spec.samples and "test" in rows:
        known = known.model_copy(update={"answers": sample_answers(spec, runner, reader, scorer, rows["test"])})
    total, done = sum(one.windows for one in asked.values()), 0

    def more(windows: int) -> None:
        nonlocal done
        done += windows
        tell(Step(done=done, total=total))

    for number, (split, one) in enumerate(asked.items()):
        if number:
            tell(known)
        found = one.answer(more)
        if not is_finite(found):
            none = NotMeasured(not_measured=f"Answers of this artifact to {split} rows are no finite numbers.")
            known = known.model_copy(update={FIGURE_OF[split]: none})
            continue
        figures = found.by_row() if spec.by_row else None
        own = found.draws if figures is None else found.draws.model_copy(update={"by_row": packed(figures)})
        draws = known.draws.model_copy(update={split: own})
        score = found.score.model_copy(update={"runtime": runner.name, "device": device, "not_on_card": why})
        known = known.model_copy(update={FIGURE_OF[split]: score, "draws": draws})
    return known


def is_finite(found: Scored) -> bool:
    """Return whether a score and the samples of its rows are finite numbers: JSON has no others."""
    score = found.score
    values = (
        score.value,
        score.standard_error,
        score.value_at_batch_32,
        *score.metrics.values(),
        *score.standard_errors.values(),
    )
    return all(map(math.isfinite, (*values, *found.draws.values)))


def paths_of(spec: MeasureSpec) -> dict[Split, Path]:
    """Return the files of rows that are scored, by split, in their order."""
    given: dict[Split, str | None] = {"validation": spec.validation_rows, "test": spec.test_rows}
    return {split: Path(path) for split, path in given.items() if path is not None}


def open_splits(
    spec: MeasureSpec, runner: Runner[Any], reader: ArtifactReader, scorer: Scorer, rows: Mapping[Split, Sequence[Row]]
) -> dict[Split, SplitScoring]:
    """Prepare the splits for scoring; each has a share of the spec's time by its number of rows."""
    counts = {split: min(len(some), spec.score_rows.get(split, len(some))) for split, some in rows.items()}
    found = {}
    for split, some in rows.items():
        seconds = math.inf if spec.score_seconds is None else spec.score_seconds * counts[split] / sum(counts.values())
        limit = ScoringLimit(spec.score_rows.get(split), seconds)
        found[split] = scorer.open_split(runner, reader, some, spec.seed, limit)
    return found


def sample_answers(
    spec: MeasureSpec, runner: Runner[Any], reader: ArtifactReader, scorer: Scorer, rows: Sequence[Row]
) -> tuple[SampleAnswer, ...]:
    """Return the artifact's answers to the samples. rows: of test. The task predicts single rows."""
    asked = [rows[number] for number in spec.samples]
    found = cast(RowScorer, scorer).predictions(runner, reader, asked, spec.labels)
    return tuple(map(SampleAnswer.of, found))


def time_artifact(spec: MeasureSpec, runner: Runner[Any], example: Inputs) -> tuple[Latency | NotMeasured, float]:
    """Time an artifact of the primary format, or of one that is `timed`, and its baseline of the primary format in turns.

    Returns the latency and the share of the baseline's time that is saved; of other formats why they are not timed.
    """
    form, threads = ARTIFACT_FORMATS[spec.kind], spec.evaluate.threads
    timed = next(one for one in ARTIFACT_FORMATS.values() if one.primary)
    beside = spec.baseline is not None and any(any(Path(spec.baseline).glob(pattern)) for pattern in timed.weights)
    if not form.primary and not (form.timed and beside):
        if beside and not TASKS[spec.task].generates:
            cause = f"The baseline runs in {timed.runs_in} and this checkpoint in {form.runs_in}"
            cause += ": their ratio would compare runtimes."
        else:
            cause = f"Models are timed in {timed.runs_in} alone, and this is a checkpoint of {form.runs_in}."
        return NotMeasured(not_measured=cause), 0.0
    against = open_artifact(timed.name, Path(spec.baseline), threads=threads) if spec.baseline else None
    with host_lock() as turn:
        if isinstance(runner, Decoder) and (against is None or isinstance(against, Decoder)):
            ids = example.arrays["input_ids"]
            latency = generation_latency.time_both(runner, against, ids, threads=threads, seconds=spec.seconds)
            saved = 1 - latency.median_ms / latency.baseline_median_ms
        else:
            latency, saved = time_both(runner, against, example, threads=threads, seconds=spec.seconds)
    return latency.model_copy(update={"exclusive": turn.exclusive}), saved


def time_both(
    candidate: Runner[Any], baseline: Runner[Any] | None, example: Inputs, *, threads: int, seconds: float = SECONDS
) -> tuple[Latency, float]:
    """Run baseline and candidate in turns of alternating order, so that load on the machine affects both. Without a baseline
    the candidate is its own. In its turn a model answers some passes before one that counts: a server asks one model again and
    again, and the first passes pay for what the other model has put out of the caches (docs/decisions/0074).

    Returns the latency, in wall-clock milliseconds, and the share of the baseline's time that is saved: the median over turns,
    of one thread in processor time. Other load on the machine hardly changes what one thread takes (docs/decisions/0079).
    """
    sides = [candidate] if baseline is None else [candidate, baseline]
    asks = [partial(side.logits, example) for side in sides]
    started = time.perf_counter()
    for ask in asks:
        ask()
    settles = time.perf_counter() - started < LONG_SECONDS
    started = time.perf_counter()
    for _ in range(WARM_UP_RUNS):
        for ask in asks:
            if settles:
                settle(ask)
            ask()
    one_turn = (time.perf_counter() - started) / WARM_UP_RUNS
    turns = Turns()
    with Timer(threads) as timer:
        for _ in range(min(max(int(seconds / one_turn), FEWEST_RUNS), MOST_RUNS)):
            turns.take(asks, timer, settles=settles)
    quiet = turns.quiet()
    latency = generation_latency.latency_of(*quiet.milliseconds, example.shape, threads, candidate.name)
    saved = 1 - statistics.median(own / reference for own, reference in zip(*quiet.worked, strict=True))
    return latency.model_copy(update={"interrupted": turns.disturbed}), saved


def read_rows(path: Path) -> list[Row]:
    """Read rows, one per line. Raises ValueError if there are none."""
    rows: list[Row] = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not rows:
        raise ValueError(f"{path} has no rows")
    return rows


def peak_memory() -> int | NotMeasured:
    """Return this process's peak resident memory in bytes: VmHWM, not getrusage, which starts at the parent's at the fork."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return NotMeasured(not_measured="This system has no /proc/self/status.")
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return NotMeasured(not_measured="This kernel does not tell VmHWM.")


def main(path: Path) -> int:
    """Measure the spec at `path`; print each `Measured` as it is known, and steps. Return the exit code."""
    tell = telling()
    try:
        tell(measure(MeasureSpec.model_validate_json(path.read_bytes()), tell))
    except Exception as problem:
        if not isinstance(failures.typed(problem), OutOfMemory):
            raise
        print(str(problem), file=sys.stderr)  # noqa: T201 (the parent process reads it)
        return OUT_OF_MEMORY
    return 0
