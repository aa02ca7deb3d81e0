"""Recipes by name."""

from compression.recipe.augment import AUGMENTED_TASKS, Augment, Synonyms
from compression.recipe.distill import Distill, General, Teachers
from compression.recipe.prune import AxisRatios, Prune, Recovery
from compression.recipe.quantize import Qat, Quantize
from compression.recipe.whole import Recipe

STANDARD = Recipe(
    prune=Prune(ratio=0.5, reconstruct=True, sensitivity=True),
    distill=Distill(epochs=12, general=General(rate=5e-4, attention=0.0, embedding=0.0)),
)
SMALLEST = STANDARD.model_copy(
    update={"prune": Prune(ratio=AxisRatios(hidden=0.5, ffn=0.5, layers=0.5), reconstruct=True, sensitivity=True)}
)
ARTICLE = Recipe(
    quantize=Quantize(qat=Qat()),
    prune=Prune(recovery=Recovery(patience=5), sensitivity=True),
    distill=Distill(
        epochs=10,
        rate=5e-5,
        hidden=1.0,
        attention=1.0,
        embedding=1.0,
        weighting="uncertainty",
        teachers=Teachers(seeds=3),
        general=General(),
        augment=Augment(synonyms=Synonyms(source="embeddings")),
    ),
)
QUICK = Recipe(distill=Distill(epochs=8))
PRESETS: dict[str, tuple[Recipe, str]] = {
    "standard": (STANDARD, "The default: our best for a small encoder."),
    "article": (ARTICLE, "The published method to the letter, its corrections listed in docs/method.md."),
    "smallest": (SMALLEST, "As standard, and half of the layers: faster, for more of the score."),
    "quick": (QUICK, "Minutes on a CPU."),
}
"""Name → (recipe, one line on when to choose it)."""


def preset(name: str, task: str) -> Recipe:
    """Return a preset as it can be had for a task: without augmentation where answers point into the text. Raises KeyError."""
    recipe = PRESETS[name][0]
    if recipe.distill is None or recipe.distill.augment is None or task in AUGMENTED_TASKS:
        return recipe
    return recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"augment": None})})
