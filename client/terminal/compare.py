"""Compares jobs: the figures of each, and where their requests differ. Pure functions."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.recipes import as_text, different
from client.terminal import render
from client.terminal.text import one_line
from client.types import Job, Report
from compression.schema.report.draws import Interval
from compression.schema.report.measurements import Latency, Row, Score
from compression.schema.report.targets import in_order, spoken
from compression.schema.tasks import TASKS

ALIKE = ("models.base", "datasets", "evaluate.")
"""If these differ, the figures are not comparable."""
ELSEWHERE = "evaluate.device"
"""Keys that begin so say where else the result is measured, which no figure here is of."""
WINDOW = ("evaluate.window", "recipe.train.max_length")
"""For causal-lm: the window of a perplexity, and its default."""
SEED = "recipe.train.seed"
"""Draws the rows of validation and test from train where the data lacks them, and for causal-lm the texts that are scored."""


@dataclass(frozen=True)
class Compared:
    """A job, its report if it has one, and its row: the headline's, or the last finished one."""

    job: Job
    report: Report | None

    @property
    def row(self) -> Row | None:
        """The row to compare."""
        if self.report:
            return next((row for row in self.report.rows if row.artifact == self.report.headline), self.report.rows[-1])
        return self.job.rows[-1] if self.job.rows else None

    @property
    def drawn(self) -> bool:
        """Whether rows of validation or test were drawn from train, as far as its report knows."""
        splits = [part.splits for part in self.report.parts] or [self.report.splits] if self.report else []
        return any(facts.carved_from_train for each in splits for facts in each.values())

    @property
    def processor(self) -> str | None:
        """The processor of a finished job's latencies, as far as its report knows."""
        return self.report.environment.get("processor") if self.report else None

    @property
    def seconds(self) -> float:
        """From the job's start to its end, as its page says; of one that runs, what its finished stages took."""
        job = self.job
        if job.finished_at is not None and job.started_at is not None:
            return (job.finished_at - job.started_at).total_seconds()
        return sum(row.seconds for row in job.rows)

    @property
    def figures(self) -> dict[str, Any]:
        """Plain numbers for programs: bytes, milliseconds, shares. null: not measured, or not yet."""
        row = self.row
        latency = row.latency if row and isinstance(row.latency, Latency) else None
        score = row.score if row and isinstance(row.score, Score) else None
        validation = row.validation if row and isinstance(row.validation, Score) else None
        verdicts = self.report.verdicts.values() if self.report else ()
        return {
            "id": self.job.id,
            "name": self.job.name,
            "state": self.job.state,
            "stage": row and row.stage,
            "parameters": row and row.parameters.total,
            "bytes": row and row.size.bytes,
            "latency_ms": latency and latency.median_ms,
            "latency_spread_ms": latency and latency.spread_ms,
            "metric": score and score.metric,
            "score": score and score.value,
            "standard_error": score and score.standard_error,
            "parameter_reduction": row and row.ratios.parameter_reduction,
            "size_reduction": row and row.ratios.size_reduction,
            "speed_up": row and row.ratios.speed_up,
            "retention": row and row.ratios.retention,
            **_ends("retention", row.ratios.retention_interval if row else None),
            "validation": validation and validation.value,
            "validation_standard_error": validation and validation.standard_error,
            "retention_on_validation": row and row.ratios.retention_on_validation,
            **_ends("retention_on_validation", row.ratios.retention_on_validation_interval if row else None),
            "baseline_not_converged": row and row.ratios.baseline_not_converged,
            "targets_unproven": sum(verdict.status == "unproven" for verdict in verdicts) if self.report else None,
            "targets_met": sum(verdict.met for verdict in verdicts) if self.report else None,
            "targets": len(verdicts) if self.report else None,
            "seconds": self.seconds,
        }

    @property
    def request(self) -> dict[str, Any]:
        """The request."""
        job = self.job
        return {
            "models": job.models,
            "datasets": list(job.datasets),
            "recipe": job.recipe,
            "evaluate": job.evaluate,
            "targets": job.targets,
        }

    @property
    def texts(self) -> dict[str, str]:
        """The figures as text."""
        row, report = self.row, self.report
        stage, *cells = render.cells(row, task=self.job.task) if row else ("–",) * len(render.HEADERS)
        met = f"{sum(verdict.met for verdict in report.verdicts.values())} of {len(report.verdicts)}" if report else "–"
        judged = in_order(report.verdicts) if report else []
        unproven = [spoken(name) for name, verdict in judged if verdict.status == "unproven"]
        met += f"; unproven: {', '.join(unproven)}" if unproven else ""
        met += " (baseline_not_converged)" if row and row.is_unproven else ""
        return {
            "name": self.job.name,
            "state": self.job.state,
            "stage": stage,
            **dict(zip(("parameters", "size", "latency", "on validation", "on test"), cells, strict=False)),
            "targets met": met,
            "took": render.duration(self.seconds) if self.seconds else "–",
        }


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Return both ends of a 95 % interval as figures."""
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def differences(jobs: Sequence[Compared]) -> dict[str, list[Any]]:
    """Return key → each job's value, for the keys of the requests that differ."""
    return dict(different([one.request for one in jobs]))


