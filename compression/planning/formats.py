"""Which formats of artifacts a model can have, as far as its family, its task and the recipe tell. Torch-free.

What its widths, its files or the worker hinder is known to a format's exporter alone: the job says so when it ships.
"""

from dataclasses import dataclass

from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.schema.artifact_formats import ARTIFACT_FORMATS, further_formats
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Shape
from compression.schema.schemes import SCHEMES
from compression.schema.specs import FormatLack, FormatSpec
from compression.schema.tasks import TASKS
from compression.schema.validation import ModelFacts


@dataclass(frozen=True)
class PlannedModel:
    """What is known of the model that a job ships, before the job starts."""

    family: str | None  #: None: unknown
    task: str | None  #: None: unknown
    scheme: str | None  #: of its integers; None: it has none
    experts: bool = False  #: whether any of its layers has routed experts

    @classmethod
    def of(cls, family: str | None, shape: Shape | None, task: str | None, recipe: Recipe) -> "PlannedModel":
        """Return what is known of a recipe's result. shape: of its model; None: unknown."""
        experts = shape.experts if shape is not None else None
        routed = shape is not None and experts is not None and experts.dense_layers < shape.layers
        return cls(family, task, recipe.quantize.assumed if recipe.quantize is not None else None, routed)

    def meets(self, lack: FormatLack) -> bool:
        """Return whether a format's lack is of this model."""
        network = self.family in ARCHITECTURE_SPECS and ARCHITECTURE_SPECS[self.family].network
        return (
            (not lack.families or self.family in lack.families)
            and (network or not lack.networks)
            and (self.experts or not lack.experts)
            and (not lack.schemes or self.scheme in lack.schemes)
        )


def lacking(spec: FormatSpec, model: PlannedModel) -> str | None:
    """Return why a format does not have a planned model, as a clause; None if nothing that is known speaks against it."""
    if spec.generates not in (None, model.task in TASKS and TASKS[model.task].generates):
        kinds = "language models" if spec.generates else "models of other tasks than language models'"
        return f"it is a format of {kinds}, and the data is for {model.task}"
    if spec.families and model.family not in spec.families:
        return f"it has no models of the family {model.family}; it has {', '.join(sorted(spec.families))}"
    found = next((lack for lack in spec.lacks if model.meets(lack)), None)
    return found.why.format(family=model.family, scheme=model.scheme) if found is not None else None


def check_formats(recipe: Recipe, model: ModelFacts, task: str) -> None:
    """Refuse a format that a recipe names and that its result cannot have. model: what the result is made from.

    Raises InvalidSpec.
    """
    planned = PlannedModel.of(model.family, model.shape, task, recipe)
    for name in further_formats(recipe.artifacts) if recipe.artifacts is not None else ():
        if (why := lacking(ARTIFACT_FORMATS[name], planned)) is not None:
            has = ", ".join(name for name, spec in ARTIFACT_FORMATS.items() if lacking(spec, planned) is None)
            cause, remedy = (
                f"{name} cannot be shipped of this model: {why}",
                f"Leave {name} out. What this model can have: {has}.",
            )
            raise InvalidSpec(cause, param="recipe.artifacts", remedy=remedy)


def ranging_passes(recipe: Recipe, rows: int) -> float:
    """Return how often a job reads its `rows` rows of train to calibrate ranges for formats, where its scheme has none."""
    quantize = recipe.quantize
    scheme = SCHEMES[quantize.assumed] if quantize is not None else None
    if quantize is None or scheme is None or scheme.calibrated or not scheme.rounds_activations:
        return 0.0
    ranged = sum(spec.ranged for spec in further_formats(recipe.artifacts).values())
    return ranged * min(quantize.calibration_rows / max(rows, 1), 1.0)
