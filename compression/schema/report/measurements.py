"""The figures of a row, their definitions, and the comparison of one row with another."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from compression.schema.config import Config
from compression.schema.report.decoder_widths import Experts, Latent
from compression.schema.report.draws import Interval
from compression.schema.report.folding import Folding
from compression.schema.report.gate import GateVerdict
from compression.schema.report.layer_ranges import LayerRange
from compression.schema.report.preparation import Preparation
from compression.schema.report.search import SearchComparison, TablesUsed
from compression.schema.report.task_figure import TaskFigure
from compression.schema.stages import Stage


class NotMeasured(Config):
    """The reason why a figure could not be measured, in its place."""

    not_measured: str


class Shape(Config):
    """The widths of a model, as its stock config states them. From `groups` to `latent`: decoders only, else null.

    Of a network of images, `layers` are residual blocks, `hidden` are the inputs of its last linear layer, and ffn and
    vocabulary are 0; heads are 0 where it has none.
    """

    layers: int
    hidden: int
    heads: int
    ffn: int
    vocabulary: int
    embedding: Annotated[int | None, Field(description="Width of the token tables, where it is not `hidden`.")] = None
    groups: Annotated[int | None, Field(description="Key and value heads, each read by as many query heads.")] = None
    head_size: Annotated[int | None, Field(description="Channels of a head's query and key.")] = None
    experts: Experts | None = None
    latent: Latent | None = None
    widths: dict[str, int] | None = None
    """Of a network of images: units of each group of indices that shrink together, by axis and number (channels.3); else
    null."""
    ffns: tuple[int, ...] | None = None
    """Feed-forward units of each layer, shallow first, where they differ: `ffn` is the widest then. Else null."""
    eight_bits: Annotated[tuple[int, ...] | None, Field(exclude_if=lambda value: value is None)] = None
    """Of a search that chooses bits: layers, from 0, that have 8 bits where the others have 4. Else null."""

    @property
    def short(self) -> str:
        """Return the shape as text; of layers with widths of their own, the narrowest and the widest."""
        if self.widths is None:
            units = f"{min(self.ffns)}–{self.ffn}" if self.ffns is not None else str(self.ffn)
            bits = "" if self.eight_bits is None else f", {len(self.eight_bits)} of them in 8 bits"
            return f"{self.layers} layers of {self.hidden}/{self.heads}/{units}{bits}"
        return f"{sum(self.widths.values()):,} units in {len(self.widths)} groups"

    def __hash__(self) -> int:
        """Return a hash by all widths."""
        return hash(self.model_dump_json())

    @property
    def each_ffn(self) -> tuple[int, ...]:
        """Return the feed-forward units of each layer, shallow first; of a layer with experts those of a dense one."""
        return self.ffns if self.ffns is not None else (self.ffn,) * self.layers

    def with_ffns(self, units: Sequence[int]) -> "Shape":
        """Return the shape with so many feed-forward units in each of its layers: one width if all have as many."""
        differ = len({*units}) > 1
        return self.model_copy(update={"ffn": max(units), "ffns": tuple(units) if differ else None})

    @property
    def attended(self) -> int:
        """Return the channels that attention is compared over: of all heads' queries, or values if those are more."""
        size = self.head_size or self.hidden // (self.heads or 1)
        return self.heads * (max(size, self.latent.value) if self.latent is not None else size)


class Parameters(Config):
    """The number of elements of unique parameters; tied ones count once."""

    total: int
    embedding: Annotated[int, Field(description="Token, position and type tables.")]
    other: int


class Size(Config):
    """Bytes on disk of the artifact's weights, as downloaded."""

    bytes: int
    dtype: Annotated[str, Field(description="What the weights are stored in, for example float32 or int8.")]
    bytes_at_16_bit: Annotated[int, Field(description="Two bytes a parameter: the other baseline that people mean.")]


class Uploaded(Config):
    """The weights as they were uploaded."""

    bytes: Annotated[int, Field(description="Of the file or of all shards.")]
    dtype: Annotated[str, Field(description="What most of these bytes are stored in, for example bfloat16 or Q4_1.")]


class Generation(Config):
    """The speed at which a language model continues a prompt greedily.

    It reads all of the prompt at once (prefill), then generates token by token (decode). Tokens per second of all rows
    together; both sides are interleaved as for `Latency`; medians.
    """

    prompt: Annotated[int, Field(description="Tokens of each row's prompt.")]
    tokens: Annotated[int, Field(description="Tokens that follow it, one a step; each step sees all before it.")]
    prefill_per_second: float
    decode_per_second: float
    first_token_ms: Annotated[float, Field(description="From the prompt to the first token of its continuation.")]
    baseline_prefill_per_second: float
    baseline_decode_per_second: float
    baseline_first_token_ms: float


