"""The targets of the student, its teachers, and the weight of each loss term."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator
from pydantic.json_schema import SkipJsonSchema

from compression.schema.config import Config
from compression.schema.recipe.augment import Augment
from compression.schema.recipe.base import MOST_EPOCHS, Patience, Rate, Weight

LayerNumber = Annotated[int, Field(ge=1, le=1000)]
LayerPairs = Annotated[tuple[tuple[LayerNumber, LayerNumber], ...], Field(min_length=1)]
TERMS = ("soft", "hard", "hidden", "attention", "embedding")
"""The terms of the loss, in the order in which they are added."""
INSIDES = TERMS[2:]
"""The terms that compare internal features of the models."""


class General(Config):
    """A phase before the task's: the teacher's features on unlabelled text, no labels.

    As in TinyBERT (Jiao et al. 2020). Its texts are the dataset's split `unlabelled`; train's if there is none.
    """

    epochs: Annotated[int, Field(ge=1, le=200, description="Passes over the unlabelled texts.")] = 3
    rate: Rate = 1e-4
    teacher: Literal["prepared", "base"] = "prepared"
    """prepared: the baseline, tuned on the task. base: the model as it was sent."""
    hidden: Annotated[Weight, Field(description="Of the layers' hidden states, as in the task phase.")] = 1.0
    attention: Annotated[Weight, Field(description="Of attention, compared as `attention_by` says.")] = 1.0
    embedding: Annotated[Weight, Field(description="Of the embedding layer's output, as in the task phase.")] = 1.0
    patience: Patience = None

    @model_validator(mode="after")
    def _some_term_is_left(self) -> "General":
        if not (self.hidden or self.attention or self.embedding):
            raise ValueError("all three weights are 0: nothing to learn from")
        return self


class Teachers(Config):
    """The teachers: originals that the job trains, and the models that it names as `models.teachers`.

    Their outputs are fused into one target. The hidden states, attention and embeddings are those of one teacher: the best on
    validation that has the student's tokens.
    """

    seeds: Annotated[int, Field(ge=0, le=10)] = 1
    """Originals that the job trains as `prepare` says, each with its own seed; the first is the baseline. 0: none."""
    fusion: Literal["mean", "validation"] = "mean"
    """How outputs are averaged: probabilities softened at τ, numbers unchanged. mean: equally. validation: weighted by each
    teacher's score on validation."""
    precision: Literal["auto", "float32", "int8"] = "auto"
    """Type of the guiding teacher's weights during training, and of the baseline's in a recovery by teacher. auto: int8 with
    one scale per row if training would not fit into the free memory beside it. Outputs that are computed once come from float32
    weights; on a GPU that has bfloat16 they are multiplied in it, unless this or train.precision is float32."""


class Weights(Config):
    """The weights at the end of a linear schedule; null: as at the beginning."""

    soft: Annotated[Weight | None, Field(description="Of the soft targets at the end.")] = None
    hard: Annotated[Weight | None, Field(description="Of the labels at the end.")] = None
    hidden: Annotated[Weight | None, Field(description="Of hidden states at the end.")] = None
    attention: Annotated[Weight | None, Field(description="Of attention at the end.")] = None
    embedding: Annotated[Weight | None, Field(description="Of the embedding layer's output at the end.")] = None


class Distill(Config):
    """Train the pruned, fake-quantized student with its teachers. Sources: Hinton et al. 2015; TinyBERT, Jiao et al. 2020."""

    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS, description="Passes over the train split.")] = 8
    rate: Rate = 2e-4
    temperature: Annotated[float, Field(gt=0, le=100, description="τ of the soft targets.")] = 3.0
    soft: Weight = 1.0
    """Weight of τ² × the divergence from the teachers' outputs, both softened by τ. 0 leaves it out."""
    hard: Annotated[Weight, Field(description="Weight of the task's own loss on the labels of train. 0 leaves it out.")] = 0.3
    hidden: Weight = 5.0
    """Weight of the hidden states' squared error by layer, learned projections between, over the teacher's mean square."""
    attention: Weight = 0.0
    """Weight of the difference in attention, compared as `attention_by` says. 0 leaves it out."""
    embedding: Weight | None = None
    """Weight of the embedding layer's output, compared like hidden states. null: one more layer of `hidden`."""
    attention_by: Literal["auto", "scores", "relations"] = "auto"
    """scores: squared error of query-key products before the softmax in all layers (TinyBERT), for equal numbers of heads.
    relations: those of the last layer, split again (MiniLMv2), for any heads. auto: scores if the heads are equal, else
    relations. Decoders: relations."""
    layers: Literal["uniform", "last"] | LayerPairs = "uniform"
    """Which layer of the teacher each layer of the student learns from, if their numbers differ. uniform: evenly spread over
    the teacher's. last: its last ones. Or pairs (student, teacher) of layer numbers from 1."""
    weighting: Literal["fixed", "linear", "uncertainty"] = "fixed"
    """fixed: constant weights. linear: from step to step towards `to`. uncertainty: divided by learned variances that begin at
    1 (Kendall et al. 2018)."""
    to: Annotated[Weights | None, Field(description="The weights at the end of a linear schedule.")] = None
    patience: Patience = None
    teachers: Teachers = Teachers()
    general: Annotated[General | None, Field(description="A phase on unlabelled text before this one.")] = None
    gate: Annotated[SkipJsonSchema[JsonValue], Field(exclude_if=lambda value: value is None)] = None
    """Removed; only stored recipes may have it (`recipe.check_removed`)."""
    augment: Augment | None = None
    """More rows for train, which have the teacher's outputs and no hard labels."""
    kept: Annotated[int | None, Field(ge=1, le=4096)] = None
    """For causal-lm: the number of the teacher's likeliest next tokens that are saved on the scratch disk, with the probability
    of all others. null: its last hidden states are saved, and its head runs on them."""
    spill_gib: Literal["auto"] | Annotated[float, Field(ge=0, le=1024)] = "auto"
    """GiB of scratch disk for the teacher's hidden states beyond memory; states beyond this are computed in each epoch. auto:
    as many as the worker has to spare."""

    def answers_alone(self) -> "Distill":
        """Return the same settings without the terms that compare internal features."""
        to = self.to.model_copy(update=dict.fromkeys(INSIDES)) if self.to is not None else None
        return self.model_copy(update={**dict.fromkeys(INSIDES, 0.0), "to": to})

    def weights(self) -> dict[str, tuple[float, float]]:
        """Return each term's weight at the beginning and at the end, without terms that are always 0."""
        found = {}
        for term in TERMS:
            start = getattr(self, term) or 0.0
            end = getattr(self.to, term) if self.to is not None else None
            if start or end:
                found[term] = (start, start if end is None else end)
        return found

    @model_validator(mode="after")
    def _some_term_is_left(self) -> "Distill":
        found = self.weights()
        if not any(start for start, _ in found.values()):
            raise ValueError("all weights are 0: nothing to learn from")
        if (self.weighting == "linear") != (self.to is not None):
            raise ValueError("weighting linear needs to, the weights at its end, and only linear has it")
        if self.weighting == "uncertainty" and len(found) < 2:
            raise ValueError("weighting uncertainty needs at least two weights above 0")
        if self.kept is not None and "soft" not in found:
            raise ValueError("kept needs a weight of soft above 0")
        if self.teachers.seeds > 1 and "soft" not in found:
            raise ValueError("several teachers need a weight of soft above 0: only their outputs are used")
        return self
