"""Chooses the form of the headline's model that is recommended: the fastest that meets the targets. Torch-free.

The headline is chosen among rows, whose artifacts all run in one runtime (`verdicts.choose`). Its model also ships in other
formats, whose speeds and scores are their own: each is made a row here, and judged as one.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch

from compression.planning.quality_gate import each_verdict, severity
from compression.planning.verdicts import reached
from compression.schema.artifact_formats import ARTIFACT_FORMATS
from compression.schema.recipe.quality_gate import QualityGate
from compression.schema.recipe.recipe import Targets
from compression.schema.report.averages import mean_row
from compression.schema.report.measurements import Latency, NotMeasured, Row, Size, Uploaded
from compression.schema.report.ratios import ratios
from compression.schema.report.report import Artifact, Recommended, verdicts
from compression.schema.report.targets import of_rows, spoken

AFTERWARDS = " Its numbers were made of the trained weights afterwards."


def recommended(
    headline: Row, baseline: Row, artifacts: Sequence[Artifact], targets: Targets, sent: Uploaded | None = None
) -> Recommended | None:
    """Return the fastest of the headline's further forms that is faster than the headline and meets what it meets, or None.

    Such a form was timed, reaches the target of retention on validation, and every other target that the headline reaches. A
    speed is that against the baseline, with which each form is timed in turns. The quality gate judges it no worse than the
    headline. headline, baseline: rows, of several datasets
    the means; artifacts: the job's; sent: the uploaded model.
    """
    needed, known = {"retention", *reached(headline, targets)}, headline.ratios.speed_up
    able = [
        form
        for form in _forms(headline, baseline, artifacts, sent, targets.quality_gate)
        if form.ratios.judged_on == "validation"
        and needed <= {*reached(form, targets)}
        and _is_faster(form, known)
        and severity(form.gate) <= severity(headline.gate)
    ]
    if not able:
        return None
    best = max(able, key=lambda form: form.ratios.speed_up or 0.0)
    found = best.ratios.model_copy(update={"baseline_not_converged": headline.ratios.baseline_not_converged})
    best = best.model_copy(update={"ratios": found})
    artifact = next(one for one in artifacts if one.name == best.artifact)
    return Recommended(
        artifact=best.artifact,
        artifacts={name: part.artifact for name, part in best.parts.items()},
        runtime=_runtime(best),
        ratios=found,
        verdicts=verdicts(best, targets),
        why=_why(best, headline, targets) + ("" if artifact.trained_as_shipped else AFTERWARDS),
    )


def _why(best: Row, headline: Row, targets: Targets) -> str:
    met = reached(best, targets)
    every = "all targets" if len(met) == len(of_rows(targets)) else ", ".join(map(spoken, met))
    return (
        f"{best.artifact} is recommended: it runs {best.ratios.speed_up:.2f} times as fast as the baseline in {_runtime(best)} "
        f"({headline.artifact}: {headline.ratios.speed_up:.2f}), keeps {best.ratios.judged_retention:.1%} of the score on "
        f"validation, and reaches {every}."
    )


def _runtime(row: Row) -> str:
    return row.latency.runtime if isinstance(row.latency, Latency) else ""


def _is_faster(form: Row, known: float | None) -> bool:
    found = form.ratios.speed_up
    return found is not None and known is not None and found > known


def _forms(
    headline: Row, baseline: Row, artifacts: Sequence[Artifact], sent: Uploaded | None, gate: QualityGate | None
) -> Iterator[Row]:
    """Yield a row for each further format that the headline's model has, on each dataset."""
    further = [one for one in artifacts if one.stage == headline.stage and not ARTIFACT_FORMATS[one.kind].primary]
    if not headline.parts:
        yield from (_form(headline, baseline, one, sent) for one in further)
        return
    for kind in dict.fromkeys(one.kind for one in further):
        own = {one.part: one for one in further if one.kind == kind}
        if own.keys() == headline.parts.keys():
            parts = {name: _form(part, baseline.parts[name], own[name], sent) for name, part in headline.parts.items()}
            row = mean_row(parts, baseline, sent)
            verdicts_of = {name: part.gate for name, part in parts.items()}
            yield row if gate is None else row.model_copy(update={"gate": each_verdict(gate, verdicts_of)})


def _form(row: Row, baseline: Row, artifact: Artifact, sent: Uploaded | None) -> Row:
    """Return a row with another artifact's figures, compared with the baseline's."""
    weights = ARTIFACT_FORMATS[artifact.kind].weights
    size = Size(
        bytes=sum(file.size for file in artifact.files if any(fnmatch(file.path, pattern) for pattern in weights)),
        dtype=artifact.precision,
        bytes_at_16_bit=row.size.bytes_at_16_bit,
    )
    latency = artifact.latency or NotMeasured(not_measured="It was not timed.")
    before, after = (baseline.parameters, baseline.size, baseline.score), (row.parameters, size, artifact.score)
    scored = (baseline.validation, artifact.validation)
    figures = {"artifact": artifact.name, "size": size, "latency": latency, "score": artifact.score, "gate": artifact.gate}
    figures |= {"validation": artifact.validation, "ratios": ratios(before, after, latency, sent, validation=scored)}
    return row.model_copy(update=figures)
