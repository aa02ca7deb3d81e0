"""Which formats of artifacts a model can have, as far as its family and its task tell. Torch-free.

What its widths or its tokenizer hinder is known to a format's exporter alone: the job says so when it ships.
"""

from compression.schema.artifact_formats import ARTIFACT_FORMATS, further_formats
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.recipe import Recipe
from compression.schema.schemes import SCHEMES
from compression.schema.tasks import TASKS


def check_formats(asked: tuple[str, ...] | None, family: str, task: str) -> None:
    """Refuse a format that a model of a family cannot have, or not for a task. asked: the recipe's `artifacts`.

    Raises InvalidSpec.
    """
    for name in further_formats(asked) if asked is not None else ():
        spec = ARTIFACT_FORMATS[name]
        if spec.generates not in (None, TASKS[task].generates):
            kinds = "language models" if spec.generates else "models of other tasks than language models'"
            cause = f"{name} is a format of {kinds}, and the data is for {task}"
        elif spec.families and family not in spec.families:
            cause = f"{name} has no models of the family {family}; it has {', '.join(sorted(spec.families))}"
        else:
            continue
        raise InvalidSpec(cause, param="recipe.artifacts", remedy=f"Leave {name} out.")


def ranging_passes(recipe: Recipe, rows: int) -> float:
    """Return how often a job reads its `rows` rows of train to calibrate ranges for formats, where its scheme has none."""
    quantize = recipe.quantize
    scheme = SCHEMES[quantize.assumed] if quantize is not None else None
    if quantize is None or scheme is None or scheme.calibrated or not scheme.rounds_activations:
        return 0.0
    ranged = sum(spec.ranged for spec in further_formats(recipe.artifacts).values())
    return ranged * min(quantize.calibration_rows / max(rows, 1), 1.0)
