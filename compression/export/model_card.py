"""The model card (README.md) that lies in every artifact: what it is, its figures, and code that opens it."""

import json
from collections.abc import Sequence
from typing import Any

from compression.evaluation.runtimes.runner import Kind
from compression.export.comparison_table import comparison
from compression.export.provenance import MOST_FILES, Origin
from compression.export.usage_snippets import onnx_snippet, transformers_snippet
from compression.modalities.text.scoring.question_answering import overlap_of
from compression.models.architectures import heads
from compression.schema.recipe.base import ROUNDS_ACTIVATIONS, Scheme, Task
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.before import Figures
from compression.schema.report.instruction_sets import ComparedAnswers, NotCompared
from compression.schema.report.measurements import Generation, Latency, NotMeasured, Row, Score, Size, shown
from compression.schema.stages import Stage


def opens_with(kind: Kind, precision: str, task: Task, *, beside: bool = False) -> str:
    """Name the stock tool and call that open an artifact. beside: whether an ONNX file's weights lie in another."""
    if kind == "onnx":
        reads = ", which reads model.onnx_data beside it," if beside else ""
        return f"onnxruntime.InferenceSession('model.onnx'){reads} with tokenizers.Tokenizer.from_file('tokenizer.json')"
    needs = " with torchao installed" if precision in ("int8", "int4", "mixed") else ""
    return f"transformers.{heads.of_task(task).auto}.from_pretrained(folder){needs}"


FLOAT = "All weights and all arithmetic are {dtype}."
CHANNELS = "int8 with one scale an output channel, embeddings int8 with one scale a row"
GROUPS = "4-bit integers with one scale for each group of inputs, embeddings int8 with one scale a row"
PORTABLE = "Weights that meet 8-bit activations stay within ±63, so that their products are exact on every processor."
SATURATES = (
    "Weights are within ±127: on x86 processors without VNNI, ONNX Runtime's products are exact only with the session option "
    "session.x64quantprecision, as below. Processors with VNNI need it not, and are slower by it."
)
OWN_SCORE = "Its rounding is not that of the ONNX artifact, so its score is its own."
NUMERICS: dict[Kind, dict[Scheme, str]] = {
    "onnx": {
        "dynamic-int8": f"Weights of linear layers are {CHANNELS}; activations are quantized to 8 bits while it runs, with one "
        "scale a token (max / 127), so that an answer does not depend on who shares the batch.",
        "static-int8": f"Weights of linear layers are {CHANNELS}; what enters a linear layer is quantized to 8 bits with a "
        "scale and a zero point that were calibrated for the layer.",
        "weight-only-int8": f"Weights of linear layers are {CHANNELS}; all arithmetic is float32. ONNX Runtime makes "
        "floating-point weights of them when it opens the file: it is small on disk, and as fast as float32.",
        "weight-only-int4": f"Weights of linear layers are {GROUPS}; all arithmetic is float32. The linear layers are ONNX "
        "Runtime's own operator MatMulNBits (com.microsoft), so other runtimes may not open the file.",
    },
    "transformers": {
        "dynamic-int8": f"Weights of linear layers are torchao's {CHANNELS}; activations are quantized to int8 while it runs, "
        f"with one scale a token. {OWN_SCORE}",
        "static-int8": f"Weights of linear layers are torchao's {CHANNELS}; activations are quantized to int8 while it runs, "
        "with one scale a token: stock from_pretrained does not open torchao's form with calibrated scales. "
        f"{OWN_SCORE}",
        "weight-only-int8": f"Weights of linear layers are torchao's {CHANNELS}; all arithmetic is float32.",
        "weight-only-int4": f"Weights of linear layers are {GROUPS}; all arithmetic is float32. torchao has no packed form of "
        "them for CPUs: each lies in a byte of its own.",
    },
}

NOT_CONVERGED = (
    "**baseline_not_converged**: the model that this one was compressed from was still gaining on validation when its training "
    "ended. What is kept of its score is unproven."
)
DESCRIPTIONS: dict[Task, str] = {
    "text-classification": "A text classifier for {count} labels ({names})",
    "text-pair-classification": "A classifier of pairs of texts for {count} labels ({names})",
    "text-regression": "A model that gives a text, or a pair of texts, a number",
    "token-classification": "A model that gives each word one of {count} tags ({names})",
    "question-answering": "A model that answers questions with a stretch of a given context, or says that it has none",
    "causal-lm": "A language model, which goes on with a text",
}


