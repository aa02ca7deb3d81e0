"""Comparison of finished jobs: figures of what each shipped, the Pareto-best ones, and how their requests differ.

Figures come from the columns of the metrics and from parts of the report, never from whole reports: a page of two hundred jobs
costs the same few queries as a page of two.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query
from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.api import job_list
from app.api.job_list import JobFilter, Labels
from app.api.schemas import JobOut
from app.core.schemas import TEXT, Id, Out
from app.store.db import iso
from app.store.keyset import decode_token, encode_token
from app.store.models import Dataset, Job, JobDataset, Metric, Model
from compression.schema.report.measurements import Ratios
from compression.schema.stages import Stage
from compression.schema.tasks import TASKS


class Point(Out):
    """The figures of one row of a job's table. A figure that was not measured is null."""

    stage: Stage
    artifact: str
    parameters: int
    bytes: int
    latency_ms: float | None
    latency_at: Annotated[
        dict[str, Any] | None,
        Field(
            description="Conditions of the latency: batch, length, threads, runtime, processor, and whether no other job was "
            "timed meanwhile (exclusive); for causal-lm one more token after a prompt of that length."
        ),
    ]
    score: Annotated[float | None, Field(description="On test: reported only; no decision uses it.")]
    standard_error: float | None
    validation: Annotated[float | None, Field(description="The score on validation; null in older jobs.")] = None
    validation_error: Annotated[float | None, Field(description="Its standard error.")] = None


class Compared(Out):
    """A finished job: what it started with, what it shipped, and what was requested."""

    id: str
    name: str
    labels: dict[str, str]
    task: str
    model: str
    datasets: list[str]
    owner: str | None
    finished_at: Any
    metric: str | None
    lower_is_better: bool
    baseline: Point
    shipped: Point
    ratios: Ratios
    asked: Annotated[dict[str, Any], Field(description="The request, key by key: `recipe.prune.ratio` → 0.3.")]
    drawn: Annotated[bool, Field(description="Whether validation or test is drawn from train, by `recipe.train.seed`.")] = False
    best_by: Annotated[
        tuple[str, ...],
        Field(
            description="`bytes`, `latency_ms`: no job of this answer with the same data, judged (and timed) alike, is "
            "as small (as fast) and better on validation (on test, of jobs of before validation was scored)."
        ),
    ] = ()

    def judged(self, point: Point) -> float | None:
        """Return a point's score on the split that decisions use."""
        return point.validation if self.ratios.judged_on == "validation" else point.score

    def judged_error(self, point: Point) -> float | None:
        """Return the standard error of that score."""
        return point.validation_error if self.ratios.judged_on == "validation" else point.standard_error


class Comparison(Out):
    """A page of finished jobs. `differs` names the keys of `asked` whose values are not the same in all of them."""

    items: list[Compared]
    differs: list[str]
    next_page_token: str | None = None


@dataclass(frozen=True)
class ComparisonFilter:
    """Filters of a comparison; all given ones must match."""

    job: Annotated[list[Id] | None, Query(max_length=200, description="Only these jobs.")] = None
    model: Annotated[str | None, Query(description="Only jobs of this base model.")] = None
    dataset: Annotated[str | None, Query(description="Only jobs with this dataset.")] = None
    label: Labels = None
    search: Annotated[str | None, Query(max_length=200, pattern=TEXT, description="Part of name, id or owner.")] = None


def compare(session: Session, team: str, wanted: ComparisonFilter, size: int, token: str | None = None) -> Comparison:
    """Return the matching finished jobs, newest first. Raises InvalidRequest."""
    query = job_list.filter_jobs(team, JobFilter(state=["succeeded"], label=wanted.label, search=wanted.search))
    if wanted.job:
        query = query.where(Job.id.in_(wanted.job))
    if wanted.model:
        query = query.where(Job.model_id == wanted.model)
    if wanted.dataset:
        among = select(JobDataset.job_id).where(JobDataset.dataset_id == wanted.dataset)
        query = query.where((Job.dataset_id == wanted.dataset) | Job.id.in_(among))
    if token:
        query = query.where(Job.id < decode_token(token))
    newest = query.options(*job_list.WITHOUT_ROWS).order_by(Job.id.desc()).limit(size + 1)
    rows = list(session.scalars(newest))
    more, rows = len(rows) > size, rows[:size]
    items = _items(session, rows)
    for cost in ("bytes", "latency_ms"):
        for one in _pareto_front(items, cost):
            one.best_by = (*one.best_by, cost)
    return Comparison(items=items, differs=differing_keys(items), next_page_token=encode_token(rows[-1].id) if more else None)


