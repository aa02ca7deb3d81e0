"""The targets of the student, its teachers, and the weight of each loss term."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator
from pydantic.json_schema import SkipJsonSchema

from compression.schema.config import Config
from compression.schema.recipe.augment import Augment
from compression.schema.recipe.base import MOST_EPOCHS, Patience, Rate, Weight

LayerNumber = Annotated[int, Field(ge=1, le=1000)]
LayerMapping = Annotated[
    Literal["uniform", "last"] | Annotated[tuple[tuple[LayerNumber, LayerNumber], ...], Field(min_length=1)],
    Field(
        description="Which layer of the teacher each layer of the student follows, where they differ in number. uniform: "
        "evenly spread over the teacher's. last: the last so many. Or pairs (student, teacher) of layer numbers from 1."
    ),
]
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
    """Originals trained by the job, each as `prepare` says and with a seed of its own; the first is the baseline. 0: named
    teachers alone."""
    fusion: Literal["mean", "validation"] = "mean"
    """How several answers become one: probabilities softened at τ (numbers as they are), averaged. mean: equally. validation:
    weighted by each teacher's score on validation."""
    precision: Literal["auto", "float32", "int8"] = "auto"
    """What the weights of the one that is compared are held in while the student is trained, and those of the baseline in a
    recovery by teacher; what it is asked once, it answers in float32. auto: int8, one scale a row, where training beside it
    would not fit into the memory that is free."""


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
    """Weight in the loss of the teachers' answers: τ² times the divergence of the student's from them, both softened by τ. 0
    leaves it out."""
    hard: Annotated[Weight, Field(description="Weight of the task's own loss on the labels of train. 0 leaves it out.")] = 0.3
    hidden: Weight = 5.0
    """Weight of the hidden states' squared error, layer by layer through learned projections, relative to the teacher's mean
    square. 0 leaves it out."""
    attention: Weight = 0.0
    """Weight of what attention differs by, compared as `attention_by` says. 0 leaves it out."""
    embedding: Weight | None = None
    """Weight of the embedding layer's output, compared as hidden states are. null: it is one more layer of `hidden`. 0 leaves
    it out."""
    attention_by: Literal["auto", "scores", "relations"] = "auto"
    """scores: query-key products before the softmax, squared error, all layers (TinyBERT); both models must have as many heads.
    relations: those of the last layer, re-split (MiniLMv2), for any heads. auto: scores where the heads are as many, else
    relations. Decoders: relations."""
    layers: LayerMapping = "uniform"
    weighting: Literal["fixed", "linear", "uncertainty"] = "fixed"
    """fixed: the weights stay. linear: they go to those of `to`, step by step. uncertainty: each is divided by a variance that
    is learned (Kendall et al. 2018), beginning at 1."""
    to: Annotated[Weights | None, Field(description="The weights at the end of a linear schedule.")] = None
    patience: Patience = None
    teachers: Teachers = Teachers()
    general: Annotated[General | None, Field(description="A phase on unlabelled text before this one.")] = None
    gate: Annotated[SkipJsonSchema[JsonValue], Field(exclude_if=lambda value: value is None)] = None
    """Removed; only stored recipes may have it (`recipe.check_removed`)."""
    augment: Augment | None = None
    """More rows that the teacher labels; hard labels do not count on them."""
    kept: Annotated[int | None, Field(ge=1, le=4096)] = None
    """Of causal-lm: so many likeliest next tokens of the teacher are kept on the scratch disk, with the share of all others,
    and it is not asked again. null: its last states are kept, and its head answers of them."""
    spill_gib: Annotated[float, Field(ge=0, le=1024)] = 0.0
    """GiB of the worker's scratch disk that the teacher's hidden states may take where they exceed the memory for them. What
    exceeds this too is asked again in each epoch."""

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
            raise ValueError("to is where a linear weighting ends: give both or neither")
        if self.weighting == "uncertainty" and len(found) < 2:
            raise ValueError("uncertainty weighs terms against each other: it needs at least two weights above 0")
        if self.kept is not None and "soft" not in found:
            raise ValueError("kept is of the teacher's answers, whose weight is 0")
        if self.teachers.seeds > 1 and "soft" not in found:
            raise ValueError("teachers beyond the first speak through their answers alone: they need a weight of soft above 0")
        return self
