"""What a training on several devices cannot do, since its weights are in shards and its processes step together. Torch-free."""

from collections.abc import Iterator

from compression.planning.distillation_rules import check_whole_teachers
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.recipe import Recipe
from compression.schema.stages import BASELINE, PRUNED, QUANTIZED, wanted


def check_sharded(recipe: Recipe) -> None:
    """Check that all of a recipe can be done on as many devices as it names. Raises InvalidSpec, which names the key."""
    if (devices := recipe.train.devices) == 1:
        return
    if not _may_train(recipe):
        cause = f"train.devices is {devices}, and no stage trains: one device does all of the job"
        remedy = "Set train.devices to 1, or give prepare epochs, quantize QAT, prune recovery, or distill."
        raise InvalidSpec(cause, param="recipe.train.devices", remedy=remedy)
    for refused, key, cause, remedy in _refused(recipe):
        if refused:
            remedy = f"Set {key} to {remedy}, or train.devices to 1."
            raise InvalidSpec(f"train.devices is {devices}: {cause}", param=f"recipe.{key}", remedy=remedy)
    check_whole_teachers(recipe)


def _may_train(recipe: Recipe) -> bool:
    """Return whether any stage trains. Of stages that distil or are a package's it is taken for granted."""
    quantize, prune = recipe.quantize, recipe.prune
    trained = not {*wanted(dict(recipe))} <= {BASELINE, QUANTIZED, PRUNED}
    tuned = quantize is not None and quantize.qat is not None and quantize.qat.epochs > 0
    recovered = prune is not None and prune.recovery is not None and prune.recovery.epochs > 0
    return trained or tuned or recovered or recipe.prepare.trains


def _refused(recipe: Recipe) -> Iterator[tuple[bool, str, str, str]]:
    """Yield whether a setting is refused, its key, why, and what to choose."""
    train = recipe.train
    rounding = "moments in 8 bits have scales of whole blocks, which shards of weights would cut"
    yield train.optimizer == "adamw-8bit", "train.optimizer", rounding, "adamw"
    alone = "a process whose compiler fails would step otherwise than the others, which wait for it"
    yield train.compile == "on", "train.compile", alone, "auto or off"