def _items(session: Session, rows: Sequence[Job]) -> list[Compared]:
    ids = [job.id for job in rows]
    if not ids:
        return []
    parts = (Job.report["headline"].as_string(), Job.report["ratios"], Job.report["environment"]["processor"].as_string())
    heads: dict[str, tuple[str, dict[str, Any], str | None]] = {
        job: (headline, ratios, processor)
        for job, headline, ratios, processor in session.execute(select(Job.id, *parts).where(Job.id.in_(ids)))
    }
    figures: dict[str, list[Any]] = {one: [] for one in ids}
    columns = (Metric.job_id, Metric.stage, Metric.parameters, Metric.size_bytes, Metric.latency_ms, Metric.score)
    cells = (Metric.row["artifact"].as_string(), Metric.row["latency"], Metric.row["validation"], Metric.row["score"])
    for found in session.execute(select(*columns, *cells).where(Metric.job_id.in_(ids)).order_by(Metric.position)):
        figures[found[0]].append(tuple(found)[1:])
    shown = {job.id: job for job in job_list.show_jobs(session, rows, brief=True)}
    whole = _whole(session, {one for job in shown.values() for one in job.datasets})
    return [
        item.model_copy(update={"drawn": not whole.issuperset(item.datasets)})
        for job in rows
        if figures[job.id] and (item := _item(job, shown[job.id], *heads[job.id], figures[job.id])) is not None
    ]


def _whole(session: Session, datasets: set[str]) -> set[str]:
    """Return which datasets have a validation and a test split of their own."""
    found = session.execute(select(Dataset.id, Dataset.data["splits"]).where(Dataset.id.in_(datasets)))
    return {one for one, splits in found if {"validation", "test"} <= {*(splits or {})}}


def _item(
    job: Job, out: JobOut, headline: str, ratios: dict[str, Any], processor: str | None, figures: list[Any]
) -> Compared | None:
    points = [_point(one, processor) for one in figures]
    taken = next((point for point in points if point.artifact == headline), None)
    if taken is None:
        return None
    # The baseline or the shipped row may lack a score for want of memory: any scored row names the metric.
    ordered = sorted(zip(points, figures, strict=True), key=lambda pair: pair[0] is not taken)
    scores = [found for _, one in ordered for found in one[-2:]]
    score: dict[str, Any] = next((found for found in scores if found and "metric" in found), {})
    return Compared(
        id=job.id,
        name=job.name,
        labels=out.labels,
        task=job.task,
        model=job.model_id,
        datasets=out.datasets,
        owner=out.owner,
        finished_at=job.finished_at,
        metric=score.get("metric"),
        lower_is_better=bool(score.get("lower_is_better")),
        baseline=points[0],
        shipped=taken,
        ratios=Ratios.model_validate(ratios),
        asked=_flat({"recipe": job.recipe, "evaluate": job.evaluate, "targets": job.targets}),
    )


def _point(row: Sequence[Any], processor: str | None) -> Point:
    """Return a point from the columns of `_items`. processor: of the machine that timed it; None in reports that lack it."""
    stage, parameters, size, latency, value, artifact, timed, validation, score = row
    at = None
    if latency is not None:
        at = {name: timed[name] for name in ("batch", "length", "threads", "runtime")}
        at |= {"processor": processor, "exclusive": timed.get("exclusive", True)}
    error = score.get("standard_error") if value is not None else None
    figures: dict[str, Any] = {"parameters": parameters, "bytes": size, "latency_ms": latency, "latency_at": at}
    figures |= {"validation": (validation or {}).get("value"), "validation_error": (validation or {}).get("standard_error")}
    return Point(stage=stage, artifact=artifact, **figures, score=value, standard_error=error)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return every leaf under the path of its keys."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {name: leaf for key, inner in value.items() for name, leaf in _flat(inner, f"{path}.{key}" if path else key).items()}


def differing_keys(items: Sequence[Compared]) -> list[str]:
    """Return the keys whose values differ between requests; a part that some left out counts by its own key."""
    names = dict.fromkeys(name for item in items for name in item.asked)
    # Below a part that some left out (null), only the other requests are compared.
    left_out = tuple(f"{name}." for name in names if any(item.asked.get(name, 0) is None for item in items))

    def values(name: str) -> set[str]:
        apart = name.startswith(left_out)
        return {format_request_value(item, name) for item in items if name in item.asked or not apart}

    return sorted(name for name in names if len(values(name)) > 1)


def format_request_value(item: Compared, name: str) -> str:
    """Return a request's value at a key as JSON: `used` for a whole part that others left out."""
    if name in item.asked:
        return json.dumps(item.asked[name], ensure_ascii=False)
    return "used" if any(key.startswith(f"{name}.") for key in item.asked) else "–"


def _pareto_front(items: Sequence[Compared], cost: str) -> list[Compared]:
    """Return the jobs that none measured alike beats: none costs no more and is no worse without being equal."""
    measured = [one for one in items if getattr(one.shipped, cost) is not None and one.judged(one.shipped) is not None]
    return [one for one in measured if not any(_beats(other, one, cost) for other in measured)]


