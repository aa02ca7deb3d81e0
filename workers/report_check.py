"""Compares the report that an engine sends with what was stored of its job stage by stage."""

from collections.abc import Collection, Sequence

from app.jobs import stage_results
from app.store.db import reading
from compression.schema.report.report import Report
from workers.folders import Untrustworthy


def check_report(report: Report, job_id: str, stored: Collection[str], part_names: Sequence[str]) -> None:
    """Compare a report with a job's rows, artifacts and datasets. stored: artifacts whose rows are yet to come. Raises
    Untrustworthy.
    """
    with reading() as session:
        rows, names = stage_results.list_results(session, job_id)
    names |= {*stored}
    if report.devices:
        raise Untrustworthy("the report has rows of devices, which no engine can ask")
    if [row.model_dump(mode="json") for row in report.rows] != rows:
        raise Untrustworthy("the report's rows are not those of its stages")
    taken = {report.headline, *report.headlines.values()}
    if {artifact.name for artifact in report.artifacts} != names or not taken <= names:
        raise Untrustworthy("the report's artifacts are not those that were stored")
    if not {part.name for part in report.parts} == set(report.headlines) == set(part_names):
        raise Untrustworthy("the report's parts are not the job's")
