"""One cut: another stock model that computes as the one before did, its integers simulated where they were."""

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
    """Build the smaller model of a plan; with calibration rows its weights are solved anew on all of them.

    Solving checks for a pause before each layer, and raises it.
    """
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
    """Build a model of another one on the CPU, and have it compute where that one did, and with simulated integers if it did.

    Ranges of a static scheme are calibrated anew: they are of what enters layers that have changed. `state` keeps its model.
    """
    device = next(model.parameters()).device
    other = build(model.cpu()).to(device).eval()
    if is_simulated(model):
        insert_quantization(replace(context, model=other))
    model.to(device)
    return other