def _beats(one: Compared, other: Compared, cost: str) -> bool:
    if _comparable_key(one, cost) != _comparable_key(other, cost):
        return False
    sign = -1 if one.lower_is_better else 1
    mine, theirs = ((getattr(each.shipped, cost), -sign * (each.judged(each.shipped) or 0.0)) for each in (one, other))
    return mine[0] <= theirs[0] and mine[1] <= theirs[1] and mine != theirs


def _comparable_key(one: Compared, cost: str) -> tuple[Any, ...]:
    """Return what two jobs must share for their scores, and their costs, to be comparable."""
    seed = one.asked.get("recipe.train.seed") if one.drawn else None
    judged = (one.datasets, one.metric, one.ratios.judged_on, _judging_metrics(one), _scored_texts(one), seed)
    if cost != "latency_ms":
        return judged
    at = one.shipped.latency_at or {}
    # What another job was timed beside, or on an unknown machine, is held against nothing but itself.
    alone = None if at.get("exclusive", True) and at.get("processor") else one.id
    return (*judged, at, alone, bool(one.asked.get("evaluate.raw_inputs")))  # with which preparing the inputs counts


def _scored_texts(one: Compared) -> tuple[Any, ...]:
    """Return what a perplexity depends on besides the data: the tokenizer, which is the original's, the context length and the
    scored texts.
    """
    if one.task not in TASKS or not TASKS[one.task].generates:
        return ()
    window = one.asked.get("evaluate.window") or one.asked.get("recipe.train.max_length")
    return one.model, window, one.asked.get("evaluate.tokens"), one.asked.get("recipe.train.seed")


def _judging_metrics(one: Compared) -> list[tuple[str, str | None]]:
    """Return each dataset's metric, and its positive label if the metric depends on one: other means are not comparable."""
    metrics, labels = (
        given if isinstance(given, list) else [given] * len(one.datasets)
        for given in (one.asked.get("evaluate.metric", "auto"), one.asked.get("evaluate.positive"))
    )
    return [
        ("accuracy" if metric == "auto" else metric, label if "f1" in metric else None)
        for metric, label in zip(metrics, labels, strict=True)
    ]


FIGURES = ("parameters", "bytes", "latency_ms", "score", "standard_error", "validation", "validation_error")


def as_csv(found: Comparison) -> str:
    """Return CSV, a line per job: what it is, its figures before and after, its ratios, and the request keys that differ."""
    intervals = tuple(name for name in Ratios.model_fields if name.endswith("_interval"))
    ratios = tuple(name for name in Ratios.model_fields if name not in intervals)
    head = [
        "job",
        "name",
        "labels",
        "task",
        "model",
        "datasets",
        "owner",
        "finished_at",
        "metric",
        "stage",
        "artifact",
        "best_by",
    ]
    head += [f"{side}.{name}" for side in ("baseline", "shipped") for name in FIGURES] + [*ratios]
    head += [f"{name}.{end}" for name in intervals for end in ("low", "high")] + found.differs
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\r\n")
    lines.writerow(head)
    for one in found.items:
        line: list[Any] = [one.id, one.name, json.dumps(one.labels, ensure_ascii=False), one.task, one.model]
        line += [" ".join(one.datasets), one.owner, iso(one.finished_at), one.metric, one.shipped.stage, one.shipped.artifact]
        line += [" ".join(one.best_by)]
        line += [getattr(side, name) for side in (one.baseline, one.shipped) for name in FIGURES]
        line += [getattr(one.ratios, name) for name in ratios]
        line += [end for name in intervals for end in getattr(one.ratios, name) or (None, None)]
        line += [one.asked[name] if _plain(one.asked.get(name)) else format_request_value(one, name) for name in found.differs]
        lines.writerow([_escape_formula(value) for value in line])
    return out.getvalue()


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _escape_formula(value: Any) -> Any:
    """Prefix text that a spreadsheet would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def list_base_models(session: Session, team: str) -> list[tuple[str, str, int]]:
    """Return the base models of finished jobs: (id, name, jobs), that of the newest job first."""
    rows = session.execute(
        job_list.filter_jobs(team, JobFilter(state=["succeeded"]))
        .join(Model, Model.id == Job.model_id)
        .with_only_columns(Job.model_id, Model.name, func.count(), func.max(Job.id))
        .group_by(Job.model_id, Model.name)
        .order_by(func.max(Job.id).desc())
        .limit(200)
    )
    return [(row[0], row[1], row[2]) for row in rows]


def dataset_names(session: Session, team: str, ids: Sequence[str]) -> dict[str, str]:
    """Return the names of datasets, including deleted ones."""
    found = select(Dataset.id, Dataset.name).where(Dataset.id.in_(ids), Dataset.team_id == team)
    return dict(session.execute(found).all())
