"""Formats the before/after table, its targets and its notes, for terminals and as Markdown. Pure functions."""

import json as jsonlib
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.terminal.fitting import FittingTable
from client.terminal.gates import gate_sections
from client.terminal.text import one_line
from client.types import Preflight
from compression.schema.artifact_formats import ARTIFACT_FORMATS
from compression.schema.report.averages import metrics_of_parts
from compression.schema.report.draws import Interval
from compression.schema.report.lm_eval_table import LmEvalComparison, compare_lm_eval
from compression.schema.report.measurements import UNITS, Generation, Latency, NotMeasured, Ratios, Remedy, Row, Score, shown
from compression.schema.report.report import Artifact, Report, Verdict
from compression.schema.report.targets import bound_text, in_order, spoken, target_text
from compression.schema.report.written import MINUS, change, scaled
from compression.schema.tasks import row_of

HEADERS = ("stage", "parameters", "size", "latency", "on validation", "on test", "test at batch 32")
NOT_CONVERGED = (
    "baseline_not_converged: as far as validation tells, the baseline may have more to learn, so what is kept of its score is "
    "unproven."
)
OF_CARDS = ("card_bytes", "host_bytes_with_card")  #: figures of a forecast that are told together
TIMES = "×"


def percent(share: float, digits: int = 1) -> str:
    """0.358 → 35.8 %."""
    return f"{100 * share:.{digits}f} %".replace("-", MINUS)


def count(number: int) -> str:
    """22713984 → 22.71 M."""
    return scaled(number, (1e9, "G"), (1e6, "M"), (1e3, "k")) or str(number)


def size(number: int) -> str:
    """90868376 → 90.87 MB (10⁶ bytes)."""
    return scaled(number, (1e9, "GB"), (1e6, "MB"), (1e3, "kB")) or f"{number} B"


def duration(seconds: float) -> str:
    """3725 → 1 h 2 min; 65 → 1 min 5 s."""
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def score_text(score: Score | NotMeasured | None) -> str:
    """85.33 ± 0.91 %."""
    if not isinstance(score, Score):
        return "–"
    if score.metric in UNITS:
        text = f"{score.value:.4g} ± {score.standard_error:.2g}"
    else:
        text = f"{100 * score.value:.2f} ± {100 * score.standard_error:.2f} %"
    return f"{text} {score.taken}".rstrip()


def figure_text(metric: str, value: float, digits: int = 1) -> str:
    """A metric's value: shares in percent, perplexities as they are."""
    return shown(metric, value) if metric in UNITS else percent(value, digits)


def kept_text(share: float, interval: Interval | None, *, proven: bool = True) -> str:
    """98.9 % kept, 97.1 to 100.6 %: a retention with its 95 % interval."""
    between = f", {percent(interval[0])[:-2]} to {percent(interval[1])}" if interval is not None else ""
    return f"{percent(share)} kept{between}{'' if proven else ', unproven'}"


def _scored(row: Row, score: Score | NotMeasured | None, share: float | None, interval: Interval | None) -> str:
    text = score_text(score)
    if isinstance(score, Score) and row.stage != "baseline" and share is not None:
        text += f" ({kept_text(share, interval, proven=not row.is_unproven)})"
    return text


def stage_text(row: Row) -> str:
    """Return a row's name; the baseline's with its convergence."""
    return f"{row.stage}, {row.convergence}" if row.convergence else row.stage


def cells(row: Row, name: str | None = None, *, task: str | None = None) -> tuple[str, ...]:
    """Return one row of the table, with changes against the baseline. name: of a part, in place of the stage's. task: of the
    job, for the word for its rows.
    """
    first = row.stage == "baseline"
    latency = batched = "–"
    if isinstance(row.latency, Latency):
        latency = f"{row.latency.median_ms:.2f} ms"
        if not first and row.ratios.speed_up is not None:
            latency = f"{row.latency.in_turns} ({row.ratios.speed_up:.2f}{TIMES})"
        if rate := row.latency.rate(row_of(task)):
            latency += f", {rate}"
    found = row.ratios
    validation = _scored(row, row.validation, found.retention_on_validation, found.retention_on_validation_interval)
    tested = _scored(row, row.score, found.retention, found.retention_interval)
    if isinstance(row.score, Score):
        together = figure_text(row.score.metric, row.score.value_at_batch_32, 2)
        batched = f"{together}, {row.score.rows_changed_by_batching} rows changed"
    parameters, weight = count(row.parameters.total), f"{size(row.size.bytes)} {row.size.dtype}"
    if not first:
        parameters += f" ({change(row.ratios.parameter_reduction)})"
        weight += f" ({change(row.ratios.size_reduction)})"
    return (name or stage_text(row), parameters, weight, latency, validation, tested, batched)


