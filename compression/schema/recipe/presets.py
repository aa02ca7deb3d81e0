"""Recipes by name."""

from collections.abc import Mapping
from typing import Any

from compression.schema.recipe.augment import AUGMENTED_TASKS, Augment, BackTranslation, Synonyms
from compression.schema.recipe.auto import Auto
from compression.schema.recipe.distill import Distill, General, Teachers
from compression.schema.recipe.prune import AxisRatios, Prune, Recovery
from compression.schema.recipe.quantize import Qat, Quantize
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.schema.recipe.trainings import drop_ineffective
from compression.schema.recipe.views import Views
from compression.schema.tasks import IMAGE, TASKS, modality_spec

STANDARD = Recipe(
    prune=Prune(ratio=0.5, reconstruct=True, sensitivity=True),
    distill=Distill(epochs=6, general=General(rate=5e-4, attention=0.0, embedding=0.0)),
)
AUTO = Recipe(
    prune=Prune(ratio=0.4, search="solver"),
    # Of a mild cut the general phase gains nothing, and its time is another size's.
    distill=Distill(epochs=8, general=General(rate=5e-4, attention=0.0, embedding=0.0, patience=1)),
    auto=Auto(),
)
SMALLEST = Recipe(
    prune=Prune(ratio=AxisRatios(hidden=0.75, ffn=0.75), reconstruct=True, sensitivity=True),
    distill=Distill(epochs=12, general=General(rate=5e-4, attention=0.0, embedding=0.0)),
)
ARTICLE = Recipe(
    quantize=Quantize(qat=Qat()),
    prune=Prune(recovery=Recovery(patience=5), sensitivity=True),
    distill=Distill(
        epochs=10,
        rate=1e-4,
        hidden=1.0,
        attention=1.0,
        embedding=1.0,
        weighting="uncertainty",
        teachers=Teachers(seeds=3),
        general=General(rate=5e-4),
        augment=Augment(copies=2, synonyms=Synonyms(), back_translation=BackTranslation(apertium="eng-spa", optional=True)),
    ),
)
PUBLISHED = {"target_params": 0.305, "multiple": 8}
"""The published account's cut: its share of all parameters, met closely since widths go in small steps."""


def cut_as_published(recipe: Recipe) -> Recipe:
    """Return a recipe that takes the published share of all parameters, in place of a share of the units on each axis."""
    assert recipe.prune is not None, "it cuts"  # noqa: S101
    return recipe.model_copy(update={"prune": recipe.prune.model_copy(update=PUBLISHED)})


QUICK = Recipe(prepare=Prepare(rate=1e-4, patience=2), distill=Distill(epochs=6))
LANGUAGE = Recipe(
    prepare=Prepare(rate=2e-5, patience=2),
    # Rows of 512 tokens: as many show of ranges what 512 rows of a classifier do, and each pass over them costs time.
    quantize=Quantize(smoothing="search", calibration_rows=64),
    prune=Prune(ratio=AxisRatios(ffn=0.55), reconstruct=True),
    distill=Distill(epochs=3, rate=1e-4, temperature=1.0, hard=0.0, hidden=0.0),
    train=Train(batch=8, max_length=512),
)
PRESETS: dict[str, tuple[Recipe, str]] = {
    "standard": (STANDARD, "The default: our best for a small encoder."),
    "auto": (AUTO, "The smallest model that keeps the retention target, within budget_minutes: tries sizes, then trains one."),
    "article": (ARTICLE, "The published method; its corrections, and what is left out, are listed in docs/method.md."),
    "published": (cut_as_published(ARTICLE), "As article, but 30.5 % of all parameters go, as was published."),
    "smallest": (SMALLEST, "As standard, but three quarters of each width go: faster, for more of the score."),
    "quick": (QUICK, "Minutes on a CPU."),
    "language": (LANGUAGE, "For causal-lm: 55 % of the feed-forward units go, least squares, then the teacher's next tokens."),
}
"""Name → (recipe, one line on when to choose it)."""
_VIEWS = Views(crop=4, flip=True)
_MIXED = Views(crop=4, flip=True, mixup=1.0)
_MAPS = Distill(epochs=24, rate=1e-3, temperature=4.0, hard=0.0, hidden=200.0)
"""Follow the teacher on images that it has not learned by heart: mixed ones; its maps tell far more than its answers."""
OF_IMAGES = {
    "standard": Recipe(
        quantize=Quantize(scheme="static-int8"),
        prune=Prune(ratio=0.3, importance="l1_weight", sensitivity=True),
        distill=_MAPS,
        train=Train(batch=64, views=_MIXED),
    ),
    "auto": Recipe(
        quantize=Quantize(scheme="static-int8"),
        prune=Prune(ratio=0.3, search="solver"),
        distill=_MAPS,
        train=Train(batch=64, views=_MIXED),
        auto=Auto(),
    ),
    "article": Recipe(
        quantize=Quantize(scheme="static-int8", qat=Qat()),
        prune=Prune(ratio=0.3, importance="l1_weight", recovery=Recovery(patience=5), sensitivity=True),
        distill=Distill(epochs=10, rate=1e-4, hidden=1.0, attention=1.0, weighting="uncertainty", teachers=Teachers(seeds=3)),
        train=Train(views=_VIEWS),
    ),
    "smallest": Recipe(
        quantize=Quantize(scheme="static-int8"),
        prune=Prune(ratio=0.6, importance="l1_weight", sensitivity=True),
        distill=_MAPS.model_copy(update={"epochs": 36}),
        train=Train(batch=64, views=_MIXED),
    ),
    "quick": Recipe(
        prepare=Prepare(rate=5e-4, patience=2),
        quantize=Quantize(scheme="static-int8"),
        prune=Prune(ratio=0.3, importance="l1_weight"),
        distill=_MAPS.model_copy(update={"epochs": 4}),
        train=Train(batch=64, views=_MIXED),
    ),
}
OF_IMAGES["published"] = cut_as_published(OF_IMAGES["article"])
OF_MODALITIES: dict[str, dict[str, Recipe]] = {IMAGE.name: OF_IMAGES}
"""Modality → its own recipes by the names of presets; the others are as for texts."""


def usual(task: str | None) -> Recipe:
    """Return the recipe whose stages suit a task that leaves them out: its modality's standard, or the defaults."""
    own = OF_MODALITIES.get(modality_spec(task).name, {}) if task in TASKS else {}
    return own.get("standard", Recipe())


def preset(name: str, task: str) -> Recipe:
    """Return a preset adapted to a task: its modality's own, or for example without augmentation if labels point into the text.

    Raises KeyError.
    """
    recipe = PRESETS[name][0]
    if task in TASKS and name in (own := OF_MODALITIES.get(modality_spec(task).name, {})):
        return own[name]
    if recipe.distill is None or task in AUGMENTED_TASKS:
        return recipe
    return recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"augment": None})})


def merged(recipe: Recipe, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe as JSON with only the given keys changed, at any depth, without validation.

    This is a JSON merge patch (RFC 7396), but null is a value: a null stage is skipped. Axes follow again from a ratio that
    names axes, unless the changes name them. Settings of a training that the changes leave without epochs go, unless they name
    them too.
    """
    before = recipe.model_dump(mode="json", exclude_unset=True)
    cut = changes.get("prune")
    if isinstance(cut, Mapping) and isinstance(cut.get("ratio"), Mapping):
        before.get("prune", {}).pop("axes", None)
    return drop_ineffective(_merged(before, changes), changes)


def _merged(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    after = dict(before)
    for key, value in changes.items():
        old = before.get(key)
        # No deeper than the recipe itself, whatever is sent.
        after[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return after
