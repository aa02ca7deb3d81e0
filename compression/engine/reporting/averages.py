"""Builds the mean row of a job with several datasets, with its verdict."""

from collections.abc import Mapping, Sequence

from compression.engine.reporting.notes import with_notes
from compression.planning.verdicts import judged
from compression.schema.job_spec import Spec
from compression.schema.report.averages import mean_row
from compression.schema.report.draws import NO_DRAWS, SplitDraws, mean_split_draws
from compression.schema.report.measurements import Row, Uploaded
from compression.schema.stages import Stage


def judged_mean_row(
    parts: Mapping[str, Row],
    before: Sequence[Row],
    spec: Spec,
    limit: str | None,
    sent: Uploaded,
    draws: Sequence[Mapping[Stage, SplitDraws]] = (),
) -> Row:
    """Average one stage's rows and judge the mean against the targets and the means of earlier stages. parts: dataset name →
    row, in the job's order. limit: the training limit that a dataset reached. draws: of each dataset, by stage.
    """
    stages = [*(row.stage for row in before), next(iter(parts.values())).stage]
    means = {stage: mean_split_draws([own.get(stage, NO_DRAWS) for own in draws]) for stage in stages}
    row = mean_row(parts, before[0] if before else None, sent, (means[stages[0]], means[stages[-1]]))
    row, task = with_notes(row, before[-1] if before else None), spec.asked[0].task
    return judged(row, before, spec.recipe, spec.targets, limit=limit, task=task, draws=means)