def lines(rows: Sequence[Row], task: str | None = None) -> Iterator[tuple[str, ...]]:
    """Yield each row of the table, and below a mean the rows of its parts."""
    for row in rows:
        yield cells(row, task=task)
        for name, part in sorted(row.parts.items()):
            yield cells(part, f"· {name}")


def conditions(rows: Sequence[Row]) -> str:
    """Return the conditions under which the figures were measured."""
    parts = []
    for row in reversed(rows):
        if isinstance(row.latency, Latency):
            found = row.latency
            threads = "thread" if found.threads == 1 else "threads"
            parts.append(
                f"Latency: median of {found.runs} runs, {found.of_what}, {found.threads} {threads}, {found.runtime}; "
                f"{TIMES} is against the original, timed in turns with it. Behind “of” is its median then."
            )
            break
    for row in reversed(rows):
        if isinstance(row.score, Score):
            of = f" ({metrics})" if (metrics := metrics_of_parts(row)) else ""
            parts.append(
                f"Score: {row.score.metric}{of} on {row.score.counted} test rows ± standard error; "
                f"knowing no input: {figure_text(row.score.metric, row.score.chance)}."
            )
            break
    for row in reversed(rows):
        if isinstance(row.validation, Score):
            parts.append(
                f"Choices and verdicts read validation, {row.validation.counted} rows; what is kept has its 95 % interval."
            )
            break
    return " ".join(parts)


def ratios_text(found: Ratios, wanted: float) -> str:
    """−35.0 % parameters, −82.5 % bytes, 2.50×, 98.0 % kept: a row against the baseline. wanted: the target of retention."""
    parts = [f"{change(found.parameter_reduction)} parameters", f"{change(found.size_reduction)} bytes"]
    parts += [f"{found.speed_up:.2f}{TIMES} as fast"] if found.speed_up is not None else []
    share, proven = found.judged_retention, not found.is_unproven(wanted)
    parts += [kept_text(share, found.judged_interval, proven=proven)] if share is not None else []
    return ", ".join(parts)


def sizes(report: Report) -> str:
    """Size: −74.4 % against the file that was sent (90.87 MB float32), −48.8 % against 16 bit, −74.4 % against float32."""
    found = report.ratios
    parts = []
    if report.uploaded is not None and found.size_reduction_from_file is not None:
        sent = f"{size(report.uploaded.bytes)} {report.uploaded.dtype}"
        parts.append(f"{change(found.size_reduction_from_file)} against the file that was sent ({sent})")
    for value, what in ((found.size_reduction_from_16_bit, "16 bit"), (found.size_reduction_from_float32, "float32")):
        parts += [f"{change(value)} against {what}"] if value is not None else []
    return f"Size: {', '.join(parts)}." if parts else ""


def verdict_text(name: str, verdict: Verdict) -> str:
    """met: parameter reduction 35.8 % (target 30.5 %)."""

    def figure(value: float) -> str:
        return target_text(name, value, verdict.metric)

    found = verdict.figure_text(name)
    if (place := verdict.device or (verdict.split if verdict.value is not None else None)) is not None:
        found += f" on {place}"
    if verdict.interval is not None:
        found += f", 95 % interval {figure(verdict.interval[0])} to {figure(verdict.interval[1])}"
    code = f"; {verdict.code}" if verdict.code is not None and verdict.value is not None else ""
    bound = bound_text(name, verdict.target, verdict.metric, at_most=verdict.at_most)
    return f"{verdict.status}: {spoken(name)} {found} (target {bound}{code})"


def remedy_text(remedy: Remedy) -> str:
    """recipe.distill.epochs 8 → 14: 0.7400 is scored where 0.7936 is needed…"""
    changed = f"{remedy.key} {jsonlib.dumps(remedy.now)} → {jsonlib.dumps(remedy.proposed)}"
    return f"{changed}{' (done)' if remedy.applied else ''}: {remedy.why}"


def remedies(report: Report) -> list[str]:
    """Return each proposed change once, as its last row has it."""
    found = {
        (remedy.key, remedy.applied): remedy_text(remedy)
        for row in report.rows
        if row.verdict is not None
        for remedy in row.verdict.remedies
    }
    return list(found.values())


