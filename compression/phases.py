"""The rows that a recipe leads to, and the phases of the way there with their expected times."""

from compression.catalog import PROBES, augment_seconds
from compression.progress import Journey, Phase
from compression.recipe import Recipe
from compression.report import Stage
from compression.stages.further import PHASE, epochs_again
from compression.stages.recover import phases as recovery_phases


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
    phases = [Phase("baseline", "tune", recipe.prepare.epochs * train), Phase("baseline", "export and measure", shipping)]
    if recipe.quantize is not None:
        qat = recipe.quantize.qat.epochs if recipe.quantize.qat else 0
        phases.append(Phase("quantized", "quantization-aware training", qat * train))
        phases.append(Phase("quantized", "export and measure", shipping))
    if recipe.prune is not None:
        looking = PROBES * shipping / 2 if recipe.prune.target_latency is not None else 0.0
        phases.append(Phase("pruned", "cut", 2.0 + looking))
        phases += [Phase("pruned", name, epochs * train * 0.7) for name, epochs in recovery_phases(recipe.prune)]
        phases.append(Phase("pruned", "export and measure", shipping))
    if recipe.distill is not None:
        if (augment := recipe.distill.augment) is not None:
            phases.append(Phase("distilled", "augment", augment_seconds(augment, rows["train"])))
            train *= 1 + augment.copies
        phases.append(Phase("distilled", "ask the teacher", train / 3))
        phases.append(Phase("distilled", "distill", recipe.distill.epochs * train * 0.5))
        if recipe.remedy == "apply":
            phases.append(Phase("distilled", PHASE, epochs_again(recipe.distill) * train * 0.5))
        phases.append(Phase("distilled", "export and measure", shipping))
    return Journey([*phases, Phase(planned(recipe)[-1], "export the checkpoint", shipping / 2)])