class Latency(Config):
    """Latency of baseline and candidate, interleaved in one fresh process. Milliseconds.

    Device and threads are the same, and the runtime, unless an artifact of a further format has its own. The time is of one
    batch of `length` tokens, or of rows that have none (0); for a language model, of one further token per row, after a prompt
    of `length` tokens.
    """

    median_ms: float
    p95_ms: float
    spread_ms: Annotated[float, Field(description="Distance between the quartiles.")]
    baseline_median_ms: float
    baseline_p95_ms: float
    runs: int
    batch: int
    length: int
    threads: int
    runtime: Annotated[str, Field(description="For example 'onnxruntime 1.32.0 CPUExecutionProvider'.")]
    generation: Annotated[Generation | None, Field(description="Of a language model alone.")] = None
    exclusive: Annotated[bool, Field(description="Whether no other job was timed on this host meanwhile.")] = True
    interrupted: Annotated[float | None, Field(exclude_if=lambda value: value is None)] = None
    """Share of the turns in which another process ran in a model's place (docs/decisions/0079); null in older reports."""
    speed_up_interval: Annotated[Interval | None, Field(exclude_if=lambda value: value is None)] = None
    """95 %, by bootstrap of blocks of turns. null of the baseline, of means and in older reports."""

    @property
    def rows_per_second(self) -> float:
        """Return how many rows the candidate answers in a second."""
        return 1000 * self.batch / self.median_ms

    @property
    def baseline_rows_per_second(self) -> float:
        """Return how many rows the baseline answers in a second."""
        return 1000 * self.batch / self.baseline_median_ms

    def rate(self, row: str) -> str:
        """Return as text how many rows of one size it answers in a second; "" if rows have a length. row: what a row is."""
        return "" if self.length else f"{self.rows_per_second:,.0f} {row}s a second"

    @property
    def in_turns(self) -> str:
        """Return both medians of the same turns as text: 6.40 of 16.00 ms."""
        return f"{self.median_ms:.2f} of {self.baseline_median_ms:.2f} ms"

    @property
    def of_what(self) -> str:
        """Return as text what takes that long."""
        if self.generation is None:
            return f"batch {self.batch} × {self.length} tokens" if self.length else f"batch {self.batch}"
        return f"batch {self.batch}, one token more behind a prompt of {self.length} tokens"


UNITS = {"perplexity": "", "loss": " nats a token", "bits_per_byte": " bits a byte"}
"""Metrics that are not shares, and the units shown after them."""


def shown(metric: str, value: float, more: int = 0) -> str:
    """Return a metric's value as text: shares in percent, the others as they are. more: digits than usual."""
    return f"{value:.{4 + more}g}{UNITS[metric]}" if metric in UNITS else f"{value:.{2 + more}%}"


def in_unit(metric: str, value: float) -> float:
    """Return a metric's value as the number that is shown: shares times 100."""
    return value if metric in UNITS else 100 * value


def of_unit(metric: str, value: float) -> float:
    """Return the value of a shown number: the reverse of `in_unit`."""
    return value if metric in UNITS else value / 100


