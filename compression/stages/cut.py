"""One cut: another stock model that computes as the one before did, its integers simulated where they were."""

from collections.abc import Callable
from dataclasses import replace

from transformers import PreTrainedModel

from compression import families, numerics
from compression.batches import Encoded
from compression.evaluate import smaller
from compression.families import Kept
from compression.reconstruct import reconstruct
from compression.reconstruct_decoder import reconstruct_decoder
from compression.simulating import simulate
from compression.stages.scores import CALIBRATION_BATCH
from compression.state import State


def cut(state: State, model: PreTrainedModel, kept: Kept, calibration: Encoded | None = None) -> PreTrainedModel:
    """Build the smaller model of what is kept; with calibration rows its weights are solved anew on all of them.

    Solving heeds a pause before each layer, and raises it.
    """
    device = next(model.parameters()).device

    def build(whole: PreTrainedModel) -> PreTrainedModel:
        small = families.of(whole).narrowed(whole, kept)
        if calibration is not None:
            size = smaller(CALIBRATION_BATCH, state.parts)
            batches = [batch.to(device) for batch in calibration.by_length(size)]
            solved = reconstruct_decoder if families.decodes(whole) else reconstruct
            solved(small.to(device), whole.to(device), kept, batches, state.heed)
        return small

    return remade(state, model, build)


def remade(state: State, model: PreTrainedModel, build: Callable[[PreTrainedModel], PreTrainedModel]) -> PreTrainedModel:
    """Build a model of another one on the CPU, and have it compute where that one did, and with simulated integers if it did.

    Ranges of a static scheme are calibrated anew: they are of what enters layers that have changed. `state` keeps its model.
    """
    device = next(model.parameters()).device
    other = build(model.cpu()).to(device).eval()
    if numerics.is_simulated(model):
        simulate(replace(state, model=other))
    model.to(device)
    return other