def notes(report: Report) -> list[str]:
    """Return the notes on the figures, those on what was not measured first; on what is folded where it changes."""
    found, folding = [], None
    for row in report.rows:
        for figure in ("latency", "validation", "score", "flops", "peak_memory_bytes"):
            value = getattr(row, figure)
            if isinstance(value, NotMeasured):
                found.append(f"{row.stage}: {figure.replace('_', ' ')} not measured: {value.not_measured}")
        if row.folding is not None and row.folding != folding:
            found.append(f"{row.stage}: {row.folding.short}")
        folding = row.folding
        found += [f"{row.stage}: {note}" for note in row.notes]
        found += [f"{row.stage}, {name}: {note}" for name, part in sorted(row.parts.items()) for note in part.notes]
    found += report.notes
    return found + [f"{part.name}: {note}" for part in report.parts for note in part.notes]


def row_table(rows: Sequence[Row], task: str | None = None) -> RenderableType:
    """Return the table alone; it also serves a job whose rows are still coming in."""
    return _table([HEADERS, *lines(rows, task)])


def beside_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the head and the lines of the table of figures beside the headline; empty if there are none."""
    found = compare_lm_eval(rows)
    return [("beside it", *(row.stage for row in rows)), *(_beside_line(line) for line in found)] if found else []


def _beside_line(line: LmEvalComparison) -> tuple[str, ...]:
    return (f"{line.name} ({line.what})", *(value or "–" for value in line.values))


def generation_lines(rows: Sequence[Row], forms: Sequence[Artifact] = ()) -> list[tuple[str, ...]]:
    """Return the head and the lines of the table of generation speeds; empty if nothing has one. forms: in further formats."""
    timed = [*((row.stage, row.latency) for row in rows), *((form.name, form.latency) for form in forms)]
    found = [(name, latency.generation) for name, latency in timed if isinstance(latency, Latency) and latency.generation]
    if not found:
        return []
    of = found[-1][1]
    head = ("generating", f"prompt of {of.prompt}, tokens/s", f"{of.tokens} tokens after it, tokens/s", "first token")
    return [head, *(_generation_line(name, each) for name, each in found)]


def _generation_line(name: str, found: Generation) -> tuple[str, ...]:
    shown = {"prefill_per_second": "{:,.0f}", "decode_per_second": "{:,.1f}", "first_token_ms": "{:,.2f} ms"}
    own, others = ([form.format(getattr(found, side + key)) for key, form in shown.items()] for side in ("", "baseline_"))
    if name == "baseline":
        return (name, *own)
    return (name, *(f"{value} (baseline {other})" for value, other in zip(own, others, strict=True)))


def further_lines(report: Report) -> list[list[tuple[str, ...]]]:
    """Return the tables below the first."""
    spoken = generation_lines(report.rows, _further(report))
    return [found for found in (spoken, beside_lines(report.rows), format_lines(report)) if found]


def format_lines(report: Report) -> list[tuple[str, ...]]:
    """Return a header, and a row for each artifact beside those of the stages; nothing of reports that do not tell of them."""
    header = ("format", "runs in", "download", "latency", "on validation", "on test", "its numbers")
    further = _further(report)
    return [header, *map(_format_line, further)] if further else []


def _further(report: Report) -> list[Artifact]:
    """Return the artifacts in further formats, of reports that tell of them."""
    return [one for one in report.artifacts if one.trained_as_shipped is not None and not ARTIFACT_FORMATS[one.kind].primary]


def _format_line(artifact: Artifact) -> tuple[str, ...]:
    latency, found = "–", artifact.latency
    if isinstance(found, Latency):
        latency = f"{found.in_turns} ({found.baseline_median_ms / found.median_ms:.2f}{TIMES})"
    scores = (score_text(each) for each in (artifact.validation, artifact.score))
    numbers = "as trained" if artifact.trained_as_shipped else "made afterwards"
    download = size(sum(file.size for file in artifact.files))
    return artifact.name, ARTIFACT_FORMATS[artifact.kind].runs_in, download, latency, *scores, numbers


def _table(found: Sequence[Sequence[str]]) -> RenderableType:
    table = Table(header_style="bold", pad_edge=False)
    for number, header in enumerate(found[0]):
        table.add_column(header, justify="right" if number else "left")
    cells = [[Text(one_line(cell)) for cell in line] for line in found[1:]]
    for line in cells:
        table.add_row(*line)
    return FittingTable(table, found[0], cells)


def _sections(report: Report, quote: str = "") -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield (title, lines with their style) of the text below the tables; a paragraph has no title."""
    yield "", [(NOT_CONVERGED, "yellow")] if report.ratios.is_unproven(report.targets.retention) else []
    yield f"Targets, evaluated on {evaluated_on(report, quote)}:", _judged(report.verdicts)
    yield from gate_sections(report, quote)
    yield "", [(report.choice, "")] if report.choice else []
    if (best := report.recommended) is not None:
        yield f"Recommended, {quote}{best.artifact}{quote}:", [(best.why, ""), *_judged(best.verdicts)]
    if (card := report.card) is not None:
        yield f"On the worker's {card.device}:", [*((row.text, "") for row in card.rows), (card.conditions, "")]
    yield "On devices:", [(row.text, "") for row in report.devices]
    yield "To try:", [(line, "") for line in remedies(report)]
    yield "Notes:", [(line, "") for line in notes(report)]


