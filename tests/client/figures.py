"""A report with figures that are easy to recognise in a table, and the facts of what it was made of."""

from typing import Any

from compression.planning.front import front_of
from compression.planning.quality_gate import gate_verdict
from compression.planning.recommendation import recommended
from compression.schema.recipe.quality_gate import QualityGate
from compression.schema.recipe.recipe import Recipe, Targets
from compression.schema.report.gate import GateVerdict, PairedDrop
from compression.schema.report.measurements import Generation, Latency, NotMeasured, Parameters, Row, Score, Size
from compression.schema.report.points import PointCut
from compression.schema.report.preparation import Preparation
from compression.schema.report.ratios import ratios
from compression.schema.report.report import Artifact, File, Report, SplitFacts, Uploaded, verdicts
from compression.schema.report.samples import Sample, SampleAnswer
from compression.schema.report.size_search import SizeSearch, SizeTried
from compression.schema.report.task_figure import TaskFigure
from compression.schema.stages import Stage

SHAPE = {"layers": 6, "hidden": 384, "heads": 12, "ffn": 1536, "vocabulary": 30522}
MODEL_FACTS: dict[str, Any] = {"kind": "model", "family": "bert", "architecture": "BertModel", "shape": SHAPE, "labels": None}
MODEL_FACTS |= {"parameters": {"total": 22713216, "embedding": 11917824, "other": 10795392}, "max_positions": 512}
MODEL_FACTS |= {"dtype": "float32", "bytes": 90868376}
SMOLLM2 = {"layers": 30, "hidden": 576, "heads": 9, "ffn": 1536, "vocabulary": 49152, "groups": 3, "head_size": 64}
LLAMA_FACTS = {**MODEL_FACTS, "family": "llama", "architecture": "LlamaForCausalLM", "shape": SMOLLM2}
LLAMA_FACTS |= {"parameters": {"total": 134515008, "embedding": 28311552, "other": 106203456}, "max_positions": 8192}
LLAMA_FACTS |= {"dtype": "bfloat16", "bytes": 269060552}
DATA_FACTS: dict[str, Any] = {"kind": "dataset", "labels": ["negative", "positive"], "mean_words": 12.0, "longest_words": 40}
DATA_FACTS |= {"rows": {"train": 100, "validation": 20, "test": 20}}
DATA_FACTS |= {"label_counts": {"train": {"negative": 50, "positive": 50}}}


