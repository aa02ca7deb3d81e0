"""The figures beside a row's headline: the task's other metrics, and the results of lm-eval's tasks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compression.schema.report.measurements import Row, Score, shown
from compression.schema.report.task_figure import TaskFigure


@dataclass(frozen=True)
class LmEvalComparison:
    """One figure in each stage. values: formatted for the user, in the order of the rows; None if a row has none."""

    name: str
    what: str
    """The number of rows or documents, and what else a reader must know."""
    values: tuple[str | None, ...]


def compare_lm_eval(rows: Sequence[Row]) -> list[LmEvalComparison]:
    """Return the figures of the rows beside their headlines; for several datasets each one's, by name."""
    parts = sorted({name for row in rows for name in row.parts})
    if not parts:
        return list(_of("", rows))
    return [line for name in parts for line in _of(f"{name}: ", [row.parts.get(name) for row in rows])]


def _of(prefix: str, rows: Sequence[Row | None]) -> Iterator[LmEvalComparison]:
    scores = [row.score if row is not None and isinstance(row.score, Score) else None for row in rows]
    named = {name: score for score in reversed(scores) if score is not None for name in score.metrics if name != score.metric}
    for name, score in sorted(named.items()):
        yield LmEvalComparison(prefix + spoken(name), f"{score.counted} test rows", tuple(_metric(one, name) for one in scores))
    asked = [{(one.task, one.metric, one.filter): one for one in row.lm_eval} if row is not None else {} for row in rows]
    for key, figure in {key: figure for figures in asked for key, figure in figures.items()}.items():
        how = "" if figure.filter == "none" else f" ({figure.filter})"
        name = f"{prefix}{figure.task} {spoken(figure.metric)}{how}"
        yield LmEvalComparison(name, _asked(figure), tuple(_figure(figures.get(key)) for figures in asked))


def spoken(name: str) -> str:
    """Return a name with spaces: next_token_accuracy → next token accuracy."""
    return name.replace("_", " ")


def _metric(score: Score | None, name: str) -> str | None:
    if score is None or name not in score.metrics:
        return None
    error = score.standard_errors.get(name)
    return shown(name, score.metrics[name]) + (f" ± {shown(name, error).split()[0]}" if error is not None else "")


def _asked(figure: TaskFigure) -> str:
    facts = ["lm-eval"]
    facts += [f"{figure.rows:,} documents"] if figure.rows is not None else []
    facts += [f"{figure.few_shot}-shot"] if figure.few_shot else []
    facts += ["lower is better"] if figure.higher_is_better is False else []
    return ", ".join(facts)


def _figure(figure: TaskFigure | None) -> str | None:
    if figure is None:
        return None
    if figure.value is None:
        return "no number"
    # Formatted as by lm-eval: not all of its metrics are shares.
    return f"{figure.value:.4f}" + (f" ± {figure.standard_error:.4f}" if figure.standard_error is not None else "")