def warning(jobs: Sequence[Compared], found: Mapping[str, list[Any]]) -> str:
    """Return a warning if figures are not comparable, else an empty text. found: the differences of these jobs."""
    texts = [one.job for one in jobs if one.job.task in TASKS and TASKS[one.job.task].generates]
    windows = {job.evaluate.get("window") or job.recipe.get("train", {}).get("max_length") for job in texts}

    def matters(key: str) -> bool:
        if key in WINDOW:
            return len(windows) > 1
        if key.startswith(ELSEWHERE):
            return False
        return key.startswith(ALIKE) or (key == SEED and (bool(texts) or any(one.drawn for one in jobs)))

    apart, timed = [key for key in found if matters(key)], {one.processor for one in jobs} - {None}
    parts = [f"Not the same in all jobs, so the figures are not of the same thing: {', '.join(apart)}."] if apart else []
    if len(timed) > 1:
        parts.append("Timed on different processors, so compare how many times as fast, and not milliseconds.")
    return " ".join(parts)


def document(jobs: Sequence[Compared]) -> dict[str, Any]:
    """Return the comparison for programs."""
    return {"jobs": [one.figures for one in jobs], "differences": differences(jobs)}


def _grid(jobs: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    texts = [one.texts for one in jobs]
    return [(name, [each[name] for each in texts]) for name in texts[0]]


def _written(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else as_text(value)


def table(jobs: Sequence[Compared]) -> RenderableType:
    """Return the comparison for a terminal: a column per job."""
    grid = Table(header_style="bold", pad_edge=False)
    grid.add_column("")
    for one in jobs:
        grid.add_column(one.job.id, overflow="fold")
    for name, values in _grid(jobs):
        grid.add_row(name, *(Text(one_line(value)) for value in values))
    found = differences(jobs)
    if found:
        grid.add_section()
    for name, each in found.items():
        grid.add_row(Text(one_line(name)), *(Text(one_line(_written(value))) for value in each))
    parts: list[RenderableType] = [grid]
    if not found:
        parts.append(Text("Their requests are the same.", style="dim"))
    if caution := warning(jobs, found):
        parts.append(Text(one_line(caution), style="yellow"))
    return Group(*parts)


def markdown(jobs: Sequence[Compared]) -> str:
    """Return the same as Markdown."""
    found = differences(jobs)
    text = [render.markdown_line(["", *(f"`{one.job.id}`" for one in jobs)]), render.markdown_line(["---"] * (len(jobs) + 1))]
    text += [render.markdown_line([name, *values]) for name, values in _grid(jobs)]
    text += [render.markdown_line([f"`{name}`", *map(_written, values)]) for name, values in found.items()]
    return "\n".join([*map(one_line, text), *(["", one_line(caution)] if (caution := warning(jobs, found)) else [])]) + "\n"


def _harmless(value: Any) -> Any:
    """Quote text that a spreadsheet would read as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def comma_separated(jobs: Sequence[Compared]) -> str:
    """Return a line per job: the figures, then the differences."""
    found = differences(jobs)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*jobs[0].figures, *found])
    for number, one in enumerate(jobs):
        own = [values[number] for values in found.values()]
        plain = [json.dumps(value) if isinstance(value, list | dict) else value for value in own]
        writer.writerow([_harmless(value) for value in (*one.figures.values(), *plain)])
    return out.getvalue()