def card(
    *,
    name: str,
    kind: Kind,
    stage: Stage,
    scheme: Scheme | None,
    task: Task,
    labels: tuple[str, ...],
    max_length: int,
    size: Size,
    latency: Latency | NotMeasured,
    score: Score | NotMeasured,
    memory: int | NotMeasured,
    inputs: tuple[str, ...],
    pairs: bool = False,
    positions: int | None = None,
    as_filed: bool = True,
    origin: Origin | None = None,
    rows: Sequence[Row] = (),
    portable: bool = False,
    compared: ComparedAnswers | NotCompared | None = None,
    validation: Score | NotMeasured | None = None,
) -> str:
    """Write the card in Markdown.

    scheme: None is float32; portable: whether its weights are within ±63 where they meet rounded activations. inputs: of the
    ONNX file. pairs: whether rows have a second text. positions: how many tokens a language model reads; the other tasks'
    models read `max_length`. as_filed: whether stock AutoTokenizer cuts texts as tokenizer.json does. origin: None where no
    job made it. rows: the job's from the baseline to the artifact's stage; empty where there are none to compare with.
    validation: the score there, None where none was taken. compared: with what other processors answer.
    """
    about = DESCRIPTIONS[task].format(count=len(labels), names=", ".join(labels))
    windows = " Longer contexts are read in overlapping windows." if task == "question-answering" else ""
    read = f"Texts are cut to {max_length} tokens.{windows}"
    if task == "causal-lm":
        read = f"It reads up to {positions:,} tokens." if positions is not None else ""
        if origin is not None and trained(origin.recipe, stage):
            read += f" It was trained on rows of {max_length} tokens."
    beside: list[str] = []
    if rows and name != rows[0].artifact:
        own = Figures(size=size, latency=latency, score=score, validation=validation, peak_memory_bytes=memory)
        beside = comparison(rows, own, stage, name, kind)
    rounds = scheme in ROUNDS_ACTIVATIONS
    range_of = f" {PORTABLE}" if rounds and portable else f" {SATURATES}" if rounds and kind == "onnx" else ""
    lines = [
        *(front(name, kind, stage, scheme, task, score, origin) if origin is not None else ()),
        f"# {name}",
        "",
        f"{about}, as it was after the stage *{stage}*.",
        FLOAT.format(dtype=size.dtype) if scheme is None else NUMERICS[kind][scheme] + _left(size) + range_of,
        read,
        "",
        "## Open it",
        "",
        onnx_snippet(task, inputs, pairs=pairs, saturates=rounds and not portable)
        if kind == "onnx"
        else transformers_snippet(task, overlap_of(max_length), pairs=pairs, as_filed=as_filed),
        *beside,
        "## Figures",
        "",
        "Measured on these very files, after they were written and reopened.",
        "",
        *([NOT_CONVERGED, ""] if rows and rows[0].ratios.baseline_not_converged else []),
        "| figure | value |",
        "| --- | --- |",
        f"| weights on disk | {size.bytes:,} bytes ({size.dtype}) |",
        *_score(score),
        *_validation(validation),
        *_latency(latency),
        f"| peak resident memory of a process that only serves it | {_or_reason(memory, 'bytes')} |",
        *_elsewhere(compared),
        "",
        *(_made(origin, stage) if origin is not None else ()),
        "`manifest.json` lists every file with its size and sha256.",
        "",
    ]
    return "\n".join(lines)


def trained(recipe: Recipe, stage: Stage) -> bool:
    """Say whether a stage up to this one trains the model."""
    quantize, prune = recipe.quantize, recipe.prune
    trains: dict[Stage, bool] = {
        "baseline": recipe.prepare.trains,
        "quantized": quantize is not None and quantize.qat is not None and quantize.qat.epochs > 0,
        "pruned": prune is not None and prune.recovery is not None and prune.recovery.epochs > 0,
        "distilled": recipe.distill is not None,
    }
    stages = list(trains)
    return any(trains[each] for each in stages[: stages.index(stage) + 1])


PIPELINES: dict[Task, str] = {
    "text-classification": "text-classification",
    "text-pair-classification": "text-classification",
    "text-regression": "text-classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "causal-lm": "text-generation",
}
"""What the hub calls a task."""


def front(
    name: str,
    kind: Kind,
    stage: Stage,
    scheme: Scheme | None,
    task: Task,
    score: Score | NotMeasured,
    origin: Origin,
) -> list[str]:
    """Write the YAML that hubs read at the top of a card; every value is written as JSON, which is YAML too."""
    tags = ["lathe", stage, *(["onnx"] if kind == "onnx" else []), *(["quantized", scheme] if scheme else [])]
    told: dict[str, Any] = {
        "license": origin.license,
        "base_model": origin.base,
        "library_name": kind,
        "pipeline_tag": PIPELINES[task],
        "tags": tags,
    }
    if isinstance(score, Score):
        found = {score.metric: score.value, **score.metrics}
        result = {
            "task": {"type": PIPELINES[task]},
            "dataset": {"name": "test split of the job", "type": "custom"},
            "metrics": [{"type": metric, "value": value} for metric, value in found.items()],
        }
        told |= {"metrics": list(found), "model-index": [{"name": name, "results": [result]}]}
    return ["---", *(f"{key}: {json.dumps(value)}" for key, value in told.items() if value is not None), "---", ""]


