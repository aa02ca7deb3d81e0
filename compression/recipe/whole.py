"""The stages together, what they are held against, and how the result is measured."""

from typing import Annotated, Literal

from pydantic import Field

from compression.recipe.base import Config, Epochs, Patience, Precision, Rate
from compression.recipe.distill import Distill
from compression.recipe.prune import Prune
from compression.recipe.quantize import Quantize

MOST_ACCUMULATED = 1024
MOST_MINUTES = 1e6


class Prepare(Config):
    """Give a bare encoder a head and tune it on the train split: that model is the baseline and the teacher.

    A model that comes with a head for exactly the data's labels is tuned further ("teacher correction") for the same
    number of epochs; `epochs: 0` takes it as it is.
    """

    epochs: Epochs = 3
    rate: Rate = 5e-5
    patience: Patience = None


class Train(Config):
    """What all training in the job has in common, and how much of it there may be."""

    batch: Annotated[int, Field(ge=1, le=4096, description="Rows that go through the model together.")] = 32
    accumulate: Annotated[
        int,
        Field(ge=1, le=MOST_ACCUMULATED, description="Batches whose gradients are added up before each step of the optimizer."),
    ] = 1
    max_length: Annotated[
        int,
        Field(
            ge=8,
            le=8192,
            description="Longer texts are cut to this many tokens. Of causal-lm the tokens of a row, which texts share.",
        ),
    ] = 128
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    warmup: Annotated[
        float,
        Field(ge=0, le=1, description="Share of a training's steps over which the rate rises to its peak; then it falls to 0."),
    ] = 0.1
    decay: Annotated[
        float, Field(ge=0, le=1, description="AdamW's L2 on weight matrices; recovery adapts it from here if adapt_l2.")
    ] = 0.01
    precision: Annotated[
        Precision,
        Field(
            description="What training multiplies in beside the simulated integers, which stay exact in all three. "
            "auto: bfloat16 where the device has it, else float32. float32: nothing else. bfloat16: as auto, and refused "
            "where the device lacks it."
        ),
    ] = "auto"
    recompute: Annotated[
        bool,
        Field(
            description="Layers are computed again in the backward pass, and what they made is not kept till then: some third "
            "more time, and far less memory where rows are long (gradient checkpointing, Chen et al. 2016)."
        ),
    ] = False
    max_steps: Annotated[
        int | None,
        Field(
            ge=1,
            description="Optimizer steps of all training in the job; of several datasets each has an equal share. Training "
            "that reaches it ends and keeps its best epoch.",
        ),
    ] = None
    max_minutes: Annotated[
        float | None,
        Field(
            gt=0,
            le=MOST_MINUTES,
            description="Minutes of all training in the job, validation included, export and measuring not; of several "
            "datasets each has an equal share. Work that a dead attempt had not saved is not counted. Results then depend on "
            "the machine's speed.",
        ),
    ] = None


class Recipe(Config):
    """The stages in their fixed order."""

    version: Literal[1] = 1
    prepare: Prepare = Prepare()
    quantize: Quantize | None = Quantize()
    prune: Prune | None = Prune()
    distill: Distill | None = Distill()
    train: Train = Train()
    remedy: Annotated[
        Literal["report", "apply"],
        Field(
            description="apply: a distillation that misses the retention target on validation is trained once more, for half "
            "as many epochs again at half the rate; the better on validation is kept. report: it is only said what to try."
        ),
    ] = "report"


class Targets(Config):
    """What the result is held against; the defaults are what the published account of the method reports."""

    parameter_reduction: Annotated[float, Field(ge=0, lt=1)] = 0.305
    size_reduction: Annotated[float, Field(ge=0, lt=1)] = 0.729
    speed_up: Annotated[float, Field(gt=0, le=1000)] = 1.445
    retention: Annotated[float, Field(gt=0, le=1000)] = 0.992


class Evaluate(Config):
    """What the score is, and the shape at which latency is measured: baseline and candidate interleaved in one process."""

    metric: Annotated[
        Literal["auto", "accuracy", "f1", "matthews"],
        Field(
            description="The headline metric of classification, which epochs are chosen by too; auto is accuracy. The other "
            "tasks have one each: the mean of Pearson's and Spearman's correlation, F1 of entities, F1 of SQuAD, perplexity."
        ),
    ] = "auto"
    positive: Annotated[
        str | None,
        Field(description="The label whose F1 counts; null: the last of two, and of more the mean over all labels (macro)."),
    ] = None
    batch: Annotated[int, Field(ge=1, le=256)] = 1
    length: Annotated[int, Field(ge=8, le=8192, description="Tokens in each row.")] = 128
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    window: Annotated[
        int | None,
        Field(
            ge=8,
            le=131072,
            description="Of causal-lm: tokens that perplexity is taken over together; windows go on by half of it, so that a "
            "token sees at least half. null: train.max_length.",
        ),
    ] = None
    tokens: Annotated[
        int,
        Field(
            ge=256,
            le=10**9,
            description="Of causal-lm: at most about so many tokens of test are scored, whole texts drawn with train.seed.",
        ),
    ] = 65536
