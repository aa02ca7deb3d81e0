"""How the original was fine-tuned before compression, and whether it converged. Torch-free."""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config


class EpochScore(Config):
    """The result of one epoch of a training on validation."""

    epoch: Annotated[int, Field(ge=0, description="0 is the model before the first step.")]
    score: Annotated[float, Field(description="The task's metric on validation.")]
    loss: Annotated[float | None, Field(description="The task's loss on validation.")] = None


class RateTried(Config):
    """A learning rate that a short probe trained with, from the same weights as the other probes."""

    rate: Annotated[float, Field(description="Peak rate of the body.")]
    head_rate: Annotated[float, Field(description="Peak rate of the head.")]
    whole_head: bool = False
    """Whether a new head's layer before the output layer was warmed up too."""
    steps: Annotated[int, Field(description="Optimizer steps of the probe.")]
    score: Annotated[float | None, Field(description="The task's metric on validation after it; null: the loss diverged.")]
    loss: float | None = None
    """The task's loss on validation after it, logits scaled to fit best. The usual rate is left for a loss that is lower by
    more than two standard errors of the difference."""
    chosen: Annotated[bool, Field(description="Whether training took this one's rates, lowered for its steps.")] = False


class Preparation(Config):
    """The training of the original, the teacher and the baseline of all stages; a field of the baseline's own row only."""

    converged: bool | None
    """Whether validation had stopped improving. null: the model was taken as it was sent."""
    reason: Annotated[str, Field(description="What `converged` was concluded from, one sentence.")]
    epochs: Annotated[int, Field(ge=0, description="Epochs that were trained.")] = 0
    best_epoch: Annotated[int, Field(ge=0, description="The epoch whose weights were kept; 0 is the model as it came.")] = 0
    rate: Annotated[float | None, Field(description="Peak rate of the body; null where nothing was trained.")] = None
    head_rate: Annotated[float | None, Field(description="Peak rate of the head; null where nothing was trained.")] = None
    validation_error: float | None = None
    """Standard error of the validation score before training (of a perplexity: of its logarithm). In open training a tenth of
    it counts as a gain; over a head that came with the model, all of it."""
    curve: tuple[EpochScore, ...] = ()
    rates: tuple[RateTried, ...] = ()
    """The probes that chose the rate; empty if the recipe gave it."""
    linear_probe: float | None = None
    """Validation score of a linear model on frozen features: a floor; null if there is none."""
