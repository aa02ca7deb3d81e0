"""A training's operations by the products that compute them, on a CPU and on a card. Torch-free."""

from compression.planning.rates import Product
from compression.planning.work import Work
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Recipe
from compression.schema.schemes import SCHEMES
from compression.schema.stages import BASELINE


def training_work(stage: str, recipe: Recipe, flops: float, *, asked: float, read: float, is_network: bool) -> Work:
    """Return the work of a training without its steps.

    flops: of forward and backward passes. asked: of teachers' outputs. read: of passes in float32 beside them, as validation.
    is_network: whether the model's products are convolutions.
    """
    answers = {"teacher_flops": asked, "float32_flops": read}
    if asks_in_float32(recipe):
        answers = {"float32_flops": asked + read}
    if stage != BASELINE and recipe.quantize is not None:
        found = Work(stage=stage, simulated_flops=flops, products=simulated_products(recipe, is_network=is_network))
    elif recipe.train.precision == "float32":
        found = Work(stage=stage, exact_flops=flops)
    else:
        found = Work(stage=stage, plain_flops=flops)
    return found.model_copy(update=answers)


def asks_in_float32(recipe: Recipe) -> bool:
    """Return whether teachers multiply in float32 on any device (`engine/stages/teacher_precision.asks_in_half`)."""
    return "float32" in ((recipe.distill or Distill()).teachers.precision, recipe.train.precision)


def simulated_products(recipe: Recipe, *, is_network: bool) -> tuple[Product, Product]:
    """Return what a card multiplies in the forward and the backward pass of a training with fake quantization.

    Linear layers multiply integers if the scheme rounds activations, and compute their gradients in bfloat16. Where weights
    alone are rounded both passes are float32 products, which a card may round to TF32. Convolutions multiply rounded numbers
    in full float32.
    """
    assert recipe.quantize is not None, "integers are simulated"  # noqa: S101
    exact = recipe.train.precision == "float32"
    if is_network:
        return "float32", "float32" if exact else "bfloat16"
    if SCHEMES[recipe.quantize.assumed].rounds_activations:
        return "int8", "float32" if exact else "bfloat16"
    return ("float32", "float32") if exact else ("tf32", "tf32")
