"""Which jobs can run from file to file, and how much memory they need. Torch-free."""

from typing import get_args

from compression.planning.estimator import ARTIFACT_EXTRAS, INT8_OVERHEAD, LARGEST_GRAPH, Estimate
from compression.planning.memory import HELD_BYTES, KEPT_FREED, PROCESS_BYTES, UNTRAINED_BYTES
from compression.planning.work import Work
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Shape
from compression.schema.schemes import StreamedScheme
from compression.schema.stages import BASELINE, PRUNED, QUANTIZED, wanted
from compression.schema.validation import ModelFacts

STREAMED_BYTES = PROCESS_BYTES + (1 << 30)
"""Resident peak of a job that quantizes from file to file, independent of its model: a process, a block and its results."""

LARGEST_WHOLE = 64 << 30
"""Bytes; a model that needs more memory goes from file to file on any worker, so that its disk is known beforehand."""
STREAMED_ELEMENTS = 2e7
"""Elements per second that are quantized and compared with their source, on one core."""
FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
"""The dtypes of safetensors; blocks of a GGUF file are unpacked first."""


def untrained(recipe: Recipe) -> bool:
    """Return whether a recipe can run from file to file: no training, integers of the weights alone, one cut by activations."""
    quantize, prune = recipe.quantize, recipe.prune
    if not {*wanted(dict(recipe))} <= {BASELINE, QUANTIZED, PRUNED}:  # a package's stage needs the model in memory
        return False
    if recipe.prepare.trains or recipe.distill is not None or quantize is None or quantize.qat is not None:
        return False
    if prune is not None and (prune.recovery is not None or prune.importance not in ("l1", "l2") or "vocabulary" in prune.axes):
        return False
    if prune is not None and (prune.target_latency is not None or prune.reconstruct or prune.sensitivity or prune.search):
        return False
    if prune is not None and prune.multiple == "auto":  # what decides it opens the model
        return False
    return quantize.scheme in get_args(StreamedScheme) and quantize.smoothing in (None, "search")


def without_solving(recipe: Recipe) -> Recipe | None:
    """Return the recipe without least squares after its cut, if only they prevent file-to-file runs."""
    if recipe.prune is None or not recipe.prune.reconstruct:
        return None
    plain = recipe.model_copy(update={"prune": recipe.prune.model_copy(update={"reconstruct": False})})
    return plain if untrained(plain) else None


def whole_bytes(parameters: int) -> int:
    """Return the minimum bytes of a job without training, its model in memory, as `estimate` does."""
    return round(KEPT_FREED * (PROCESS_BYTES + UNTRAINED_BYTES * parameters))


def fits_a_graph(parameters: int) -> bool:
    """Return whether the float32 baseline fits into an ONNX file in one piece, as traced models do."""
    return HELD_BYTES * parameters < LARGEST_GRAPH


def states_bytes(shape: Shape, recipe: Recipe) -> int:
    """Return the bytes of the calibration rows' hidden states in 16 bits, kept while a model is scored layer by layer."""
    return 2 * recipe.prune.calibration_rows * recipe.train.max_length * shape.hidden if recipe.prune is not None else 0


def layered_bytes(shape: Shape, parameters: int, recipe: Recipe) -> int:
    """Return the bytes of pruning layer by layer: two layers or a table in float32, and hidden states up to a layer."""
    table = shape.vocabulary * shape.hidden
    layer = max(parameters - table, 0) // shape.layers
    return HELD_BYTES * max(2 * layer, table) + min(states_bytes(shape, recipe), HELD_BYTES * layer)


def may_be_whole(parameters: int) -> bool:
    """Return whether a job without training has its model in memory on a worker that has enough."""
    return whole_bytes(parameters) <= LARGEST_WHOLE


def from_file_to_file(whole: Estimate, model: ModelFacts, parameters: int, recipe: Recipe) -> Estimate:
    """Estimate a decoder's job without training. whole: its cost with the model in memory, if that fits."""
    needed = STREAMED_BYTES + (layered_bytes(model.shape, parameters, recipe) if recipe.prune is not None else 0)
    memory = min(whole.memory_bytes, needed)
    if may_be_whole(parameters):  # a worker with enough memory for that has the model on its card
        return whole.model_copy(
            update={"memory_bytes": memory, "host_bytes_with_card": min(whole.host_bytes_with_card, needed)}
        )
    # The checkpoint as it was sent, unpacked if it was a GGUF file, and its integers, in ONNX too; and the same of the pruned
    # model.
    integers = 2 * round(INT8_OVERHEAD * parameters)
    one = model.bytes + HELD_BYTES * parameters * (model.dtype not in FLOATS) + integers
    disk = one * (1 + (recipe.prune is not None)) + states_bytes(model.shape, recipe)
    if recipe.prune is not None and model.dtype not in ("bfloat16", "float16"):
        disk += 2 * parameters  # the pruned model is there in 16 bits, and in full precision too until it is quantized
    seconds = 2 * parameters / STREAMED_ELEMENTS  # in ONNX too
    stages = [QUANTIZED, *[PRUNED] * (recipe.prune is not None)]
    work = tuple(Work(stage=stage, seconds=seconds) for stage in stages)
    sizes = {"memory_bytes": memory, "card_bytes": 0, "host_bytes_with_card": memory}
    minutes = round(len(stages) * seconds / 60, 1)
    return Estimate(**sizes, disk_bytes=disk + 4 * ARTIFACT_EXTRAS, minutes=minutes, work=work)


def warning(parameters: int) -> str:
    """Return a sentence on what running from file to file means for a job."""
    when = "Being so large"
    if may_be_whole(parameters):
        when = f"Where a worker has less than {whole_bytes(parameters):,} bytes of memory"
    return f"{when}, the model goes from file to file: ONNX files, times and scores are only of what still fits memory."


def opened_bytes(file: int, table: int) -> int:
    """Return the bytes of a process that opens a checkpoint and predicts: stock code copies its weights, torchao its table."""
    return PROCESS_BYTES + 2 * file + 4 * table