def row(
    stage: Stage, parameters: int, size: int, ms: float, score: float, validation: float | None = None, **changes: Any
) -> Row:
    """A row whose baseline is 20 M parameters, 80 MB, 16 ms, 80 %.

    validation: of 500 rows, of which the baseline has 80 % right too; none in rows of before it was scored. interval (one of
    the changes): of retention on validation, if there is one.
    """
    timed = {"median_ms": ms, "p95_ms": ms + 1, "spread_ms": 0.5, "baseline_median_ms": 16.0, "baseline_p95_ms": 17.0}
    runtime = "onnxruntime 1.32.0 CPUExecutionProvider"
    latency = Latency(**timed, runs=200, batch=1, length=128, threads=1, runtime=runtime)
    found = score_of(score).model_copy(update={"rows_changed_by_batching": 3 if stage == "distilled" else 0})
    base = (Parameters(total=20_000_000, embedding=10_000_000, other=10_000_000), _size(80_000_000), score_of(0.8))
    own = (Parameters(total=parameters, embedding=parameters // 2, other=parameters - parameters // 2), _size(size), found)
    scored = None if validation is None else score_of(validation).model_copy(update={"rows": 500})
    held = ratios(base, own, latency, validation=(scored and score_of(0.8), scored))
    held = held.model_copy(update={"retention_on_validation_interval": changes.pop("interval", None)})
    values = {"stage": stage, "artifact": f"{stage}-onnx-int8", "shape": SHAPE, "parameters": own[0], "size": own[1]}
    values |= {"latency": latency, "score": found, "validation": scored, "flops": 1, "peak_memory_bytes": 1}
    return Row(**{**values, "ratios": held, "seconds": 1.0, **changes})


def changed(of: Row, part: str, **values: Any) -> Row:
    """The row with other values in one of its parts, as its latency."""
    return of.model_copy(update={part: getattr(of, part).model_copy(update=values)})


def converged(row: Row, converged: bool | None, **changes: Any) -> Row:
    """The row, which is a baseline's, as one whose preparation did or did not converge."""
    facts: dict[str, Any] = {"converged": converged, "reason": "A test says so.", "epochs": 4, "best_epoch": 4, **changes}
    return row.model_copy(update={"preparation": Preparation(**facts)})


def score_of(value: float) -> Score:
    known = {"standard_error": 0.01, "rows": 1000, "rows_changed_by_batching": 0, "chance": 0.5}
    return Score(metric="accuracy", value=value, value_at_batch_32=value, **known)


def _size(size: int) -> Size:
    return Size(bytes=size, dtype="float32" if size == 80_000_000 else "int8", bytes_at_16_bit=size // 2)


def report(**changes: Any) -> Report:
    """Four rows: 35 % fewer parameters, 82.5 % fewer bytes, 2.5 times as fast, 98 % kept."""
    rows = (
        row("baseline", 20_000_000, 80_000_000, 16.0, 0.8),
        row("quantized", 20_000_000, 20_000_000, 8.0, 0.796),
        row("pruned", 13_000_000, 14_000_000, 6.4, 0.6, flops=NotMeasured(not_measured="no counter here")),
        row("distilled", 13_000_000, 14_000_000, 6.4, 0.784),
    )
    last, name, labels = rows[-1], "distilled-onnx-int8", ("negative", "positive")
    form = {"kind": "onnx", "stage": "distilled", "precision": "int8", "opens_with": "onnxruntime"}
    splits = {"test": SplitFacts(rows=1000, carved_from_train=False, labels=dict.fromkeys(labels, 500))}
    values: dict[str, Any] = {"task": "text-classification", "labels": labels, "rows": rows, "headline": name, "splits": splits}
    values |= {"ratios": last.ratios, "targets": Targets(), "verdicts": verdicts(last, Targets()), "recipe": Recipe()}
    values |= {"artifacts": (Artifact(name=name, files=(), score=last.score, **form),), "pruning": None}
    values |= {"environment": {"torch": "2.13"}, "notes": ("validation was carved from train | 10 %",)}
    return Report(**{**values, **changes})


def validated(*, is_converged: bool | None = True) -> Report:
    """A job of today, of two rows: on validation 99.4 % is kept, on test 98 %, each with its interval."""
    first = converged(row("baseline", 20_000_000, 80_000_000, 16.0, 0.8, validation=0.8), is_converged)
    last = row("distilled", 13_000_000, 14_000_000, 6.4, 0.784, validation=0.795, interval=(0.971, 1.015))
    flag = is_converged is False
    last = changed(last, "ratios", baseline_not_converged=flag, retention_interval=(0.962, 0.999))
    first = changed(first, "ratios", baseline_not_converged=flag)
    return report(rows=(first, last), ratios=last.ratios, verdicts=verdicts(last, Targets()))


def further(ms: float = 5.0, kept: float = 0.796, *, kind: str = "openvino-int8", **changes: Any) -> Artifact:
    """The distilled model in another format: 15 MB of weights, in its own runtime by default 3.2 times as fast, 99.5 % kept.

    kept: its score on validation.
    """
    latency = validated().rows[-1].latency.model_copy(update={"median_ms": ms, "runtime": "openvino 2026.4 CPU"})
    weights = {"openvino_model.xml": 1_000_000, "openvino_model.bin": 14_000_000, "tokenizer.json": 9_000_000}
    files = tuple(File(path=path, size=size, sha256="0" * 64) for path, size in weights.items())
    form = {"name": f"distilled-{kind}", "kind": kind, "stage": "distilled", "precision": "int8", "opens_with": "openvino"}
    figures = {"latency": latency, "score": score_of(0.785), "validation": score_of(kept), "trained_as_shipped": False}
    return Artifact(**{**form, "files": files, **figures, **changes})


def recommending(*forms: Artifact, **changes: Any) -> Report:
    """A job of today whose model also ships in other formats, by default in one that is faster and kept as much."""
    known, forms = validated(), forms or (further(),)
    first, last = known.rows
    found = recommended(last, first, forms, known.targets)
    return known.model_copy(update={"artifacts": (*known.artifacts, *forms), "recommended": found, **changes})


def from_file() -> Report:
    """A job whose model was uploaded in a file that takes 20 MB."""
    known = report()
    ratios = known.ratios.model_copy(update={"size_reduction_from_file": 0.3})
    return known.model_copy(update={"uploaded": Uploaded(bytes=20_000_000, dtype="Q8_0"), "ratios": ratios})


def more_figures(of: Row) -> Row:
    """The row with another metric, of which the baseline has no error, and with three figures of lm-eval's tasks."""
    errors = {} if of.stage == "baseline" else {"bits_per_byte": 0.012}
    named = {"accuracy": of.score.value, "bits_per_byte": 0.75 + of.score.value}
    tasks = [
        ("arc_easy", "acc", "none", of.score.value / 2, 0.025, True, 0),
        ("gsm8k", "exact_match", "strict-match", 0.02, None, True, 5),
    ]
    tasks += [("wikitext", "word_perplexity", "none", None, None, False, 0)] if of.stage != "baseline" else []
    names = ("task", "metric", "filter", "value", "standard_error", "higher_is_better", "few_shot")
    figures = tuple(TaskFigure(**dict(zip(names, one, strict=True)), rows=1319, version="1") for one in tasks)
    return changed(of, "score", metrics=named, standard_errors=errors).model_copy(update={"lm_eval": figures})


def generates(of: Row) -> Row:
    """The row as one of a language model: what is timed is a token more, and how fast prompts are read stands beside it."""
    own = {"prefill_per_second": 6400.0, "decode_per_second": 1000 / of.latency.median_ms, "first_token_ms": 20.0}
    base = {"prefill_per_second": 3200.0, "decode_per_second": 62.5, "first_token_ms": 40.0}
    generation = Generation(prompt=128, tokens=32, **own, **{f"baseline_{name}": value for name, value in base.items()})
    return changed(of, "latency", generation=generation)


def sampled() -> Report:
    """A report that shows two rows of test, of which the recommended artifact has one wrong."""
    first, last = "baseline-onnx-int8", "distilled-onnx-int8"
    answers = {first: ("positive", "negative"), last: ("negative", "negative")}
    form = {"kind": "onnx", "precision": "int8", "opens_with": "onnxruntime", "score": score_of(0.8), "files": ()}
    artifacts = tuple(
        Artifact(
            name=name, stage=stage, **form, answers=tuple(SampleAnswer(text=text, probability=0.75) for text in answers[name])
        )
        for name, stage in ((first, "baseline"), (last, "distilled"))
    )
    picture = "data:image/png;base64,iVBORw0KGgo="
    samples = (Sample(texts=("a lovely film",), expected="positive"), Sample(picture=picture, expected="negative"))
    return report(artifacts=artifacts, samples=samples)


def gate_of(lost: int, gained: int, rows: int = 500, original: str = "baseline-onnx-float32") -> GateVerdict:
    """The verdict on a model that alone is wrong, or alone is right, on some of the rows: at most 0.8 points may be lost."""
    drop, spread = (lost - gained) / rows, ((lost + gained) / rows) ** 0.5
    away = 1.645 * spread / rows**0.5
    found = PairedDrop(drop=drop, lower=drop - away, upper=drop + away, rows=rows, spread=spread, method="bounded mean", seed=0)
    return gate_verdict(QualityGate(), original, found, found.model_copy(update={"rows": 1000}))


def gated(gate: GateVerdict) -> Report:
    """A job of today with a quality gate, whose headline has this verdict and whose further format is a regression."""
    known = validated()
    first, last = known.rows
    forms = (known.artifacts[0].model_copy(update={"gate": gate}), further(gate=gate_of(60, 10)))
    rows, targets = (first, last.model_copy(update={"gate": gate})), Targets(quality_gate=QualityGate())
    return known.model_copy(update={"rows": rows, "gate": gate, "artifacts": forms, "targets": targets})


def aimed() -> Report:
    """The same with absolute targets: parameters met, a latency on another device not measured, a score missed."""
    asked = Targets.model_validate({"parameters": 14e6, "latency_ms": {"value": 120, "device": "A100"}, "score": 79.1})
    return report(targets=asked, verdicts=verdicts(report().rows[-1], asked))


def searched() -> Report:
    """Return the report of a job that found its size: one that was distilled shortly, one fully, and one not yet."""
    shape = report().rows[-1].shape
    known = {"share": 0.4, "shape": shape, "layers": (0,), "parameters": 8_000_000, "cost": 0.4, "error": 0.1234, "epochs": 2}
    short = SizeTried(kind="short", steps=200, kept=0.97, kept_error=0.004, expected=0.985, **known)
    full = SizeTried(kind="full", steps=900, kept=0.991, kept_error=0.005, chosen=True, **known)
    later = SizeTried(kind="full", steps=0, **known)
    times = {"budget_minutes": 30, "minutes": 21.5, "original": 0.9, "whole": 20_000_000}
    found = {"retention": 0.99, "objective": "parameters", "why": "It met the target."}
    return report(sizes=SizeSearch(tried=(short, full, later), **found, **times))


def several(*kept: float, retention: float = 0.992) -> Report:
    """Return the report of a job of three sizes, of 13, 10 and 8 million parameters. kept: shares on validation, of each."""
    first = converged(row("baseline", 20_000_000, 80_000_000, 16.0, 0.8, validation=0.8), converged=True)
    stages, sizes = ("distilled", "point2", "point3"), (13_000_000, 10_000_000, 8_000_000)
    own = [
        row(stage, size, size, 6.4, 0.8 * share - 0.01, validation=0.8 * share)
        for stage, size, share in zip(stages, sizes, kept or (0.999, 0.995, 0.98), strict=True)
    ]
    points = tuple(
        PointCut(stage=one.stage, parameters=size, share=size / 2e7, shape=one.shape, layers=(0,), error=error, pruning={})
        for one, size, error in zip(own, sizes, (0.01, 0.0456, 0.2), strict=True)
    )
    rows, targets = (first, *own), Targets(retention=retention)
    front = front_of(rows, targets)
    best = next(one for one in rows if one.stage == front.recommended)
    found = {"rows": rows, "points": points, "front": front, "ratios": best.ratios, "verdicts": verdicts(best, targets)}
    return report(headline=best.artifact, targets=targets, **found)
