"""Opens an artifact's folder as `lathe download` leaves it, and answers requests with it. Torch-free."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from compression.evaluation.runtimes.runner import BEFORE, config_of, find_artifact, open_artifact
from compression.modalities.registry import AS_MEASURED, modality_of, scorer_of
from compression.modalities.scoring.base import Asked, Floats, Row, RowScorer, answered
from compression.schema.artifact_formats import ARTIFACT_FORMATS
from compression.schema.errors import CompressionError, DamagedCheckpoint, MissingFile, MissingResource, NotServable
from compression.schema.extras import pip_install
from compression.schema.prediction_request import RowInputs
from compression.schema.specs import FormatSpec
from compression.schema.tasks import TASKS
from compression.serving.batcher import Anchors
from compression.serving.batching import length_group

TIMED_SECONDS = 5.0  #: for timing batches before the load
TIMED_ROWS = 8  #: rows of the larger of the two batches that are timed
RUNS, RUN_SECONDS = 3, 0.1  #: of each: at least so many, for so long; the fastest counts


def format_of(folder: Path, name: str) -> FormatSpec:
    """Return the format of an artifact, which must be one that serves. name: the artifact's, of which the format is a part.

    Raises MissingFile and NotServable.
    """
    found = [spec for spec in ARTIFACT_FORMATS.values() if any(any(folder.glob(each)) for each in spec.weights)]
    if not found:
        raise MissingFile(f"{folder} has no weights", param=str(folder), remedy="Download the artifact again.")
    chosen = max(found, key=lambda spec: len(spec.name) if f"-{spec.name}-" in f"{name}-" else 0)
    if not _serves(chosen):
        names = ", ".join(spec.name for spec in ARTIFACT_FORMATS.values() if _serves(spec))
        raise NotServable(f"{folder.name} runs in {chosen.runs_in}; the formats that are served are {names}")
    return chosen


def _serves(spec: FormatSpec) -> bool:
    return not spec.generates and (spec.primary or spec.timed or spec.served)


class ServedModel:
    """An opened artifact, with what encodes requests for it.

    `encode` and `predicted` may be called by several threads at a time, `run` by one.
    """

    def __init__(self, folder: Path, *, threads: int) -> None:
        """Open a folder. Raises MissingFile, DamagedCheckpoint, MissingResource and NotServable."""
        self.folder = find_artifact(folder, BEFORE)
        try:
            before = json.loads((self.folder / BEFORE).read_text("utf-8"))
            self.task, name = str(before["task"]), str(before["artifact"])
            self.pairs: bool | None = before.get("pairs")  # whether each row has a second text; None: not known
            spec = TASKS[self.task]
            names = config_of(self.folder).get("id2label", {}) if spec.named_labels else {}
            self.labels = tuple(str(names[str(number)]) for number in range(len(names)))
        except (OSError, ValueError, KeyError, TypeError) as problem:
            cause = f"{self.folder} does not say what it predicts: {problem!r:.200}"
            raise DamagedCheckpoint(cause, param=BEFORE, remedy="Download the artifact again.") from problem
        if not spec.asks:
            cause = f"{self.folder.name} is for {self.task}, which has no answer to a single row"
            raise NotServable(cause, remedy="Its README has the lines that open it.")
        self.format, self.sequences = format_of(self.folder, name), spec.sequences
        self.scorer = cast(RowScorer, scorer_of(self.task, AS_MEASURED, self.labels))
        try:
            self.runner = open_artifact(self.format.name, self.folder, threads=threads)
            self.reader = self.scorer.reader(self.folder)
        except ImportError as problem:
            cause = f"{self.format.name} runs in {self.format.runs_in}, which cannot be imported: {problem}"
            raise MissingResource(cause, remedy=f"{pip_install('serve')}.") from problem
        except CompressionError:
            raise
        except Exception as problem:  # each runtime has errors of its own
            cause = f"{self.format.runs_in} cannot open {self.folder}: {str(problem)[:500]}"
            raise DamagedCheckpoint(cause, remedy="Download the artifact again, or update the runtime.") from problem

    def length(self, window: Any) -> int:
        """Return the positions of a window; 0 if all have one size."""
        return len(window) if self.sequences else 0

    def encode(self, given: RowInputs) -> tuple[Row, Asked]:
        """Encode a request. Raises CompressionError if its inputs cannot be read."""
        row = modality_of(self.task).row(self.task, given)
        return row, self.reader.ask([row])

    def run(self, windows: Sequence[Any]) -> list[Floats]:
        """Return the logits of each window, computed in one batch."""
        return answered(self.runner, self.reader, windows, len(windows))

    def predicted(self, row: Row, asked: Asked, logits: Sequence[Floats]) -> dict[str, Any]:
        """Decode the prediction for a row from its windows' logits -> keys of `schema.prediction.Predicted`."""
        found = self.scorer.answers(asked, logits, [row])[0]
        return self.scorer.shown(found, logits[0], self.labels)

    def timed(self, most: int) -> Anchors:
        """Time a single row and a batch at each length group, the shortest first, for some seconds.

        most: rows of a batch. -> seconds of the processor by length group and rows: their ratios are those of the clock's.
        """
        found: dict[int, dict[int, float]] = {}
        end = time.perf_counter() + TIMED_SECONDS
        longest = int(config_of(self.folder).get("max_length") or 0) if self.sequences else 0
        for group in sorted({length_group(length) for length in range(1, longest + 1)}) or (0,):
            if found and time.perf_counter() > end:
                break
            length = min(group, longest)
            found[group] = {rows: self._fastest(rows, length) for rows in sorted({1, min(TIMED_ROWS, most)})}
        return found

    def _fastest(self, rows: int, length: int) -> float:
        batch, times = self.reader.example(rows, length), list[float]()
        while len(times) < RUNS or sum(times) < RUN_SECONDS:
            # Time of the processor: a clock's would have what runs beside, which interrupts longer batches more often.
            started = time.process_time()
            self.runner.logits(batch)
            times.append(time.process_time() - started)
        return min(times)
