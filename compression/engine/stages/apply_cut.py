"""Applies a pruning plan: builds a smaller stock model and simulates quantization in it as before."""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages.insert_quantization import insert_quantization
from compression.modalities.base import Examples
from compression.modalities.sampling import first_tokens, micro_batch_size, shuffled_rows
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.models.tensors import Tensors
from compression.pruning.error_tables import compensated
from compression.pruning.layer_inputs import Batches
from compression.pruning.reconstruction import reconstruct
from compression.pruning.scores import CALIBRATION_BATCH, ImportanceScores
from compression.quantization.fake_quantize import is_simulated


def apply_cut(
    context: StageContext, model: PreTrainedModel, plan: PruningPlan, calibration: Examples | None = None
) -> PreTrainedModel:
    """Build the smaller model of a plan; given calibration rows, solve its weights on all of them. Raises Pause."""
    device, family = next(model.parameters()).device, adapter_of(model)

    def build(whole: PreTrainedModel) -> PreTrainedModel:
        small = family.narrowed(whole, plan)
        if family.has_statistics(small):
            _refresh(context, small.to(device))
        if calibration is not None:
            size = micro_batch_size(CALIBRATION_BATCH, context.parts)
            batches = [batch.to(device) for batch in calibration.by_length(size)]
            reconstruct(small.to(device), whole.to(device), plan, batches, context.check_pause)
        return small

    return remade(context, model, build, plan.eight_bits)


def calibration_batches(context: StageContext, parts: int | None = None) -> Batches:
    """Return what begins a pass over the calibration rows, as many as the recipe says and memory for systems of equations.

    parts: micro-batches of a batch; None: as many as memory asks for.
    """
    settings = context.recipe.prune
    assert settings is not None, "only a recipe that prunes asks"  # noqa: S101
    rows = first_tokens(shuffled_rows(context.rows["train"], settings.calibration_rows, context.recipe.train.seed))
    return partial(rows.by_length, micro_batch_size(CALIBRATION_BATCH, context.parts if parts is None else parts))


def updated_cut(context: StageContext, model: PreTrainedModel, plan: PruningPlan) -> PreTrainedModel:
    """Build the smaller model of a plan; the weights that read a group take up what its lost units said. Raises Pause.

    The stage has got the error tables before, and with them what layers read.
    """
    assert context.layer_inputs is not None, "error tables come first"  # noqa: S101
    with compensated(model, plan, context.layer_inputs, context.check_pause):
        return apply_cut(context, model, plan)


def units_after(scores: ImportanceScores, plan: PruningPlan) -> Tensors:
    """Return the scores of the units that a cut leaves, for the next one. Each is a tensor of its own, as files need it."""
    return {name: each.clone() for name, each in scores.after(plan).tensors().items()}


def _refresh(context: StageContext, model: PreTrainedModel) -> None:
    """Estimate a cut model's running statistics anew on rows of train, if the recipe says so."""
    settings = context.recipe.prune
    if settings is not None and settings.refresh_statistics:
        rows = shuffled_rows(context.rows["train"], settings.calibration_rows, context.recipe.train.seed)
        batches = rows.by_length(micro_batch_size(CALIBRATION_BATCH, context.parts))
        device = next(model.parameters()).device
        adapter_of(model).refresh(model, (batch.to(device).inputs for batch in batches))


def remade(
    context: StageContext,
    model: PreTrainedModel,
    build: Callable[[PreTrainedModel], PreTrainedModel],
    eight_bits: Collection[int] = (),
) -> PreTrainedModel:
    """Build a model from another one on the CPU, then give it that one's device and quantization, with newly calibrated ranges,
    since the inputs of the layers have changed. `context` keeps its model. eight_bits: as of `insert_quantization`.
    """
    device = next(model.parameters()).device
    other = build(model.cpu()).to(device).eval()
    if is_simulated(model):
        insert_quantization(replace(context, model=other), eight_bits)
    model.to(device)
    return other