class Score(Config):
    """The task's metric on one split, at batch 1 and, padded, at batch 32."""

    metric: str
    value: Annotated[float, Field(description="At batch 1; 1 is perfect. Correlations may be negative.")]
    lower_is_better: Annotated[bool, Field(description="Of perplexity; retention is then before / after.")] = False
    standard_error: float
    """Of the headline. A perplexity without one (a single text, or past 1e300) has its own value here."""
    error_from: Literal["analytic", "bootstrap", "parts"] = "analytic"
    """Of the headline. analytic: of a share or a mean over rows. bootstrap: 1,000 seeded samples of the rows. parts: of a mean
    over n datasets, the root of the sum of their squared errors over n."""
    metrics: Annotated[dict[str, float], Field(default_factory=dict)]
    """The headline and the task's other metrics at batch 1; of a mean, each dataset's."""
    standard_errors: dict[str, float] = Field(default_factory=dict)
    """Of each of `metrics`: shares and means over rows by formula, others by one bootstrap. Left out for a single row or text,
    and in older reports."""
    value_at_batch_32: float
    """Of a language model, as many windows of the test texts as their logits allow, at most 32, are run again together; the
    others count as at batch 1."""
    rows: Annotated[int, Field(description="Rows that were scored; of a language model, texts.")]
    split_rows: Annotated[int | None, Field(exclude_if=lambda value: value is None)] = None
    """Rows of the split, if a random sample of them was scored because all would have taken longer than training; null: all."""
    rows_changed_by_batching: Annotated[int, Field(description="Rows whose answer depends on who shares the batch.")]
    runtime: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """The runtime that answered the rows, and on which device: onnxruntime 1.32.0 CPUExecutionProvider. null of a mean over
    datasets, and in older reports."""
    device: Annotated[Literal["cpu", "cuda"] | None, Field(exclude_if=lambda value: value is None)] = None
    """The kind of that device. null as above."""
    not_on_card: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """Why a worker with a GPU took the score on the CPU; null otherwise."""
    chance: float
    """The metric without reading: always the most frequent label, no entity, no answer; 0 for correlations; for perplexity the
    frequencies of all tokens."""

    @property
    def named(self) -> str:
        """Return the metric's name for charts; if a lower value is better, the name includes that."""
        return f"{self.metric}, lower is better" if self.lower_is_better else self.metric

    @property
    def counted(self) -> str:
        """Return as text how many rows were scored: 1,500, or of a sample 700 of 1,500."""
        return f"{self.rows:,}" + (f" of {self.split_rows:,}" if self.split_rows is not None else "")

    @property
    def taken(self) -> str:
        """Return as text what is unusual in how it was taken: of which sample, and on a GPU; else nothing."""
        sampled = [f"on {self.counted} rows"] if self.split_rows is not None else []
        return ", ".join([*sampled, *(["on the GPU"] if self.device == "cuda" else [])])

    @property
    def worth(self) -> float:
        """Return the score with more as better and additive differences. Of a perplexity: minus its logarithm, in nats."""
        return -math.log(self.value) if self.lower_is_better else self.value

    @property
    def worth_error(self) -> float:
        """Return the standard error of `worth`; for a logarithm it is the relative error (delta method)."""
        return self.standard_error / self.value if self.lower_is_better else self.standard_error

    @property
    def above_chance(self) -> float:
        """Return by how much `worth` exceeds the worth of the chance level."""
        return self.worth - (-math.log(self.chance) if self.lower_is_better else self.chance)

    def at_retention(self, share: float) -> float:
        """Return the value at which `share` of this score is kept."""
        return self.value / share if self.lower_is_better else self.value * share


class Ratios(Config):
    """A row compared with the baseline. `null` if the ratio has no meaning."""

    parameter_reduction: float
    size_reduction: float
    size_reduction_from_file: float | None = None
    """Against the uploaded weights; null in older reports."""
    size_reduction_from_16_bit: Annotated[float | None, Field(description="Against two bytes per parameter.")] = None
    size_reduction_from_float32: Annotated[float | None, Field(description="Against four.")] = None
    speed_up: float | None
    speed_up_interval: Annotated[Interval | None, Field(exclude_if=lambda value: value is None)] = None
    """That of `latency`."""
    latency_reduction: float | None
    retention: Annotated[float | None, Field(description="Of the score on test: reported, and nothing is chosen by it.")]
    retention_above_chance: Annotated[float | None, Field(description="On test, of what is above chance.")]
    retention_interval: Interval | None = None
    """95 % interval of `retention`: paired bootstrap over test rows, of a language model over texts; if all samples agree, with
    one more row that only one model gets right. null if rows cannot be paired, of equal perplexities, and in older reports."""
    retention_on_validation: float | None = None
    """Of the score on validation, by the same runner: what choices and verdicts use."""
    retention_on_validation_interval: Annotated[Interval | None, Field(description="As `retention_interval`.")] = None
    judged_on: Literal["validation", "test"] = "test"
    """The split that choices and verdicts use; test in older reports."""
    baseline_not_converged: bool = False
    """Whether the baseline's validation score was still rising when its preparation ended, or is no more than a standard error
    above chance."""

    @property
    def judged_retention(self) -> float | None:
        """Return the retention that choices and verdicts use."""
        return self.retention_on_validation if self.judged_on == "validation" else self.retention

    @property
    def judged_interval(self) -> Interval | None:
        """Return the interval of `judged_retention`."""
        return self.retention_on_validation_interval if self.judged_on == "validation" else self.retention_interval

    def is_unproven(self, wanted: float) -> bool:
        """Return whether what is kept neither reaches nor misses a target of retention for certain.

        The baseline has not converged, and the interval, if known, reaches the target: if even that is below it, the target is
        missed, because of a baseline that had learned more, less would be kept.
        """
        ends = self.judged_interval
        return self.baseline_not_converged and (ends is None or ends[1] >= wanted)


