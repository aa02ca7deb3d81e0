"""Applies a pruning plan: builds a smaller stock model and simulates quantization in it as before."""

from collections.abc import Callable
from dataclasses import replace

from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages.insert_quantization import insert_quantization
from compression.modalities.base import Examples
from compression.modalities.sampling import micro_batch_size
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.pruning.reconstruction import reconstruct
from compression.pruning.scores import CALIBRATION_BATCH
from compression.quantization.fake_quantize import is_simulated


def apply_cut(
    context: StageContext, model: PreTrainedModel, plan: PruningPlan, calibration: Examples | None = None
) -> PreTrainedModel:
    """Build the smaller model of a plan; given calibration rows, solve its weights on all of them. Raises Pause."""
    device = next(model.parameters()).device

    def build(whole: PreTrainedModel) -> PreTrainedModel:
        small = adapter_of(whole).narrowed(whole, plan)
        if calibration is not None:
            size = micro_batch_size(CALIBRATION_BATCH, context.parts)
            batches = [batch.to(device) for batch in calibration.by_length(size)]
            reconstruct(small.to(device), whole.to(device), plan, batches, context.check_pause)
        return small

    return remade(context, model, build)


def remade(
    context: StageContext, model: PreTrainedModel, build: Callable[[PreTrainedModel], PreTrainedModel]
) -> PreTrainedModel:
    """Build a model from another one on the CPU, then give it that one's device and quantization, with newly calibrated ranges,
    since the inputs of the layers have changed. `context` keeps its model.
    """
    device = next(model.parameters()).device
    other = build(model.cpu()).to(device).eval()
    if is_simulated(model):
        insert_quantization(replace(context, model=other))
    model.to(device)
    return other
