"""Recipes by name."""

from compression.recipe.augment import AUGMENTED_TASKS, Augment, Synonyms
from compression.recipe.distill import Distill, General, Teachers
from compression.recipe.prune import Prune, Recovery
from compression.recipe.quantize import Qat, Quantize
from compression.recipe.whole import Recipe

STANDARD = Recipe(
    prune=Prune(ratio=0.5, reconstruct=True, sensitivity=True),
    distill=Distill(epochs=6, augment=Augment(splices=1, synonyms=Synonyms(source="embeddings"))),
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
    "quick": (QUICK, "Minutes on a CPU."),
}
"""Name → (recipe, one line on when to choose it)."""


UNAUGMENTED_EPOCHS = {"standard": 16}
"""Passes over train's own rows, where no others can be made of them."""


def preset(name: str, task: str) -> Recipe:
    """Return a preset as it can be had for a task: without augmentation where answers point into the text. Raises KeyError."""
    recipe = PRESETS[name][0]
    if recipe.distill is None or recipe.distill.augment is None or task in AUGMENTED_TASKS:
        return recipe
    plain = {"augment": None, "epochs": UNAUGMENTED_EPOCHS.get(name, recipe.distill.epochs)}
    return recipe.model_copy(update={"distill": recipe.distill.model_copy(update=plain)})