class Remedy(Config):
    """A change of the recipe that the figures suggest. It is worth a try; the result is not guaranteed."""

    key: Annotated[str, Field(description="Path in the recipe, for example recipe.distill.epochs.")]
    now: Annotated[JsonValue, Field(description="What the job ran with.")]
    proposed: JsonValue
    why: Annotated[str, Field(description="The figures that it is computed from.")]
    applied: Annotated[bool, Field(description="Whether the job did it itself already, as earlier versions could.")] = False


class StageVerdict(Config):
    """A row compared with the targets and with the best row before it."""

    met: Annotated[tuple[str, ...], Field(description="Names of the targets that its artifact meets.")]
    missed: Annotated[tuple[str, ...], Field(description="Names of those that it was measured to miss.")]
    unproven: tuple[str, ...] = ()
    """The others: not measured, or the baseline has not converged (`baseline_not_converged`). Empty in older reports, which
    count them as missed."""
    best_before: Annotated[Stage | None, Field(description="The row that would be shipped without this one.")]
    worse_than: Stage | None
    """An earlier row that scores better by more than this one's standard error, and is as small and fast."""
    behind: Stage | None = None
    """`best_before`, if it is nearer to the targets than this one by more than chance: usual for a cut until it is distilled.
    The row's notes say by which figures, and what is still to come."""
    behind_in: tuple[str, ...] = ()
    """Names of the targets that this row misses by more than that one."""
    remedies: Annotated[tuple[Remedy, ...], Field(description="For what no later stage of the recipe is there to mend.")] = ()


class Row(Config):
    """One stage's row: bytes, latency and score come from the same artifact.

    For a job with several datasets it is the mean of their rows, which are in `parts`, each measured on its own artifact.
    Sizes, times and scores are means, seconds and counts of test rows are sums, and the ratios are those of the means.
    """

    stage: Stage
    artifact: Annotated[str, Field(description="The measured artifact; of a mean, the first dataset's.")]
    shape: Shape
    parameters: Parameters
    size: Size
    latency: Latency | NotMeasured
    score: Score | NotMeasured
    validation: Score | NotMeasured | None = None
    """Score on validation by the same runner: what choices use."""
    preparation: Preparation | None = None
    """Of the baseline: how it was tuned. null in older reports."""
    flops: Annotated[int | NotMeasured, Field(description="Of one forward pass at the latency's shape (torch's counter).")]
    peak_memory_bytes: Annotated[int | NotMeasured, Field(description="Resident peak of the process that only serves it.")]
    ratios: Ratios
    seconds: Annotated[float, Field(description="What the stage took, as far as attempts saved it, and measuring.")]
    notes: tuple[str, ...] = ()
    verdict: Annotated[StageVerdict | None, Field(description="null in reports of before there were verdicts.")] = None
    gate: Annotated[GateVerdict | None, Field(exclude_if=lambda value: value is None)] = None
    """Of the job's quality gate on its artifact; null without one, and of the original, which it compares with."""
    ranges: Annotated[tuple[LayerRange, ...], Field(description="Of each simulated layer's input, in model order.")] = ()
    folding: Annotated[Folding | None, Field(exclude_if=lambda value: value is None)] = None
    """Of a network's ONNX file; null of other models, and of networks without batch normalizations."""
    lm_eval: Annotated[tuple[TaskFigure, ...], Field(description="Of evaluate.lm_eval's tasks, with simulated integers.")] = ()
    search: Annotated[SearchComparison | None, Field(exclude_if=lambda value: value is None)] = None
    """Of a cut whose widths a search other than the solver chose: how both did; of several datasets in their rows."""
    tables: Annotated[TablesUsed | None, Field(exclude_if=lambda value: value is None)] = None
    """Of a cut that a search chose: the error tables, and what of computing them was spared."""
    # Not within Annotated: mypy's plugin overlooks the factory there if a class refers to itself.
    parts: dict[str, "Row"] = Field(default_factory=dict, description="Of several datasets, each one's row by its name.")

    @property
    def is_unproven(self) -> bool:
        """Return whether its verdict leaves open what is kept of the score, because the baseline has not converged."""
        return self.ratios.baseline_not_converged and (self.verdict is None or "retention" in self.verdict.unproven)

    @property
    def convergence(self) -> Literal["not converged", "not tuned here", ""]:
        """Return what a reader must know of a baseline's preparation; of several datasets the worst state counts."""
        found = [row.preparation for row in (self.parts or {"": self}).values() if row.preparation is not None]
        if any(one.converged is False for one in found):
            return "not converged"
        return "not tuned here" if found and all(one.converged is None for one in found) else ""

    @property
    def judged_score(self) -> Score | NotMeasured:
        """Return the score that choices use: on validation; on test in rows from before that was scored."""
        return self.score if self.validation is None else self.validation