def _made(origin: Origin, stage: Stage) -> list[str]:
    """Say of what, how and with which versions it was made, and what makes it again."""
    said = "The model that was sent does not say its licence; ask whoever made it before you pass this one on."
    if origin.license is not None:
        said = (
            f"The model that was sent is under `{origin.license}`, as its {origin.said_in} says: mind its terms in what you do."
        )
    recipe = json.dumps(origin.recipe.model_dump(mode="json", exclude_defaults=True), indent=2, ensure_ascii=False)
    more = len(origin.sent) - MOST_FILES
    return [
        "## How it was made",
        "",
        said,
        "",
        f"By Lathe, of which this is the stage *{stage}*. `recipe.json` is the whole recipe; what differs from the defaults:",
        "",
        f"```json\n{recipe}\n```",
        "",
        "The same job again, with the same files in the folders MODEL and DATA (compare the digests):",
        "",
        f"```sh\n{origin.command}\n```",
        "",
        "| what | file | sha256 |",
        "| --- | --- | --- |",
        *(f"| {one.what} | `{one.path}` | `{one.sha256}` |" for one in origin.sent[:MOST_FILES]),
        *([f"| | and {more} more | |"] if more > 0 else []),
        "",
        f"Versions and machine: {', '.join(f'{name} {value}' for name, value in origin.versions.items())}.",
        "",
    ]


def _left(size: Size) -> str:
    """Say what is no integers, where an artifact has such matrices."""
    _, _, left = size.dtype.partition(", ")
    return f" But {left} are matrices that stayed in floating point." if left else ""


def _sure(score: Score, name: str) -> str:
    """Write one of a score's metrics, with its standard error where there is one."""
    error = score.standard_errors.get(name)
    return shown(name, score.metrics[name]) + (f" ± {shown(name, error)}" if error is not None else "")


def _score(score: Score | NotMeasured) -> list[str]:
    if isinstance(score, NotMeasured):
        return [f"| score | not measured: {score.not_measured} |"]
    return [
        f"| {score.metric} on {score.rows:,} test rows, one at a time | {shown(score.metric, score.value)} ± "
        f"{shown(score.metric, score.standard_error)} |",
        f"| {score.metric}, 32 rows together | {shown(score.metric, score.value_at_batch_32)} |",
        f"| rows whose answer changes with the batch | {score.rows_changed_by_batching} |",
        *(f"| {name} | {_sure(score, name)} |" for name in score.metrics if name != score.metric),
        f"| {score.metric} of knowing no text (always the most frequent label, no entity, no answer; shares of tokens) | "
        f"{shown(score.metric, score.chance)} |",
    ]


def _validation(score: Score | NotMeasured | None) -> list[str]:
    if score is None:
        return []
    if isinstance(score, NotMeasured):
        return [f"| score on validation, which choices read | not measured: {score.not_measured} |"]
    value, error = (shown(score.metric, each) for each in (score.value, score.standard_error))
    return [f"| {score.metric} on {score.rows:,} validation rows, which choices read | {value} ± {error} |"]


def _latency(latency: Latency | NotMeasured) -> list[str]:
    if isinstance(latency, NotMeasured):
        return [f"| latency | not measured: {latency.not_measured} |"]
    threads = "1 thread" if latency.threads == 1 else f"{latency.threads} threads"
    where = f"batch {latency.batch}, {latency.length} tokens, {threads}, {latency.runtime}"
    if latency.generation is not None:
        return _generation(latency.generation, where)
    return [
        f"| latency, median ({where}) | {latency.median_ms:.2f} ms |",
        f"| latency, 95th percentile; distance between the quartiles | {latency.p95_ms:.2f} ms; {latency.spread_ms:.2f} ms |",
        f"| latency of the baseline, interleaved in the same process | {latency.baseline_median_ms:.2f} ms |",
    ]


def _generation(found: Generation, where: str) -> list[str]:
    first, baseline = f"{found.first_token_ms:.1f} ms", f"{found.baseline_first_token_ms:.1f} ms"
    return [
        f"| tokens a second, reading a prompt ({where}) | {found.prefill_per_second:,.0f} |",
        f"| tokens a second, one after the other, the {found.tokens} behind that prompt | {found.decode_per_second:,.1f} |",
        f"| time to the first token | {first} |",
        f"| the same of the baseline, interleaved in the same process | {found.baseline_prefill_per_second:,.0f}; "
        f"{found.baseline_decode_per_second:,.1f}; {baseline} |",
    ]


def _elsewhere(found: ComparedAnswers | NotCompared | None) -> list[str]:
    if found is None:
        return []
    if isinstance(found, NotCompared):
        return [f"| answers on processors without VNNI | not compared: {found.not_compared} |"]
    same = "all the same" if found.equal else f"**{found.changed} of {found.answers} differ.** {found.remedy}"
    return [
        f"| answers to {found.rows} sample rows under {found.instruction_set} ({found.emulator}), against those here | {same}; "
        f"logits differ by {found.largest_difference:.2g} at most |"
    ]


def _or_reason(value: int | NotMeasured, unit: str) -> str:
    return f"not measured: {value.not_measured}" if isinstance(value, NotMeasured) else f"{value:,} {unit}"
