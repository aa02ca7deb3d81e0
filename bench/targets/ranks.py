"""Scores that are predicted before training, against the scores after it, over cuts of one encoder.

One job cuts the encoder in half and trains it. Its error tables and scores say what other targets would come to, as
`POST /v1/jobs/{id}/targets` answers. Each target is then a job of its own, with the same recipe. All scores are validation's.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.targets.figures import Ranked, ranked
from bench.targets.jobs import Jobs, prepared, validated
from bench.targets.steps import Clock, Facts, Place, Step, head, line, records_of, told
from compression.engine.tables_checkpoint import FOLDER
from compression.planning.search.targets import Answerer
from compression.schema.error_tables import ErrorTables
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Recipe, Train
from compression.schema.report.measurements import Shape
from compression.schema.solved_search import SolvedSearch, TablesCheckpoint
from compression.schema.stages import PRUNED
from compression.schema.tables_files import SOLVED, STATE
from compression.schema.target_answer import ScoreFacts, TargetAnswer, TargetQuestion
from compression.system.sealed_folder import unseal

REFERENCE = "reference"
ANSWER_SECONDS = 60.0
CORRELATION, COVERED = 0.8, 2 / 3
"""What is asked: a rank correlation, and the share of cuts within their stated error."""


@dataclass(frozen=True)
class Plan:
    """Which cuts are made. removed: shares of the parameters; reference: of the job that predicts."""

    recipe: Recipe
    reference: float = 0.5
    removed: Sequence[float] = (0.15, 0.22, 0.28, 0.34, 0.40, 0.45, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80)
    rows: int = 2000  #: of train, with what counts as validation's share

    def at(self, removed: float) -> Recipe:
        """Return the recipe of a cut that removes so much of the parameters."""
        assert self.recipe.prune is not None, "cuts are what is compared"
        return self.recipe.model_copy(update={"prune": self.recipe.prune.model_copy(update={"target_params": removed})})


PLAN = Plan(Recipe(prune=Prune(search="solver"), distill=Distill(epochs=6), train=Train(max_length=64)))


def steps(place: Place, plan: Plan = PLAN) -> Iterator[Step]:
    """Yield the job that predicts, then one for each target."""
    jobs, first = Jobs(place, "ranks", prepared(place, "demo", plan.rows)), plan.at(plan.reference)
    yield Step(REFERENCE, jobs.about(first), partial(_predicts, jobs, first))
    for removed in plan.removed:
        recipe, name = plan.at(removed), f"cut-{round(1000 * removed):03d}"
        about = {**jobs.about(recipe), "reference": plan.reference}
        # Some hundred megabytes, of which nothing is read again.
        yield Step(name, about, partial(_trained, jobs, first, recipe, removed, name), (jobs.folder(name),))


def _predicts(jobs: Jobs, recipe: Recipe, clock: Clock) -> Facts:
    run = jobs.run(REFERENCE, recipe, clock)
    rows, place = run.report.rows, run.folder / "kept" / FOLDER
    cut = [row.stage for row in rows].index(PRUNED)
    known = {
        "tables": TablesCheckpoint.model_validate_json(unseal(place / STATE)).tables,
        "search": SolvedSearch.model_validate_json(unseal(place / SOLVED)),
        "scores": ScoreFacts(before=validated(rows[cut - 1]), after=validated(rows[-1])),
        "shape": rows[-1].shape,
    }
    return {name: value.model_dump(mode="json") for name, value in known.items()} | {"seconds": run.seconds}


def predict(record: Mapping[str, Any], removed: float) -> TargetAnswer:
    """Return what the job that predicts says of a target. record: its own. removed: the share of the parameters."""
    tables, search = ErrorTables.model_validate(record["tables"]), SolvedSearch.model_validate(record["search"])
    answerer = Answerer(tables, search, scores=ScoreFacts.model_validate(record["scores"]))
    return answerer.answer(TargetQuestion(target_params=removed), ANSWER_SECONDS)


def _trained(jobs: Jobs, first: Recipe, recipe: Recipe, removed: float, name: str, clock: Clock) -> Facts:
    """Predict a cut's score, then train it."""
    answer = predict(dict(records_of(jobs.place.records, REFERENCE))[REFERENCE], removed)
    run = jobs.run(name, recipe, clock, after=jobs.run(REFERENCE, first, clock))
    row = run.report.rows[-1]
    known = {"answer": answer, "score": validated(row), "shape": row.shape}
    found: Facts = {key: value.model_dump(mode="json") for key, value in known.items()}
    found |= {"parameters": row.parameters.total, "seconds": run.seconds}
    found["notes"] = [note for each in run.report.rows if each.stage == PRUNED for note in each.notes]
    return found


def compared(records: Iterable[Mapping[str, Any]]) -> Ranked | None:
    """Return how predictions rank and cover; None if fewer than two of the cuts have one."""
    found = [record for record in records if record["answer"]["point"]["score"] is not None]
    if len(found) < 2:
        return None
    scores = [record["answer"]["point"]["score"] for record in found]
    predicted, errors = ([one[key] for one in scores] for key in ("value", "standard_error"))
    return ranked(predicted, errors, [record["score"]["value"] for record in found])


def table(records: Path) -> str:
    """Return the records as a line a cut, and what they come to."""
    found = [record for _, record in records_of(records, "cut-")]
    lines = head("parameters", "shape", "predicted error", "score predicted", "trained", "within its error")
    for record in found:
        point, came, shape = record["answer"]["point"], record["score"]["value"], Shape.model_validate(record["shape"])
        asked, guess = Shape.model_validate(point["shape"]), point["score"]
        said, within = record["answer"]["no_score"], "–"
        if guess is not None:
            said = f"{guess['value']:.2%} ± {guess['standard_error']:.2%}"
            within = told(holds=abs(guess["value"] - came) <= guess["standard_error"])
        which = shape.short if asked == shape else f"{shape.short} (predicted of {asked.short})"
        lines.append(line(f"{record['parameters'] / 1e6:.2f} M", which, f"{point['error']:.3g}", said, f"{came:.2%}", within))
    if (all_of := compared(found)) is not None:
        ranks, covers = told(holds=all_of.correlation >= CORRELATION), told(holds=all_of.covered >= COVERED * all_of.count)
        lines += [
            "",
            f"Rank correlation {all_of.correlation:.2f} over {all_of.count} cuts (at least {CORRELATION:g}: {ranks}).",
        ]
        lines.append(f"The stated error covers {all_of.covered} of {all_of.count} (at least two thirds: {covers}).")
    return "\n".join(lines)
