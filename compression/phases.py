"""The rows that a recipe leads to, and the phases of the way there with their expected times."""

from compression.catalog import augment_seconds
from compression.progress import Journey, Phase
from compression.recipe import Recipe
from compression.report import Stage
from compression.stages import general
from compression.stages.further import PHASE, epochs_again
from compression.stages.prepare import phase_of
from compression.stages.teachers import ASK


def planned(recipe: Recipe) -> tuple[Stage, ...]:
    """List the rows that a recipe leads to."""
    wanted: dict[Stage, bool] = {
        "baseline": True,
        "quantized": recipe.quantize is not None,
        "pruned": recipe.prune is not None,
        "distilled": recipe.distill is not None,
    }
    return tuple(stage for stage, is_wanted in wanted.items() if is_wanted)


def journey(recipe: Recipe, rows: dict[str, int]) -> Journey:
    """List the phases of a job with their expected times: only how they compare to each other matters."""
    row, shipping = 0.006, 20 + 0.012 * rows["test"]
    train = rows["train"] * row
    seeds = max(recipe.distill.teachers.seeds, 1) if recipe.distill is not None else 1
    phases = [Phase("baseline", phase_of(number), recipe.prepare.epochs * train) for number in range(seeds)]
    phases.append(Phase("baseline", "export and measure", shipping))
    if recipe.quantize is not None:
        qat = recipe.quantize.qat.epochs if recipe.quantize.qat else 0
        phases.append(Phase("quantized", "quantization-aware training", qat * train))
        phases.append(Phase("quantized", "export and measure", shipping))
    if recipe.prune is not None:
        recovery = recipe.prune.recovery.epochs if recipe.prune.recovery else 0
        phases += [Phase("pruned", "cut", 2.0), Phase("pruned", "recover", recovery * train * 0.7)]
        phases.append(Phase("pruned", "export and measure", shipping))
    if recipe.distill is not None:
        if (plain := recipe.distill.general) is not None:
            texts = (rows.get("unlabelled") or rows["train"]) * row
            phases.append(Phase("distilled", general.ASK, texts / 3))
            phases.append(Phase("distilled", general.PHASE, plain.epochs * texts * 0.5))
        if (augment := recipe.distill.augment) is not None:
            phases.append(Phase("distilled", "augment", augment_seconds(augment, rows["train"])))
            train *= 1 + augment.copies
        phases.append(Phase("distilled", ASK, seeds * train / 3))
        phases.append(Phase("distilled", "distill", recipe.distill.epochs * train * 0.5))
        if recipe.remedy == "apply":
            phases.append(Phase("distilled", PHASE, epochs_again(recipe.distill) * train * 0.5))
        phases.append(Phase("distilled", "export and measure", shipping))
    return Journey([*phases, Phase(planned(recipe)[-1], "export the checkpoint", shipping / 2)])
