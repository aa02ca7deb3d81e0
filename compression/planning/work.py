"""A job's work by stage, and the time that a machine takes for it. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, Any

from pydantic import Field

from compression.planning.rates import Product, Rates
from compression.planning.scoring_time import most_seconds
from compression.schema.config import Config
from compression.schema.recipe.recipe import Recipe

EXPORT = "export"
"""What follows the last stage: the headline's further formats."""


class Work(Config):
    """Work of one stage, whatever machine does it. A stage has several; the scoring of each artifact is one."""

    stage: Annotated[str, Field(description="Or `export`: what follows the last stage.")]
    plain_flops: Annotated[float, Field(description="Of training in full precision, in bfloat16 if there is.")] = 0.0
    exact_flops: Annotated[float, Field(description="Of training with precision float32.")] = 0.0
    float32_flops: Annotated[float, Field(description="Of validation, and of teachers' outputs in float32.")] = 0.0
    teacher_flops: Annotated[float, Field(description="Of teachers' outputs that a card computes in bfloat16.")] = 0.0
    simulated_flops: Annotated[float, Field(description="Of training with fake quantization.")] = 0.0
    products: Annotated[tuple[Product, Product], Field(description="Of its forward and backward pass on a card.")] = (
        "int8",
        "bfloat16",
    )
    steps: Annotated[float, Field(description="Optimizer steps.")] = 0.0
    step_bytes: Annotated[float, Field(description="Of weights, gradients and moments that these read and write.")] = 0.0
    encoder_flops: Annotated[float, Field(description="Of an encoder's or a network's answers to scored rows.")] = 0.0
    decoder_flops: Annotated[float, Field(description="Of a decoder's.")] = 0.0
    scored_rows: Annotated[float, Field(description="Scored rows, which take a least time each however small the model.")] = 0.0
    format: Annotated[str, Field(description="Of the artifact that is scored, if a GPU may have all of its operators.")] = ""
    seconds: Annotated[float, Field(description="Of everything else, on two cores.")] = 0.0
    devices: Annotated[int, Field(description="That train together: teachers' outputs and validation are of one.")] = 1
    epochs: Annotated[float, Field(description="Expected of a fine-tuning that may end earlier or later.")] = 0.0
    fitted: Annotated[bool, Field(description="Whether it is fitted into the minutes that auto.budget_minutes leaves.")] = False
    least: Annotated[float, Field(description="Of a fitted one: the share that is done however little is left.")] = 0.0
    part: Annotated[int, Field(description="Number of the dataset, if there are several.")] = 0

    def training_seconds(self, rates: Rates) -> float:
        """Return the seconds that training takes."""
        shared = self.plain_flops / rates.bfloat16 + self.exact_flops / rates.float32
        shared += self.simulated_flops / rates.of_simulated(*self.products) + self.step_bytes / rates.bytes
        gain = 1 + rates.further * (self.devices - 1)
        alone = self.float32_flops / rates.float32 + self.teacher_flops / rates.teachers
        return shared / gain + alone + self.steps * rates.step_seconds

    def scoring_seconds(self, rates: Rates) -> float:
        """Return the seconds of scoring all rows of an artifact, on the machine's GPU if that has its format."""
        if self.format in rates.on_card:
            return max((self.encoder_flops + self.decoder_flops) / rates.float32, self.scored_rows / rates.card_rows)
        answers = self.encoder_flops / rates.encoder + self.decoder_flops / rates.decoder
        return max(answers, self.scored_rows / rates.rows)

    def limited(self, share: float) -> "Work":
        """Return the work with a share of its training, which a limit of steps or its own end leaves. It may be above 1."""
        flops = ("plain_flops", "exact_flops", "float32_flops", "teacher_flops", "simulated_flops")
        names = (*flops, "steps", "step_bytes", "epochs")
        return self.model_copy(update={name: share * getattr(self, name) for name in names})


@dataclass(frozen=True)
class StageSeconds:
    """The time of a job by stage, in the order of its work."""

    stages: dict[str, float]
    training: float  #: of all of it

    @property
    def total(self) -> float:
        """Return the seconds of all stages."""
        return sum(self.stages.values())


@dataclass(frozen=True)
class TimeLimits:
    """A recipe's limits in minutes, of which each dataset has an equal share; None is none."""

    training: float | None = None  #: of all training (train.max_minutes)
    budget: float | None = None  #: of the whole job, into which some trainings are fitted (auto.budget_minutes)

    @classmethod
    def of(cls, recipe: Mapping[str, Any]) -> "TimeLimits":
        """Return the limits of a recipe as it is stored."""
        return cls((recipe.get("train") or {}).get("max_minutes"), (recipe.get("auto") or {}).get("budget_minutes"))

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> "TimeLimits":
        """Return the limits of a recipe."""
        return cls(recipe.train.max_minutes, recipe.auto.budget_minutes if recipe.auto is not None else None)

    def seconds(self, parts: int) -> tuple[float, float]:
        """Return both of one of several datasets, in seconds; infinity is none."""
        training, budget = (inf if each is None else 60 * each / max(parts, 1) for each in (self.training, self.budget))
        return training, budget


NO_LIMITS = TimeLimits()


def time_work(
    work: Sequence[Work], rates: Rates, *, limits: TimeLimits = NO_LIMITS, factors: Mapping[str, float] | None = None
) -> StageSeconds:
    """Return how long a machine takes for a job's work.

    limits: the recipe's. factors: by stage, what finished jobs took of their forecasts.
    """
    parts = {one.part: [each for each in work if each.part == one.part] for one in work}
    each = [_time_part(part, rates, limits.seconds(len(parts)), factors or {}) for part in parts.values()]
    stages = dict.fromkeys((one.stage for one in work), 0.0)
    for found in each:
        for stage, seconds in found.stages.items():
            stages[stage] += seconds
    return StageSeconds(stages, sum(one.training for one in each))


def _time_part(work: Sequence[Work], rates: Rates, limits: tuple[float, float], factors: Mapping[str, float]) -> StageSeconds:
    """Return the time of one dataset's work. limits: seconds of all its training, and of the whole."""
    most, budget = limits
    factor = {one.stage: factors.get(one.stage, 1.0) for one in work}
    trained = [factor[one.stage] * one.training_seconds(rates) for one in work]
    training = sum(trained)
    share = min(1.0, most / training) if training else 1.0
    trained = [share * seconds for seconds in trained]
    longest = most_seconds(sum(trained))  # after which an artifact has been scored on a sample
    others = [factor[one.stage] * (min(one.scoring_seconds(rates), longest) + one.seconds) for one in work]
    fitted = sum(seconds for one, seconds in zip(work, trained, strict=True) if one.fitted)
    least = sum(one.least * seconds for one, seconds in zip(work, trained, strict=True) if one.fitted)
    left = max(budget - sum(trained) - sum(others) + fitted, least)
    if fitted > left:
        more = (left - least) / (fitted - least)  # of what is done only if there is time
        trained = [
            seconds * (one.least + more * (1 - one.least)) if one.fitted else seconds
            for one, seconds in zip(work, trained, strict=True)
        ]
    stages = dict.fromkeys((one.stage for one in work), 0.0)
    for one, seconds, other in zip(work, trained, others, strict=True):
        stages[one.stage] += seconds + other
    return StageSeconds(stages, sum(trained))