def _judged(verdicts: Mapping[str, Verdict]) -> list[tuple[str, str]]:
    return [(verdict_text(name, each), "green" if each.met else "yellow") for name, each in in_order(verdicts)]


def _measured(report: Report) -> str:
    return f"{conditions(report.rows)} {sizes(report)}".strip()


def report_table(report: Report) -> RenderableType:
    """Return the tables, the conditions, the targets and the notes, for a terminal."""
    parts: list[RenderableType] = [row_table(report.rows, report.task), *map(_table, further_lines(report))]
    parts.append(Text(one_line(_measured(report)), style="dim"))
    for title, found in _sections(report):
        parts += [Text(f"\n{one_line(title)}", style="bold")] if title and found else []
        parts += [Text(("  " if title else "\n") + one_line(line), style=style) for line, style in found]
    return Group(*parts)


def markdown_line(values: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(one_line(value).replace("|", "\\|") for value in values) + " |"


def _markdown_table(found: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(found[0]) - 1)]
    return [markdown_line(line) for line in (found[0], rule, *found[1:])]


def report_markdown(report: Report) -> str:
    """Return the same as Markdown, for a pull request or a page."""
    text = _markdown_table([HEADERS, *lines(report.rows, report.task)])
    for further in further_lines(report):
        text += ["", *_markdown_table(further)]
    text += ["", _measured(report)]
    for title, found in _sections(report, "`"):
        text += ["", title] if title and found else []
        text += ["", *(f"- {line}" if title else line for line, _ in found)] if found else []
    return "\n".join(map(one_line, text)) + "\n"


def forecast_lines(found: Preflight) -> list[str]:
    """Return the lines of a forecast: shape, parameters, cost and warnings."""
    parts = []
    if found.shape:
        shape = {name: value for name, value in found.shape.items() if value and name != "widths"}
        parts.append("Shape: " + ", ".join(f"{name} {value}" for name, value in shape.items()))
    if found.parameters and "total" in found.parameters:
        parts.append(f"Parameters: {count(int(found.parameters['total']))}")
    if found.multiply_adds is not None and found.baseline_multiply_adds:
        share = 1 - found.multiply_adds / found.baseline_multiply_adds
        parts.append(f"Multiply-adds: {count(found.multiply_adds)} ({change(share)})")
    card, host = (found.estimate.get(name) for name in OF_CARDS)
    for name, value in found.estimate.items():
        if name.endswith("bytes") and name not in OF_CARDS:
            parts.append(f"Estimate: {name.removesuffix('_bytes')} {size(int(value))}")
    if card and host:
        parts.append(f"On a GPU: {size(int(card))} of its memory and {size(int(host))} of the host's")
    if "minutes" in found.estimate:
        parts.append(f"Estimate: {time_text(found.estimate)}")
    return parts + [f"Warning: {warning}" for warning in found.warnings]


def time_text(estimate: Mapping[str, object]) -> str:
    """Return an estimate's time as text: 15 minutes on AMD EPYC (12 to 19, from 7 jobs there)."""
    where, jobs, low = estimate.get("machine") or "two cores", estimate.get("jobs") or 0, estimate.get("minutes_low")
    there = f"{jobs} job{'s' if jobs != 1 else ''} there"
    learnt = (
        f" ({low:g} to {estimate['minutes_high']:g}, from {there})" if low is not None else f" (from {there})" if jobs else ""
    )
    return f"{estimate['minutes']:g} minutes on {where}{learnt}"


def evaluated_on(report: Report, quote: str = "") -> str:
    """Return the artifact that the targets are evaluated on; for several datasets, the mean over theirs."""
    if not report.headlines:
        return f"{quote}{report.headline}{quote}"
    return "the mean over " + ", ".join(f"{quote}{name}{quote}" for name in report.headlines.values())
